//! Delivering events: to a command, to a webhook, and to a dead man's switch.

use std::process::Stdio;
use std::time::Duration;

use replication::Secret;
use reqwest::{Client, Method};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Event, Kind};
use crate::Failure;
use crate::config::Live;

/// A command or a webhook that has not answered by then is given up.
const ANSWERS_WITHIN: Duration = Duration::from_secs(15);
/// How often a webhook is tried, and the pause after the first time; it doubles.
const TRIES_MAX: u32 = 4;
const PAUSE: Duration = Duration::from_secs(2);

/// Whom to tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outlets {
    /// For the shell: gets the event as JSON on standard input.
    pub command: Option<String>,
    /// A URL that the event is posted to as JSON.
    pub webhook: Option<Secret>,
    /// A URL that is asked for after each base backup.
    pub ping: Option<Secret>,
}

impl Outlets {
    /// Whether nobody is to be told.
    pub fn is_empty(&self) -> bool {
        self.command.is_none() && self.webhook.is_none() && self.ping.is_none()
    }
}

/// Delivers what comes until `shutdown`. What waits then is not delivered.
pub(crate) async fn deliver(settings: Live, mut events: mpsc::Receiver<Event>, shutdown: CancellationToken) {
    // Most have nobody to tell, and need no certificates for that.
    let mut ready: Option<Client> = None;
    loop {
        let event = tokio::select! {
            () = shutdown.cancelled() => return,
            event = events.recv() => event,
        };
        let Some(event) = event else { return };
        let outlets = settings.now().events.outlets.clone();
        if outlets.is_empty() {
            continue;
        }
        let client = match ready.take().map_or_else(client, Ok) {
            Ok(client) => ready.insert(client),
            Err(error) => {
                tracing::error!("events cannot be delivered: {}", engine::chain(&error));
                continue;
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = all(&outlets, client, &event) => {}
        }
    }
}

fn client() -> Result<Client, Failure> {
    let broken = |source| Failure::System { action: "prepare TLS", source };
    let tls = store::http::tls_config(None).map_err(|error| broken(std::io::Error::other(error)))?;
    Client::builder()
        .tls_backend_preconfigured(tls)
        .retry(reqwest::retry::never())
        .timeout(ANSWERS_WITHIN)
        .build()
        .map_err(|error| broken(std::io::Error::other(error)))
}

async fn all(outlets: &Outlets, client: &Client, event: &Event) {
    let body = serde_json::to_string(event).unwrap_or_default();
    if let Some(command) = &outlets.command
        && let Err(problem) = run(command, &body).await
    {
        tracing::warn!(event = ?event.event, "the command for events has failed: {problem}");
    }
    if let Some(webhook) = &outlets.webhook {
        ask(client, Method::POST, webhook, Some(body), "the webhook").await;
    }
    if let Some(ping) = outlets.ping.as_ref().filter(|_| event.event == Kind::BackupFinished) {
        ask(client, Method::GET, ping, None, "the URL that is told of backups").await;
    }
}

/// Tries a few times. What is logged does not have the URL, which may hold a token.
async fn ask(client: &Client, method: Method, url: &Secret, body: Option<String>, what: &str) {
    let mut pause = PAUSE;
    for attempt in 1..=TRIES_MAX {
        let mut request = client.request(method.clone(), url.expose());
        if let Some(body) = &body {
            request = request.header("content-type", "application/json").body(body.clone());
        }
        let problem = match request.send().await {
            Ok(answer) if answer.status().is_success() => return,
            Ok(answer) => format!("it answers {}", answer.status()),
            Err(error) => error.without_url().to_string(),
        };
        if attempt == TRIES_MAX {
            tracing::warn!(attempt, "{what} cannot be reached, and is given up: {problem}");
            return;
        }
        tracing::info!(attempt, "{what} cannot be reached, and is tried again: {problem}");
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

async fn run(command: &str, body: &str) -> Result<(), String> {
    let mut child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| error.to_string())?;
    let work = async {
        if let Some(mut stdin) = child.stdin.take() {
            // A command that does not read what it is told may still have done what it should.
            drop(stdin.write_all(body.as_bytes()).await);
        }
        child.wait().await
    };
    match timeout(ANSWERS_WITHIN, work).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(status.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_elapsed) => {
            Err(format!("it was still running after {} s, and was ended", ANSWERS_WITHIN.as_secs()))
        }
    }
}
