//! Servers that send anything at all.

use std::time::Duration;

use pgformat::{Lsn, TimelineId};
use proptest::prelude::*;
use replication::{BaseBackupOptions, Error};
use tokio::runtime::Builder;

use crate::server::*;

#[tokio::test]
async fn claimed_lengths_cost_nothing() {
    for claim in [[b'd', 0x7f, 0xff, 0xff, 0xff], [b'D', 0x00, 0x20, 0x00, 0x00], [b'd', 0, 0, 0, 1]] {
        let script = vec![expect("SHOW a\0"), Step::Send(claim.to_vec()), Step::Hold];
        let (_server, mut connection) = Server::logged_in("15.3", script).await;
        assert!(matches!(connection.show("a").await, Err(Error::Protocol(_))));
    }
}

/// Messages of all kinds in any order, their bodies sometimes sensible.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let tags = b"RSTDCZEWHdcKNnGAIt".to_vec();
    let one = (prop::sample::select(tags), prop::collection::vec(any::<u8>(), 0..40))
        .prop_map(|(tag, body)| message(tag, &body));
    let sensible = prop::sample::select(vec![
        copy_both(),
        copy_out(),
        copy_done(),
        ready(),
        description(),
        complete("x"),
        row(&[Some("0/100"), Some("1")]),
        row(&[Some("1"), None, None]),
        copy_data("nbase.tar\0\0"),
        copy_data("m"),
    ]);
    prop::collection::vec(prop_oneof![one, sensible], 0..12).prop_map(|messages| messages.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a server answers, every call returns. What it returns is its affair.
    #[test]
    fn no_answer_makes_us_panic_or_hang(answer in messages(), version in prop::sample::select(vec!["14.1", "17.2"])) {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let played = runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(20), async {
                let script = || vec![expect("\0"), Step::Send(answer.clone())];
                let (_server, mut connection) = Server::logged_in(version, script()).await;
                drop(connection.identify_system().await);

                let (_server, connection) = Server::logged_in(version, script()).await;
                if let Ok(mut stream) = connection.start_replication(None, TimelineId::FIRST, Lsn(1)).await {
                    while stream.next().await.is_ok() {}
                }

                let (_server, connection) = Server::logged_in(version, script()).await;
                let options = BaseBackupOptions {
                    label: String::new(),
                    fast_checkpoint: false,
                    manifest: false,
                    max_rate_kb: None,
                    progress: false,
                };
                if let Ok(mut backup) = connection.base_backup(&options).await {
                    while let Ok(Some(_)) = backup.next().await {}
                }
            })
            .await
        });
        prop_assert!(played.is_ok(), "hangs");
    }
}
