//! The first words on a connection: who we are, and the proof of it.

use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use crate::config::{ConnectConfig, Secret};
use crate::error::Error;
use crate::frame::Frame;
use crate::passfile;
use crate::report::Asker;
use crate::transport::{self, Socket};
use crate::wire::Wire;

/// What the password file calls the database of a replication connection.
const REPLICATION: &str = "replication";

/// The login for physical replication.
pub(crate) struct Replication<'a> {
    pub config: &'a ConnectConfig,
}

impl transport::Login for Replication<'_> {
    type Client = Wire;

    async fn log_in(&self, socket: Socket) -> Result<Wire, Error> {
        log_in(socket, self.config).await
    }
}

async fn log_in(socket: Socket, config: &ConnectConfig) -> Result<Wire, Error> {
    let asker = Asker { user: config.user.clone(), replication: true };
    let mut wire = Wire::new(socket.stream, config.target(), asker);
    let parameters = [
        ("user", config.user.as_str()),
        ("replication", "true"),
        ("application_name", config.application_name.as_str()),
        ("client_encoding", "UTF8"),
    ];
    frontend::startup_message(parameters, wire.output()).map_err(|error| wire.protocol(error))?;
    let mut dialogue = Dialogue { config, end_point: socket.end_point, scram: Scram::Unused };
    loop {
        wire.flush().await?;
        match wire.receive().await? {
            Frame::Message(Message::AuthenticationOk) => break,
            Frame::Message(message) => dialogue.answer(message, &mut wire).await?,
            other => return Err(wire.unexpected(other, "authentication").await),
        }
    }
    dialogue.check_finished(&wire)?;
    until_ready(&mut wire).await?;
    Ok(wire)
}

async fn until_ready(wire: &mut Wire) -> Result<(), Error> {
    loop {
        match wire.receive().await? {
            // Only of use to cancel queries, which a walsender ends with its connection anyway.
            Frame::Message(Message::BackendKeyData(_)) => {}
            ready => return wire.ready(ready),
        }
    }
}

/// The proof, as far as it has got.
struct Dialogue<'a> {
    config: &'a ConnectConfig,
    end_point: Option<Vec<u8>>,
    scram: Scram,
}

enum Scram {
    Unused,
    Started(Box<ScramSha256>),
    /// The server has shown that it knows the password too.
    Verified,
}

impl Dialogue<'_> {
    async fn answer(&mut self, message: Message, wire: &mut Wire) -> Result<(), Error> {
        match message {
            Message::AuthenticationCleartextPassword => {
                let password = self.password(wire)?;
                frontend::password_message(password.expose().as_bytes(), wire.output())
                    .map_err(|error| wire.protocol(error))
            }
            Message::AuthenticationMd5Password(body) => {
                let password = self.password(wire)?;
                let hash = md5_hash(self.config.user.as_bytes(), password.expose().as_bytes(), body.salt());
                frontend::password_message(hash.as_bytes(), wire.output())
                    .map_err(|error| wire.protocol(error))
            }
            Message::AuthenticationSasl(body) => self.start_scram(&body, wire),
            Message::AuthenticationSaslContinue(body) => self.continue_scram(body.data(), wire),
            Message::AuthenticationSaslFinal(body) => self.finish_scram(body.data(), wire),
            Message::AuthenticationGss | Message::AuthenticationSspi | Message::AuthenticationKerberosV5 => {
                Err(refusal(wire, "asks for Kerberos or SSPI, which we do not speak"))
            }
            other => Err(wire.unexpected(Frame::Message(other), "authentication").await),
        }
    }

    fn password(&self, wire: &Wire) -> Result<Secret, Error> {
        passfile::password(self.config, REPLICATION).ok_or_else(|| {
            refusal(wire, "asks for a password, and neither configuration nor password file has one")
        })
    }

    /// Chooses the mechanism. Telling the server what we could have done (`unrequested`) lets it notice that somebody
    /// in between took SCRAM-SHA-256-PLUS off its offer.
    fn start_scram(&mut self, body: &AuthenticationSaslBody, wire: &mut Wire) -> Result<(), Error> {
        let offered: Vec<&str> = body.mechanisms().collect().map_err(|error| wire.protocol(error))?;
        let end_point = self.end_point.clone();
        let (mechanism, binding) = match end_point {
            Some(hash) if offered.contains(&SCRAM_SHA_256_PLUS) => {
                (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash))
            }
            Some(_) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
            None => (SCRAM_SHA_256, ChannelBinding::unsupported()),
        };
        if !offered.contains(&mechanism) {
            return Err(refusal(wire, "offers no way to log in that we know"));
        }
        let password = self.password(wire)?;
        let scram = ScramSha256::new(password.expose().as_bytes(), binding);
        frontend::sasl_initial_response(mechanism, scram.message(), wire.output())
            .map_err(|error| wire.protocol(error))?;
        self.scram = Scram::Started(Box::new(scram));
        Ok(())
    }

    fn continue_scram(&mut self, data: &[u8], wire: &mut Wire) -> Result<(), Error> {
        let Scram::Started(scram) = &mut self.scram else {
            return Err(wire.protocol("SCRAM went on before it began"));
        };
        scram.update(data).map_err(|error| wire.protocol(error))?;
        frontend::sasl_response(scram.message(), wire.output()).map_err(|error| wire.protocol(error))
    }

    fn finish_scram(&mut self, data: &[u8], wire: &Wire) -> Result<(), Error> {
        let Scram::Started(scram) = &mut self.scram else {
            return Err(wire.protocol("SCRAM ended before it began"));
        };
        let finished = scram.finish(data);
        finished.map_err(|error| {
            refusal(wire, &format!("could not prove that it knows the password: {error}"))
        })?;
        self.scram = Scram::Verified;
        Ok(())
    }

    /// A server that began SCRAM must also end it, or it has proved nothing.
    fn check_finished(&self, wire: &Wire) -> Result<(), Error> {
        match self.scram {
            Scram::Started(_) => Err(refusal(wire, "accepted us without proving that it knows the password")),
            Scram::Unused | Scram::Verified => Ok(()),
        }
    }
}

fn refusal(wire: &Wire, text: &str) -> Error {
    Error::Authentication { message: format!("{} {text}", wire.target()) }
}
