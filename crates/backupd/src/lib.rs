//! The service `backupd`, and what it shares with `backupctl`: one configuration, one way to fail, one list of exit
//! codes.

pub mod config;
pub mod exit;
mod failure;
mod guard;
pub mod logging;
pub mod open;
pub mod service;
pub mod stop;

use chrono::{DateTime, Utc};
use engine::backup::BackupConfig;

pub use crate::exit::Exit;
pub use crate::failure::Failure;

/// What time it is: the one place that looks.
pub fn now() -> DateTime<Utc> {
    Utc::now()
}

/// What a backup needs to know, from the settings.
pub fn backup_config(settings: &config::Settings) -> Result<BackupConfig, Failure> {
    Ok(BackupConfig {
        connect: settings.server()?.replication.clone(),
        sql: settings.server()?.sql.clone(),
        level: settings.level,
        workers: settings.workers,
        role_files: settings.role_files.clone(),
        wal_wait: settings.wal_wait,
        max_rate_kb: settings.max_rate_kb,
        dead_after: settings.dead_after,
        runner: runner(),
        clock: now,
    })
}

/// `host/process id`, so that a person finds who runs a backup.
fn runner() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = if name.trim().is_empty() { "unknown" } else { name.trim() };
    format!("{name}/{}", std::process::id())
}
