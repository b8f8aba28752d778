//! SQL over the same transport: `tokio-postgres`, with our addresses, timeouts, TLS, password file and errors.

use std::convert::Infallible;
use std::fmt;
use std::future::{Ready, ready};
use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, SimpleQueryMessage};

use crate::config::ConnectConfig;
use crate::error::Error;
use crate::passfile;
use crate::report::{Asker, Report};
use crate::transport::{self, Socket, Stream};

/// How long a connection may take to say goodbye after its client was dropped.
const GOODBYE_WAIT: Duration = Duration::from_secs(1);

/// A connection for SQL. Everything of [`tokio_postgres::Client`] is there; the queries in this type's own methods
/// fail with this crate's [`Error`].
pub struct SqlClient {
    client: tokio_postgres::Client,
    /// Its end is how the task that drives the connection knows that it must end too.
    _dropped_with_client: oneshot::Sender<Infallible>,
    target: String,
    asker: Asker,
}

/// Connects to the configured database.
pub async fn connect(config: &ConnectConfig) -> Result<SqlClient, Error> {
    let database = config.database.as_deref().unwrap_or(&config.user);
    let mut settings = tokio_postgres::Config::new();
    settings.user(&config.user).dbname(database).application_name(&config.application_name);
    if let Some(password) = passfile::password(config, database) {
        settings.password(password.expose());
    }
    let asker = Asker { user: config.user.clone(), replication: false };
    transport::establish(config, &Sql { settings, target: config.target(), asker }).await
}

/// The login for SQL.
struct Sql {
    settings: tokio_postgres::Config,
    target: String,
    asker: Asker,
}

impl transport::Login for Sql {
    type Client = SqlClient;

    /// The stream is encrypted, or meant to be plain, already. "Direct" TLS makes the library use what we hand it
    /// without negotiating, and still bind SCRAM to the server's certificate.
    async fn log_in(&self, socket: Socket) -> Result<SqlClient, Error> {
        let mode = if socket.encrypted { SslMode::Require } else { SslMode::Disable };
        let mut settings = self.settings.clone();
        settings.ssl_mode(mode).ssl_negotiation(SslNegotiation::Direct);
        let end_point = socket.end_point;
        let connected = settings.connect_raw(socket.stream, Encrypted { end_point }).await;
        let (client, connection) = connected.map_err(|error| convert(error, &self.target, &self.asker))?;
        let (dropped_with_client, client_dropped) = oneshot::channel();
        tokio::spawn(drive(connection, client_dropped));
        let (target, asker) = (self.target.clone(), self.asker.clone());
        Ok(SqlClient { client, _dropped_with_client: dropped_with_client, target, asker })
    }
}

/// Runs the connection until it ends, or until shortly after the client is gone: the library then says goodbye to the
/// server and ends, but would wait for a server that does not read.
async fn drive<C>(connection: C, client_dropped: oneshot::Receiver<Infallible>)
where
    C: Future<Output = Result<(), tokio_postgres::Error>>,
{
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        _ = client_dropped => timeout(GOODBYE_WAIT, connection).await.unwrap_or(Ok(())),
    };
    // The client's next query fails too, and that error has someone to handle it.
    if let Err(error) = ended {
        tracing::debug!(%error, "SQL connection ended");
    }
}

impl SqlClient {
    /// The server, as messages name it.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Runs a query.
    pub async fn query(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        self.client.query(sql, parameters).await.map_err(|error| self.convert(error))
    }

    /// Runs a query that answers with exactly one row.
    pub async fn query_one(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row, Error> {
        self.client.query_one(sql, parameters).await.map_err(|error| self.convert(error))
    }

    /// Runs a query that answers with one row or none.
    pub async fn query_opt(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, Error> {
        self.client.query_opt(sql, parameters).await.map_err(|error| self.convert(error))
    }

    /// Runs a statement and counts the rows it touched.
    pub async fn execute(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<u64, Error> {
        self.client.execute(sql, parameters).await.map_err(|error| self.convert(error))
    }

    /// Runs statements, separated by semicolons, for their effect.
    pub async fn batch_execute(&self, sql: &str) -> Result<(), Error> {
        self.client.batch_execute(sql).await.map_err(|error| self.convert(error))
    }

    /// Runs statements without parameters and takes their values as text.
    pub async fn simple_query(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>, Error> {
        self.client.simple_query(sql).await.map_err(|error| self.convert(error))
    }

    /// This crate's error for one of the library's that a method of [`tokio_postgres::Client`] gave.
    pub fn convert(&self, error: tokio_postgres::Error) -> Error {
        convert(error, &self.target, &self.asker)
    }
}

impl fmt::Debug for SqlClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqlClient({})", self.target)
    }
}

impl Deref for SqlClient {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &tokio_postgres::Client {
        &self.client
    }
}

fn convert(error: tokio_postgres::Error, target: &str, asker: &Asker) -> Error {
    if let Some(server) = error.as_db_error() {
        let report = Report {
            severity: server
                .parsed_severity()
                .map_or(server.severity().to_owned(), |severity| severity.to_string()),
            code: server.code().code().to_owned(),
            message: server.message().to_owned(),
            detail: server.detail().map(str::to_owned),
            hint: server.hint().map(str::to_owned),
            routine: server.routine().unwrap_or_default().to_owned(),
        };
        return report.into_error(asker);
    }
    let target = target.to_owned();
    if error.is_closed() {
        return Error::Lost { target, source: io::ErrorKind::ConnectionAborted.into() };
    }
    let chain = chain(&error);
    // The library has no kinds to ask for, but its words are constant.
    if chain.starts_with("authentication error") || chain.starts_with("invalid configuration: password") {
        return Error::Authentication { message: format!("{target}: {chain}") };
    }
    let source = error.into_source().and_then(|source| source.downcast::<io::Error>().ok());
    match source.filter(|_| chain.starts_with("error communicating")) {
        Some(source) => transport::lost(target, *source),
        None => Error::Protocol(format!("{target}: {chain}")),
    }
}

/// The error and its sources in one line; the library keeps the telling half in the source.
fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |source| source.source());
    sources.fold(error.to_string(), |text, source| {
        let source = source.to_string();
        if text.ends_with(&source) { text } else { format!("{text}: {source}") }
    })
}

/// A stream on which TLS has been set up, if any was wanted.
struct Encrypted {
    end_point: Option<Vec<u8>>,
}

impl<S: Stream> TlsConnect<S> for Encrypted {
    type Stream = EncryptedStream<S>;
    type Error = Infallible;
    type Future = Ready<Result<EncryptedStream<S>, Infallible>>;

    fn connect(self, stream: S) -> Self::Future {
        ready(Ok(EncryptedStream { stream, end_point: self.end_point }))
    }
}

struct EncryptedStream<S> {
    stream: S,
    end_point: Option<Vec<u8>>,
}

impl<S: Stream> TlsStream for EncryptedStream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.end_point.clone().map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl<S: Stream> AsyncRead for EncryptedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: Stream> AsyncWrite for EncryptedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
