//! Logging in, and the question for TLS.

use std::time::Duration;

use replication::{ConnectConfig, Connection, Error, Secret, SslMode};

use crate::server::*;

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f];

async fn connect(mut steps: Vec<Step>, change: impl FnOnce(&mut ConnectConfig)) -> Result<Connection, Error> {
    steps.push(Step::Hold);
    let server = Server::play(steps).await;
    let mut config = server.config.clone();
    change(&mut config);
    Connection::connect(&config).await
}

fn welcome() -> Step {
    send(&[authentication(0, &[]), parameter("server_version", "15.3"), ready()])
}

#[tokio::test]
async fn a_server_without_tls_is_enough_for_prefer_alone() {
    let script = || vec![expect(SSL_REQUEST), Step::Send(b"N".to_vec()), expect("user\0rep\0"), welcome()];
    let preferred = connect(script(), |config| config.tls.mode = SslMode::Prefer).await.unwrap();
    assert_eq!(preferred.server_version(), 150_003);
    let required = connect(script(), |config| config.tls.mode = SslMode::Require).await;
    assert!(matches!(required, Err(Error::Tls { .. })));
}

/// CVE-2021-23222: bytes in plain text behind the `S` would be taken for encrypted ones.
#[tokio::test]
async fn plain_text_behind_the_consent_to_tls_is_refused() {
    let stuffed = vec![expect(SSL_REQUEST), Step::Send([&b"S"[..], &authentication(0, &[])].concat())];
    let error = connect(stuffed, |config| config.tls.mode = SslMode::Require).await.err().unwrap();
    let text = std::error::Error::source(&error).unwrap().to_string();
    assert!(text.contains("plain text after agreeing to TLS"), "{text}");
    // Arriving later, they are no TLS.
    let later = vec![
        expect(SSL_REQUEST),
        Step::Send(b"S".to_vec()),
        Step::Pause,
        send(&[authentication(0, &[]), ready()]),
    ];
    let error = connect(later, |config| config.tls.mode = SslMode::Require).await.err().unwrap();
    assert!(matches!(error, Error::Tls { .. }), "{error}");
}

#[tokio::test]
async fn an_error_in_answer_to_the_question_for_tls_is_not_shown() {
    let script = vec![expect(SSL_REQUEST), send(&[error("FATAL", "53300", "sorry", "x")])];
    let refused = connect(script, |config| config.tls.mode = SslMode::Require).await;
    assert!(matches!(refused, Err(Error::Tls { .. })));
}

#[tokio::test]
async fn passwords_are_sent_as_asked_for() {
    let with_password = |config: &mut ConnectConfig| config.password = Some(Secret::new("secret"));
    let clear =
        vec![expect("rep\0"), send(&[authentication(3, &[])]), expect(message(b'p', b"secret\0")), welcome()];
    connect(clear, with_password).await.unwrap();
    let md5 = vec![
        expect("rep\0"),
        send(&[authentication(5, b"salt")]),
        // md5(md5("secretrep") || "salt").
        expect(message(b'p', b"md5cefecc652af62163e8ae7c138ea955f8\0")),
        welcome(),
    ];
    connect(md5, with_password).await.unwrap();
}

#[tokio::test]
async fn what_is_missing_is_said() {
    let asked = |kind: u32, body: &'static [u8]| vec![expect("rep\0"), send(&[authentication(kind, body)])];
    for (kind, body) in [(3, &b""[..]), (5, b"salt"), (10, b"SCRAM-SHA-256\0\0")] {
        let error = connect(asked(kind, body), |_| ()).await.err().unwrap();
        assert!(matches!(error, Error::Authentication { .. }), "{error}");
        assert!(error.to_string().contains("asks for a password"), "{error}");
    }
    for (kind, body) in [(7, &b""[..]), (10, b"SCRAM-SHA-512\0\0")] {
        let error = connect(asked(kind, body), |config| config.password = Some(Secret::new("x"))).await;
        assert!(matches!(error, Err(Error::Authentication { .. })));
    }
}

/// SCRAM proves the server's knowledge too. One that skips its part is an impostor.
#[tokio::test]
async fn a_server_must_finish_what_it_began() {
    let script = vec![
        expect("rep\0"),
        send(&[authentication(10, b"SCRAM-SHA-256\0\0")]),
        expect("n,,n=,r="),
        welcome(),
    ];
    let outcome = connect(script, |config| config.password = Some(Secret::new("secret"))).await;
    let error = outcome.err().unwrap();
    assert!(matches!(error, Error::Authentication { .. }), "{error}");
    assert!(!format!("{error:?}").contains("secret"));
}

#[tokio::test]
async fn refusals_are_told_apart() {
    let refused = |code: &'static str, text: &'static str, routine: &'static str| {
        vec![expect("rep\0"), send(&[error("FATAL", code, text, routine)])]
    };
    let outcome = connect(refused("28P01", "password authentication failed", "auth_failed"), |_| ()).await;
    assert!(matches!(outcome, Err(Error::Authentication { .. })));
    let line = "no pg_hba.conf entry for replication connection from host \"10.0.0.7\", user \"rep\"";
    let error = connect(refused("28000", line, "ClientAuthentication"), |_| ()).await.err().unwrap();
    assert!(error.hint().unwrap().contains("host replication rep 10.0.0.7/32"), "{error}");
    let outcome = connect(refused("42501", "must be replication role", "InitPostgres"), |_| ()).await;
    assert!(matches!(outcome, Err(Error::NotReplicationRole { .. })));
    let outcome = connect(refused("57P03", "starting up", "ProcessStartupPacket"), |_| ()).await;
    assert!(matches!(outcome, Err(Error::StartingUp { .. })));
    let outcome = connect(refused("53300", "too many", "InitProcess"), |_| ()).await;
    assert!(matches!(outcome, Err(Error::NoFreeWalSender { .. })));
}

#[tokio::test]
async fn silence_is_not_waited_for() {
    let error =
        connect(vec![], |config| config.connect_timeout = Duration::from_millis(100)).await.err().unwrap();
    assert!(matches!(error, Error::Timeout { .. }) && error.is_transient());
    let mut config = ConnectConfig::new("/nowhere", "rep");
    config.port = 1;
    assert!(matches!(Connection::connect(&config).await, Err(Error::Unreachable { .. })));
}
