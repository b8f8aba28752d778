//! Streaming WAL: START_REPLICATION.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use pgformat::{Lsn, TimelineId};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio::time::timeout;

use crate::connection::Connection;
use crate::copy_both::{self, Payload, StatusUpdate};
use crate::error::Error;
use crate::frame::Frame;
use crate::row::Row;

/// How long [`WalStream::finish`] waits for the server to end its side.
const FINISH_WAIT: Duration = Duration::from_secs(5);

/// A running stream of WAL.
///
/// The server ends the connection when it gets no [`StatusUpdate`] for `wal_sender_timeout` (60 s unless set), however
/// much it has to send: call [`WalStream::send_status`] from a timer, not only after WAL.
///
/// # Memory
///
/// The `Bytes` of an event are slices of the receive buffer, which is half a megabyte. It is not freed or used again
/// until all slices of it are dropped, so keeping many small ones for long pins much more than they hold. Copy what is
/// to be kept into a buffer of your own; drop the rest soon.
#[derive(Debug)]
pub struct WalStream {
    /// Leaves when the stream ends.
    connection: Option<Box<Connection>>,
    /// One side has said CopyDone, and the other will have been told; only the epilogue is still to come.
    ending: bool,
    /// Where the server's history goes on, from the epilogue.
    next: Option<(TimelineId, Lsn)>,
}

/// What happens on a stream.
#[derive(Debug)]
pub enum StreamEvent {
    /// A piece of WAL. It may begin and end anywhere; pieces of one stream follow each other without gap.
    Wal {
        /// Address of the first byte.
        start: Lsn,
        /// How far the server's WAL is.
        server_end: Lsn,
        /// The WAL.
        data: Bytes,
    },
    /// The server shows that it lives.
    Keepalive {
        /// How far the server's WAL is.
        server_end: Lsn,
        /// It wants a [`StatusUpdate`] at once, and hangs up if none comes.
        reply_requested: bool,
    },
    /// All WAL of this timeline has been sent. The stream is over.
    EndOfTimeline {
        /// The timeline that follows and where it begins. `None` when the server did not say.
        next: Option<(TimelineId, Lsn)>,
        /// The connection, ready for the next command.
        connection: Box<Connection>,
    },
}

impl WalStream {
    /// Sends the command and waits for the server's consent.
    pub(crate) async fn start(mut connection: Connection, command: &str) -> Result<WalStream, Error> {
        connection.wire.send_command(command).await?;
        let frame = connection.wire.receive().await?;
        let mut stream = WalStream { connection: Some(Box::new(connection)), ending: false, next: None };
        match frame {
            Frame::CopyBoth => {}
            // Asked for a timeline from its very end, the server streams nothing and goes straight to the epilogue.
            Frame::Message(Message::RowDescription(_)) => stream.ending = true,
            other => return Err(stream.connection()?.wire.failure(other, "a stream")),
        }
        Ok(stream)
    }

    /// The next event. Cancel safe: nothing is lost when the future is dropped, as in `select!`.
    ///
    /// After an error, and after [`StreamEvent::EndOfTimeline`], there are no more events.
    pub async fn next(&mut self) -> Result<StreamEvent, Error> {
        loop {
            let frame = self.connection()?.wire.receive().await;
            match frame.and_then(|frame| if self.ending { self.conclude(frame) } else { self.proceed(frame) })
            {
                Ok(None) => {}
                Ok(Some(event)) => return Ok(event),
                Err(error) => {
                    self.connection = None;
                    return Err(error);
                }
            }
        }
    }

    /// Tells the server how far we are. Cancel safe: an update that was cut short is completed before anything else
    /// is sent or read.
    pub async fn send_status(&mut self, status: StatusUpdate) -> Result<(), Error> {
        let wire = &mut self.connection()?.wire;
        copy_both::write_status(&status, SystemTime::now(), wire.output())?;
        wire.flush().await
    }

    /// Ends the stream politely and gives the connection back. WAL that is on its way is dropped; the server still
    /// takes the last [`StatusUpdate`] into account. Waits for five seconds at most.
    pub async fn finish(mut self) -> Result<Connection, Error> {
        let target = self.connection()?.target().to_owned();
        match timeout(FINISH_WAIT, self.end()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::Timeout { target, after: FINISH_WAIT }),
        }
    }

    async fn end(&mut self) -> Result<Connection, Error> {
        if !self.ending {
            self.say_done()?;
        }
        loop {
            if let StreamEvent::EndOfTimeline { connection, .. } = self.next().await? {
                return Ok(*connection);
            }
        }
    }

    /// A message while WAL flows.
    fn proceed(&mut self, frame: Frame) -> Result<Option<StreamEvent>, Error> {
        match frame {
            Frame::CopyData(payload) => copy_both::parse(payload).map(|payload| Some(payload.into())),
            Frame::Message(Message::CopyDone) => self.say_done().map(|()| None),
            // A server that shuts down sends the rest of its WAL, completes the command out of turn and exits.
            Frame::Message(Message::CommandComplete(_)) => {
                let target = self.connection()?.target();
                Err(Error::Shutdown { message: format!("{target} shut down after sending all of its WAL") })
            }
            other => Err(self.connection()?.wire.failure(other, "WAL")),
        }
    }

    /// A message of the epilogue: perhaps a row with the next timeline, then the end of the command.
    fn conclude(&mut self, frame: Frame) -> Result<Option<StreamEvent>, Error> {
        match frame {
            // Still on its way when we ended the stream.
            Frame::CopyData(_) | Frame::Message(Message::CopyDone) => Ok(None),
            Frame::Message(Message::RowDescription(_) | Message::CommandComplete(_)) => Ok(None),
            Frame::Message(Message::DataRow(body)) => {
                let row = Row::parse(&body)?;
                self.next = Some((row.required(0, "next_tli")?, row.required(1, "next_tli_startpos")?));
                Ok(None)
            }
            ready => {
                let mut connection = self.connection.take().ok_or_else(over)?;
                connection.wire.ready(ready)?;
                Ok(Some(StreamEvent::EndOfTimeline { next: self.next, connection }))
            }
        }
    }

    /// Queues CopyDone; it is sent before anything is read.
    fn say_done(&mut self) -> Result<(), Error> {
        frontend::copy_done(self.connection()?.wire.output());
        self.ending = true;
        Ok(())
    }

    fn connection(&mut self) -> Result<&mut Connection, Error> {
        self.connection.as_deref_mut().ok_or_else(over)
    }
}

fn over() -> Error {
    Error::Protocol("the stream is over".to_owned())
}

impl From<Payload> for StreamEvent {
    fn from(payload: Payload) -> StreamEvent {
        match payload {
            Payload::Wal { start, server_end, data } => StreamEvent::Wal { start, server_end, data },
            Payload::Keepalive { server_end, reply_requested } => {
                StreamEvent::Keepalive { server_end, reply_requested }
            }
        }
    }
}
