//! Receives a base backup, throws it away, and says how fast it came:
//!
//! ```text
//! cargo run --release -p replication --example receive -- HOST PORT USER [SSLMODE]
//! ```
//!
//! The password is taken from `~/.pgpass` or `$PGPASSWORD`.

use std::env;
use std::error::Error;
use std::path::Path;
use std::time::Instant;

use replication::{BackupEvent, BaseBackupOptions, ConnectConfig, Connection, Secret};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [host, port, user, rest @ ..] = &arguments[..] else {
        return Err("expected HOST PORT USER [SSLMODE]".into());
    };
    let mut config = ConnectConfig::new(host.as_str(), user);
    config.port = port.parse()?;
    config.password = env::var("PGPASSWORD").ok().map(Secret::new);
    config.passfile = env::var_os("HOME").map(|home| Path::new(&home).join(".pgpass"));
    if let Some(mode) = rest.first() {
        config.tls.mode = mode.parse()?;
    }

    let connection = Connection::connect(&config).await?;
    let options = BaseBackupOptions {
        label: "receive".to_owned(),
        fast_checkpoint: true,
        manifest: true,
        max_rate_kb: None,
        progress: false,
    };
    let mut backup = connection.base_backup(&options).await?;
    let start = Instant::now();
    let (mut bytes, mut messages) = (0u64, 0u64);
    while let Some(event) = backup.next().await? {
        if let BackupEvent::Data(data) | BackupEvent::ManifestData(data) = &event {
            bytes += data.len() as u64;
            messages += 1;
        }
    }
    let (seconds, mib) = (start.elapsed().as_secs_f64(), bytes as f64 / f64::from(1 << 20));
    println!("{mib:.0} MiB in {messages} messages and {seconds:.2} s: {:.0} MiB/s", mib / seconds);
    Ok(())
}
