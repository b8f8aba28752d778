//! The service `backupd`, and what it shares with `backupctl`: one configuration, one way to fail, one list of exit
//! codes.

mod api;
pub mod config;
mod copies;
pub mod events;
pub mod exit;
mod failure;
mod guard;
mod lazy;
pub mod logging;
mod monitor;
pub mod open;
mod page;
mod process;
pub mod schedule;
pub mod serve;
pub mod service;
pub mod source;
pub mod stop;
mod systemd;
pub mod target_time;
mod tidy;
pub mod view;

use chrono::{DateTime, Utc};
use engine::backup::BackupConfig;

pub use crate::copies::Copies;
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
pub fn runner() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = if name.trim().is_empty() { "unknown" } else { name.trim() };
    format!("{name}/{}", std::process::id())
}

/// Room in the file system that holds the repository. A directory that cannot be asked is found out about elsewhere.
pub fn space(directory: &std::path::Path) -> Option<engine::check::Space> {
    let found = rustix::fs::statvfs(directory).ok()?;
    Some(engine::check::Space {
        free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
        total_bytes: found.f_blocks.saturating_mul(found.f_frsize),
    })
}
