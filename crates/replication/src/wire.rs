//! Messages over a socket: what every command is built from.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::error::Error;
use crate::frame::{self, Frame};
use crate::report::{Asker, Report};
use crate::row::Row;
use crate::transport::{self, Stream};

/// Room that is made for one read of the socket, in bytes.
const READ_BYTES: usize = 512 << 10;

/// A read is not tried with less room than this, in bytes: half-empty reads cost more calls than fresh buffers.
const READ_BYTES_MIN: usize = 128 << 10;

/// In bulk, a read that brought less than this means that we are faster than the server, in bytes.
const BULK_READ_BYTES: usize = 64 << 10;

/// How long to wait then for more to come. The server writes 8 kB at a time and would wake us for each; that costs both
/// sides more than the copying. A socket's buffer, some 200 kB at least, takes longer to fill, so nothing is lost by it.
const BULK_PAUSE: Duration = Duration::from_micros(200);

/// Rows accepted for one command. The longest answer has one row for each tablespace.
const ROWS_MAX: usize = 1 << 16;

/// Parameters a server may report; PostgreSQL reports about fifteen.
const PARAMETERS_MAX: usize = 256;

/// A logged-in connection, seen as messages.
pub(crate) struct Wire {
    stream: Box<dyn Stream>,
    input: BytesMut,
    output: BytesMut,
    parameters: HashMap<String, String>,
    target: String,
    asker: Asker,
    /// Much data is coming: reads are made to be large.
    bulk: bool,
    /// No command is under way. A command whose future was dropped leaves answers behind that the next one would
    /// take for its own; this catches it.
    idle: bool,
}

impl Wire {
    pub fn new(stream: Box<dyn Stream>, target: String, asker: Asker) -> Wire {
        let (input, output, parameters) = (BytesMut::new(), BytesMut::new(), HashMap::new());
        Wire { stream, input, output, parameters, target, asker, bulk: false, idle: false }
    }

    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// The next message, with notices and parameter changes already dealt with. An error of the server's is a
    /// [`Message::ErrorResponse`] here, because what follows it depends on the command.
    ///
    /// Cancel safe: what was read stays in the buffer.
    pub async fn receive(&mut self) -> Result<Frame, Error> {
        loop {
            match frame::parse(&mut self.input)? {
                None => self.fill().await?,
                Some(Frame::Message(Message::NoticeResponse(body))) => {
                    let notice = Report::parse(body.fields());
                    tracing::debug!(
                        target = self.target,
                        code = notice.code,
                        message = notice.message,
                        "notice"
                    );
                }
                Some(Frame::Message(Message::ParameterStatus(body))) => {
                    let text =
                        |result: io::Result<&str>| result.map(str::to_owned).map_err(|e| self.protocol(e));
                    let (name, value) = (text(body.name())?, text(body.value())?);
                    if self.parameters.len() < PARAMETERS_MAX {
                        self.parameters.insert(name, value);
                    }
                }
                Some(frame) => return Ok(frame),
            }
        }
    }

    /// Reads what there is, after sending what is still to be sent.
    async fn fill(&mut self) -> Result<(), Error> {
        self.flush().await?;
        if self.input.capacity() - self.input.len() < READ_BYTES_MIN {
            self.input.reserve(READ_BYTES);
        }
        match self.stream.read_buf(&mut self.input).await {
            Ok(0) => {
                Err(self
                    .lost(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")))
            }
            Ok(read) => {
                if self.bulk && read < BULK_READ_BYTES {
                    // Not the runtime's timer: it is too coarse, and waiting for it would be woken by the socket.
                    std::thread::sleep(BULK_PAUSE);
                }
                Ok(())
            }
            Err(error) => Err(self.lost(error)),
        }
    }

    /// From now on much data comes.
    pub fn expect_bulk(&mut self) {
        self.bulk = true;
    }

    /// Where messages to the server are put; [`Wire::flush`] sends them.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Sends all of the output. Cancel safe: what was not sent stays queued, and is sent before anything is read.
    pub async fn flush(&mut self) -> Result<(), Error> {
        if self.output.is_empty() {
            return Ok(());
        }
        while !self.output.is_empty() {
            let sent = self.stream.write(&self.output).await.map_err(|error| self.lost(error))?;
            if sent == 0 {
                return Err(self.lost(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(sent);
        }
        self.stream.flush().await.map_err(|error| self.lost(error))
    }

    /// Starts a command.
    pub async fn send_command(&mut self, command: &str) -> Result<(), Error> {
        if !self.idle {
            let text = "a command that was cancelled is still under way on this connection; make a new one";
            return Err(Error::Protocol(text.to_owned()));
        }
        frontend::query(command, &mut self.output).map_err(|error| Error::Protocol(error.to_string()))?;
        self.idle = false;
        self.flush().await
    }

    /// Runs a command that answers with at most one result set.
    pub async fn rows(&mut self, command: &str) -> Result<Vec<Row>, Error> {
        self.send_command(command).await?;
        let rows = self.result_set().await?;
        self.until_ready().await?;
        Ok(rows)
    }

    /// Reads one result set, up to its CommandComplete.
    pub async fn result_set(&mut self) -> Result<Vec<Row>, Error> {
        let mut rows = Vec::new();
        loop {
            match self.receive().await? {
                Frame::Message(Message::RowDescription(_)) => {}
                Frame::Message(Message::DataRow(body)) if rows.len() < ROWS_MAX => {
                    rows.push(Row::parse(&body)?)
                }
                Frame::Message(Message::CommandComplete(_)) => return Ok(rows),
                other => return Err(self.unexpected(other, "a result set").await),
            }
        }
    }

    /// Reads until the server waits for a command.
    pub async fn until_ready(&mut self) -> Result<(), Error> {
        loop {
            match self.receive().await? {
                // Some commands complete twice: once for what they streamed, once for themselves.
                Frame::Message(Message::CommandComplete(_)) => {}
                ready @ Frame::Message(Message::ReadyForQuery(_)) => return self.ready(ready),
                other => return Err(self.unexpected(other, "the end of a command").await),
            }
        }
    }

    /// Takes this message as the server's word that it waits for a command.
    pub fn ready(&mut self, frame: Frame) -> Result<(), Error> {
        match frame {
            Frame::Message(Message::ReadyForQuery(_)) => {
                self.idle = true;
                Ok(())
            }
            other => Err(self.failure(other, "the end of a command")),
        }
    }

    /// The error for a message that does not belong here, which most often is the server's own error. The connection
    /// is of no use afterwards.
    pub fn failure(&self, frame: Frame, expected: &str) -> Error {
        match frame {
            Frame::Message(Message::ErrorResponse(body)) => {
                Report::parse(body.fields()).into_error(&self.asker)
            }
            other => self.protocol(format!("sent {} instead of {expected}", name(&other))),
        }
    }

    /// The same, but after an error that the server survives the connection is made ready for the next command.
    pub async fn unexpected(&mut self, frame: Frame, expected: &str) -> Error {
        let survives = match &frame {
            Frame::Message(Message::ErrorResponse(body)) => !Report::parse(body.fields()).is_fatal(),
            _ => false,
        };
        if survives {
            self.skip_to_ready().await;
        }
        self.failure(frame, expected)
    }

    /// Failing here loses nothing: the command's own error is reported, and the connection stays marked as busy.
    async fn skip_to_ready(&mut self) {
        while let Ok(frame) = self.receive().await {
            if let Frame::Message(Message::ReadyForQuery(_)) = frame {
                self.idle = true;
                return;
            }
        }
    }

    /// Says goodbye and makes sure that it is sent.
    pub async fn terminate(&mut self) -> Result<(), Error> {
        self.idle = false;
        frontend::terminate(&mut self.output);
        self.flush().await?;
        self.stream.shutdown().await.map_err(|error| self.lost(error))
    }

    pub fn target(&self) -> &str {
        &self.target
    }

    pub fn protocol(&self, error: impl std::fmt::Display) -> Error {
        Error::Protocol(format!("{}: {error}", self.target))
    }

    fn lost(&self, source: io::Error) -> Error {
        transport::lost(self.target.clone(), source)
    }
}

/// A goodbye if it can be had at once, so that the server does not log a lost connection.
impl Drop for Wire {
    fn drop(&mut self) {
        if self.idle && self.output.is_empty() {
            frontend::terminate(&mut self.output);
            let mut context = Context::from_waker(Waker::noop());
            let sent = Pin::new(&mut self.stream).poll_write(&mut context, &self.output);
            if sent.is_ready() {
                // Nobody is left to tell if this fails.
                let _flushed = Pin::new(&mut self.stream).poll_flush(&mut context).is_ready();
            }
        }
    }
}

/// What a message is called in an error.
pub(crate) fn name(frame: &Frame) -> &'static str {
    match frame {
        Frame::CopyBoth => "CopyBothResponse",
        Frame::CopyData(_) => "CopyData",
        Frame::Message(Message::CopyDone) => "CopyDone",
        Frame::Message(Message::CopyOutResponse(_)) => "CopyOutResponse",
        Frame::Message(Message::CommandComplete(_)) => "CommandComplete",
        Frame::Message(Message::DataRow(_)) => "DataRow",
        Frame::Message(Message::RowDescription(_)) => "RowDescription",
        Frame::Message(Message::ReadyForQuery(_)) => "ReadyForQuery",
        Frame::Message(_) => "another message",
    }
}
