//! The service reads its settings again: what may change does, the rest is named, and what is wrong changes nothing.

use std::fs;
use std::path::Path;
use std::time::Duration;

use e2e::{World, http, wait_until};

const DONE_WITHIN: Duration = Duration::from_secs(120);
const TOKEN: &str = "0123456789abcdef0123";

fn write(file: &Path, lines: &[&str]) {
    fs::write(file, lines.join("\n") + "\n").expect("write the configuration");
}

#[test]
fn settings_change_while_it_runs() {
    let world = World::new();
    let primary = world.postgres();
    world.set("DRYDOCK_MONITOR_LISTEN", "127.0.0.1:0");
    let file = world.write_private("drydock.toml", "");
    world.set("DRYDOCK_CONFIG", file.to_str().expect("a plain path"));
    let mut service = world.start_backupd(&primary).expect(&["count only when", "stay as they are"]);
    let port = service.monitor_port();
    let expire = |token| {
        http::request(port, "POST", "/api/v1/expire", Some(token), Some("{}")).expect("an answer").status
    };
    assert_eq!(expire(TOKEN), 403, "no token is configured");
    let first = world.backup();

    // A schedule, a policy and a token, and nobody starts it again. WAL goes on meanwhile.
    let token = format!("api.token = \"{TOKEN}\"");
    let settings = [
        "retention.backups = 1",
        "verify.schedule = \"* * * * *\"",
        "backup.schedule = \"* * * * *\"",
        &token,
    ];
    write(&file, &settings);
    service.reload();
    service.wait_until_it_says(&["changed: api.token, backup.schedule, verify.schedule, retention.backups"]);
    wait_until("the schedule to be followed", DONE_WITHIN, || {
        world.backups().last().is_some_and(|newest| *newest != first)
    });
    assert_eq!(expire(TOKEN), 202);
    wait_until("the policy to be followed", DONE_WITHIN, || !world.backups().contains(&first));
    service.wait_until_it_says(&["the repository is verified"]);

    // What is wrong changes nothing, and what cannot change is named.
    write(&file, &[&settings[..], &["retention.days = \"many\""]].concat());
    service.reload();
    service.wait_until_it_says(&["the settings stay as they are", "retention.days"]);
    assert_eq!(expire(TOKEN), 202);
    write(&file, &[&settings[..], &["wal.in_flight = 3"]].concat());
    service.reload();
    service.wait_until_it_says(&["when backupd is started again: wal.in_flight"]);
    service.wait_until_durable(&primary);
    let log = service.log_text();
    assert_eq!(log.matches("session: streaming").count(), 1, "it streamed on:\n{log}");
    assert!(!log.contains(TOKEN));
    service.stop();
}
