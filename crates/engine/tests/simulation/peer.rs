//! The server's side of one connection: bytes of the protocol, as PostgreSQL's documentation has them.

use std::io;

use bytes::{Buf, BufMut, BytesMut};
use pgformat::{Lsn, TimelineId};
use store::fault::Dice;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep, sleep_until};

use super::script::{SYSTEM_IDENTIFIER, TIMELINE, segment_size};
use super::server::{SLOT, SLOW_COMMAND, Server};

/// As walsender's MAX_SEND_SIZE.
const SEND_BYTES_MAX: u64 = 128 << 10;

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client closed it, or died.
    ClientGone,
    /// We closed it.
    Broken,
}

/// A message of the client's after the start-up: its tag and what it holds.
type Message = (u8, BytesMut);

pub struct Peer {
    server: Server,
    number: u64,
    dice: Dice,
    reader: ReadHalf<DuplexStream>,
    writer: WriteHalf<DuplexStream>,
    input: BytesMut,
    output: BytesMut,
}

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Ended {
        Ended::ClientGone
    }
}

impl Peer {
    pub fn new(server: Server, number: u64, dice: Dice, stream: DuplexStream) -> Peer {
        let (reader, writer) = tokio::io::split(stream);
        Peer { server, number, dice, reader, writer, input: BytesMut::new(), output: BytesMut::new() }
    }

    pub async fn serve(&mut self) -> Ended {
        match self.converse().await {
            Ok(()) => Ended::Broken,
            Err(ended) => ended,
        }
    }

    async fn converse(&mut self) -> Result<(), Ended> {
        if !self.start_up().await? {
            return Ok(());
        }
        loop {
            let (tag, body) = self.message().await?;
            match tag {
                b'Q' => {
                    let text = String::from_utf8_lossy(&body[..body.len() - 1]).into_owned();
                    self.pause().await?;
                    let slow = self.dice.chance(self.server.0.manners.slow_commands);
                    if slow && !self.server.state().healed {
                        sleep(self.dice.between(&SLOW_COMMAND)).await;
                    }
                    self.command(&text).await?;
                }
                b'X' => return Ok(()),
                other => panic!("the client sent '{}'", other.escape_ascii()),
            }
        }
    }

    async fn start_up(&mut self) -> Result<bool, Ended> {
        let length = loop {
            if let Some(length) = self.input.first_chunk::<4>() {
                let length = u32::from_be_bytes(*length) as usize;
                if self.input.len() >= length {
                    break length;
                }
            }
            self.fill().await?;
        };
        let packet = self.input.split_to(length);
        let replication = packet.windows(16).any(|window| window == b"replication\0true");
        self.pause().await?;
        if !replication {
            self.error("FATAL", "28000", "no pg_hba.conf entry for host", "ClientAuthentication");
            self.send().await?;
            return Ok(false);
        }
        self.put(b'R', |body| body.put_u32(0));
        self.put(b'S', |body| body.put_slice(b"server_version\x0015.4\0"));
        self.put(b'K', |body| body.put_u64(1));
        self.ready();
        self.send().await?;
        Ok(true)
    }

    async fn command(&mut self, text: &str) -> Result<(), Ended> {
        let flushed = self.server.flushed().to_string();
        let (timeline, size) = (TIMELINE.to_string(), segment_size().bytes() >> 20);
        let words: Vec<&str> = text.split(' ').collect();
        match words.as_slice() {
            ["IDENTIFY_SYSTEM"] => {
                let identifier = SYSTEM_IDENTIFIER.to_string();
                self.row(
                    &["systemid", "timeline", "xlogpos", "dbname"],
                    &[Some(&identifier), Some(&timeline), Some(&flushed), None],
                );
            }
            ["SHOW", name] => {
                let names = if self.server.0.manners.synchronous { SLOT } else { "" };
                let value = match *name {
                    "wal_segment_size" => format!("{size}MB"),
                    "block_size" => "8192".to_owned(),
                    "synchronous_standby_names" => names.to_owned(),
                    "data_checksums" => "on".to_owned(),
                    other => panic!("SHOW {other}"),
                };
                self.row(&[name], &[Some(&value)]);
            }
            ["READ_REPLICATION_SLOT", _] => {
                let slot = self.server.state().slot.map(|restart| restart.to_string());
                let kind = slot.as_ref().map(|_| "physical");
                let timeline = slot.as_ref().map(|_| timeline.as_str());
                self.row(&["slot_type", "restart_lsn", "restart_tli"], &[kind, slot.as_deref(), timeline]);
            }
            ["CREATE_REPLICATION_SLOT", name, "PHYSICAL", "(RESERVE_WAL)"] => {
                if self.create_slot() {
                    let columns = ["slot_name", "consistent_point", "snapshot_name", "output_plugin"];
                    self.row(&columns, &[Some(name.trim_matches('"')), Some("0/0"), None, None]);
                } else {
                    let text = "replication slot \"drydock\" already exists";
                    self.error("ERROR", "42710", text, "ReplicationSlotCreate");
                    self.ready();
                }
            }
            ["DROP_REPLICATION_SLOT", _] => {
                let mut state = self.server.state();
                state.seen.slots_dropped += 1;
                state.slot = None;
                drop(state);
                self.complete("DROP_REPLICATION_SLOT");
            }
            ["START_REPLICATION", "SLOT", _, "PHYSICAL", start, "TIMELINE", asked] => {
                let asked: TimelineId = asked.parse().unwrap();
                return self.start_streaming(start.parse().unwrap(), asked).await;
            }
            _ => panic!("the client sent {text}"),
        }
        self.send().await
    }

    fn create_slot(&mut self) -> bool {
        let flushed = self.server.flushed();
        let back = self.dice.below(100_000);
        let mut state = self.server.state();
        if state.slot.is_some() {
            return false;
        }
        // The redo position of the last checkpoint, which lies somewhere behind what is flushed.
        let back = back.min(flushed.since(state.removed));
        let restart = Lsn(flushed.0 - back);
        state.slot = Some(restart);
        state.base.get_or_insert(segment_size().floor(restart));
        state.seen.slots_made += 1;
        true
    }

    async fn start_streaming(&mut self, start: Lsn, timeline: TimelineId) -> Result<(), Ended> {
        assert_eq!(timeline, TIMELINE);
        let refusal = {
            let flushed = self.server.flushed();
            let mut state = self.server.state();
            if state.slot.is_none() {
                Some((
                    "42704",
                    "replication slot \"drydock\" does not exist".to_owned(),
                    "ReplicationSlotAcquire",
                ))
            } else if state.holder.is_some_and(|holder| holder != self.number) {
                let text = "replication slot \"drydock\" is active for PID 4711".to_owned();
                Some(("55006", text, "ReplicationSlotAcquire"))
            } else if start > flushed {
                let text = format!(
                    "requested starting point {start} is ahead of the WAL flush position of this server {flushed}"
                );
                Some(("XX000", text, "StartReplication"))
            } else {
                state.holder = Some(self.number);
                state.seen.streams += 1;
                None
            }
        };
        if let Some((code, text, routine)) = refusal {
            self.error("ERROR", code, &text, routine);
            self.ready();
            return self.send().await;
        }
        self.put(b'W', |body| body.put_slice(&[0, 0, 0]));
        self.send().await?;
        self.stream(start).await
    }

    async fn stream(&mut self, start: Lsn) -> Result<(), Ended> {
        let shared = self.server.0.clone();
        let timeout = shared.manners.wal_sender_timeout;
        let mut flushed = shared.flushed.subscribe();
        let mut sent = start;
        let (mut last_reply, mut pinged) = (Instant::now(), false);
        let mut not_before = Instant::now();
        loop {
            if self.output.is_empty() && Instant::now() >= not_before {
                let end = *flushed.borrow_and_update();
                if sent < end {
                    if !self.server.has(sent) {
                        self.server.state().seen.removed_asked_for += 1;
                        shared.trace.note(|| format!("asked for {sent}, which is gone"));
                        let text = "requested WAL segment has already been removed";
                        self.error("ERROR", "58P01", text, "WalSndSegmentOpen");
                        self.send().await?;
                        return Err(Ended::Broken);
                    }
                    sent = self.put_wal(sent, end);
                    not_before = self.trouble()?.unwrap_or(not_before);
                }
            }
            let deadline = last_reply + if pinged { timeout } else { timeout / 2 };
            let waits = Instant::now() < not_before;
            tokio::select! {
                biased;
                read = self.reader.read_buf(&mut self.input) => {
                    if read? == 0 {
                        return Err(Ended::ClientGone);
                    }
                    while let Some((tag, body)) = self.parse() {
                        (last_reply, pinged) = (Instant::now(), false);
                        self.reply(tag, body, sent);
                    }
                }
                written = self.writer.write(&self.output), if !self.output.is_empty() => {
                    self.output.advance(written?);
                }
                Ok(()) = flushed.changed(), if self.output.is_empty() && !waits => {}
                () = sleep_until(not_before), if waits => {}
                () = sleep_until(deadline) => {
                    if pinged {
                        self.server.state().seen.timed_out += 1;
                        shared.trace.note(|| "wal_sender_timeout".to_owned());
                        return Err(Ended::Broken);
                    }
                    pinged = true;
                    self.put_keepalive(sent, true);
                }
            }
        }
    }

    fn put_wal(&mut self, from: Lsn, end: Lsn) -> Lsn {
        let (keepalive, asks) = (self.dice.chance(0.1), self.dice.chance(0.5));
        let to = from.advance((1 + self.dice.below(SEND_BYTES_MAX)).min(end.since(from)));
        let server = self.server.clone();
        let data = server.0.script.slice(from, to);
        self.server.state().seen.sent_bytes += data.len() as u64;
        self.put(b'd', |body| {
            body.put_u8(b'w');
            body.put_u64(from.0);
            body.put_u64(end.0);
            body.put_i64(0);
            body.put_slice(data);
        });
        if keepalive {
            self.put_keepalive(to, asks);
        }
        to
    }

    fn put_keepalive(&mut self, end: Lsn, reply: bool) {
        self.put(b'd', |body| {
            body.put_u8(b'k');
            body.put_u64(end.0);
            body.put_i64(0);
            body.put_u8(u8::from(reply));
        });
    }

    fn reply(&mut self, tag: u8, mut body: BytesMut, sent: Lsn) {
        assert_eq!((tag, body.get_u8()), (b'd', b'r'), "only status updates are expected");
        let (written, flushed) = (Lsn(body.get_u64()), Lsn(body.get_u64()));
        let (_applied, _clock, reply) = (body.get_u64(), body.get_i64(), body.get_u8());
        self.server.acknowledged(written, flushed);
        if reply != 0 {
            self.put_keepalive(sent, false);
        }
    }

    async fn pause(&mut self) -> Result<(), Ended> {
        if let Some(until) = self.trouble()? {
            sleep_until(until).await;
        }
        Ok(())
    }

    /// The connection breaks, or rests until some time, or nothing of the kind.
    fn trouble(&mut self) -> Result<Option<Instant>, Ended> {
        let manners = &self.server.0.manners;
        let (breaks, pauses) = (self.dice.chance(manners.breaks), self.dice.chance(manners.pause));
        let pause = self.dice.between(&manners.pause_for);
        let mut state = self.server.state();
        if state.healed {
            return Ok(None);
        }
        if breaks {
            state.seen.broken += 1;
            return Err(Ended::Broken);
        }
        Ok(pauses.then(|| Instant::now() + pause))
    }

    fn put(&mut self, tag: u8, body: impl FnOnce(&mut BytesMut)) {
        self.output.put_u8(tag);
        let at = self.output.len();
        self.output.put_u32(0);
        body(&mut self.output);
        let length = u32::try_from(self.output.len() - at).unwrap();
        self.output[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }

    /// A result set of one row, and the end of the command.
    fn row(&mut self, columns: &[&str], values: &[Option<&str>]) {
        self.put(b'T', |body| {
            body.put_i16(i16::try_from(columns.len()).unwrap());
            for column in columns {
                body.put_slice(column.as_bytes());
                body.put_u8(0);
                // No table, no column of it, type text, any length, no modifier, as text.
                body.put_u32(0);
                body.put_i16(0);
                body.put_u32(25);
                body.put_i16(-1);
                body.put_i32(-1);
                body.put_i16(0);
            }
        });
        self.put(b'D', |body| {
            body.put_i16(i16::try_from(values.len()).unwrap());
            for value in values {
                match value {
                    None => body.put_i32(-1),
                    Some(text) => {
                        body.put_i32(i32::try_from(text.len()).unwrap());
                        body.put_slice(text.as_bytes());
                    }
                }
            }
        });
        self.complete("SELECT");
    }

    fn complete(&mut self, tag: &str) {
        self.put(b'C', |body| {
            body.put_slice(tag.as_bytes());
            body.put_u8(0);
        });
        self.ready();
    }

    fn ready(&mut self) {
        self.put(b'Z', |body| body.put_u8(b'I'));
    }

    fn error(&mut self, severity: &str, code: &str, text: &str, routine: &str) {
        self.put(b'E', |body| {
            for (field, value) in
                [(b'S', severity), (b'V', severity), (b'C', code), (b'M', text), (b'R', routine)]
            {
                body.put_u8(field);
                body.put_slice(value.as_bytes());
                body.put_u8(0);
            }
            body.put_u8(0);
        });
    }

    async fn send(&mut self) -> Result<(), Ended> {
        self.writer.write_all(&self.output).await?;
        self.output.clear();
        Ok(())
    }

    async fn fill(&mut self) -> Result<(), Ended> {
        match self.reader.read_buf(&mut self.input).await? {
            0 => Err(Ended::ClientGone),
            _ => Ok(()),
        }
    }

    async fn message(&mut self) -> Result<Message, Ended> {
        loop {
            if let Some(message) = self.parse() {
                return Ok(message);
            }
            self.fill().await?;
        }
    }

    fn parse(&mut self) -> Option<Message> {
        let (tag, length) = (*self.input.first()?, self.input.get(1..5)?);
        let length = u32::from_be_bytes(length.try_into().unwrap()) as usize;
        if self.input.len() <= length {
            return None;
        }
        let mut message = self.input.split_to(1 + length);
        message.advance(5);
        Some((tag, message))
    }
}
