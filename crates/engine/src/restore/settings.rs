//! What tells PostgreSQL how to recover: settings, a signal file, and our plan beside the data.

use std::fs;
use std::path::Path;

use repository::Cluster;

use super::{Action, Destination, Plan, Target};
use crate::Error;
use crate::fetch::{PLAN_PATH, RecoveryPlan};

/// Settings that an earlier recovery may have left, in postgresql.auto.conf or elsewhere. PostgreSQL refuses two targets at
/// once, so all are set, those that do not apply to nothing.
const SETTINGS: [&str; 12] = [
    "restore_command",
    "recovery_end_command",
    "archive_cleanup_command",
    "recovery_target",
    "recovery_target_time",
    "recovery_target_lsn",
    "recovery_target_xid",
    "recovery_target_name",
    "recovery_target_inclusive",
    "recovery_target_timeline",
    "recovery_target_action",
    // Of the node that was copied, which uses it.
    "primary_slot_name",
];

/// Writes all of it.
pub(super) async fn write(cluster: &Cluster, plan: &Plan, destination: &Destination) -> Result<(), Error> {
    let data_dir = &destination.data_dir;
    let auto_conf = data_dir.join("postgresql.auto.conf");
    let before = match fs::read_to_string(&auto_conf) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        text => text.map_err(Error::file("read", &auto_conf))?,
    };
    write_file(&auto_conf, &with_settings(&before, &settings(plan, destination)))?;
    let signals = ["standby.signal", "recovery.signal"].map(|name| data_dir.join(name));
    let [signal, other] = if plan.standby {
        signals
    } else {
        let [standby, recovery] = signals;
        [recovery, standby]
    };
    write_file(&signal, "")?;
    // A backup of a standby has that standby's, and with both PostgreSQL would take this for a standby.
    match fs::remove_file(&other) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::file("remove", &other)(error));
        }
        _ => {}
    }
    let recovery_plan =
        RecoveryPlan::new(cluster, plan, &destination.access, destination.identity.clone()).encode()?;
    let path = data_dir.join(PLAN_PATH);
    let directory = path.parent().unwrap_or(data_dir);
    fs::create_dir_all(directory).map_err(Error::file("make", directory))?;
    write_file(&path, &recovery_plan)
}

fn write_file(path: &Path, text: &str) -> Result<(), Error> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let open = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    open.and_then(|mut file| file.write_all(text.as_bytes())).map_err(Error::file("write", path))
}

/// The settings of this recovery, by name.
fn settings(plan: &Plan, destination: &Destination) -> Vec<(&'static str, String)> {
    let fetch = format!("{} wal fetch --plan {PLAN_PATH} \"%f\" \"%p\"", destination.program);
    let mut settings: Vec<(&str, String)> = SETTINGS.iter().map(|name| (*name, String::new())).collect();
    let mut set = |name: &str, value: String| {
        if let Some(setting) = settings.iter_mut().find(|(known, _)| *known == name) {
            setting.1 = value;
        }
    };
    set("restore_command", fetch);
    set("recovery_end_command", format!("{} wal end", destination.program));
    set("recovery_target_inclusive", if plan.exclusive { "off" } else { "on" }.to_owned());
    // A standby goes wherever its cluster goes. A recovery goes where it was planned to, whatever appears meanwhile.
    let timeline = if plan.standby { "latest".to_owned() } else { plan.target_timeline.to_string() };
    set("recovery_target_timeline", timeline);
    set("recovery_target_action", plan.action.unwrap_or(Action::Pause).as_str().to_owned());
    match &plan.target {
        Target::Newest => {}
        Target::Immediate => set("recovery_target", "immediate".to_owned()),
        Target::Time(time) => {
            set("recovery_target_time", time.format("%Y-%m-%d %H:%M:%S%.6f+00").to_string())
        }
        Target::Lsn(lsn) => set("recovery_target_lsn", lsn.to_string()),
        Target::Xid(xid) => set("recovery_target_xid", xid.to_string()),
        Target::Name(name) => set("recovery_target_name", name.clone()),
    }
    // PostgreSQL takes a target that is set to nothing for a second one when it comes after the first.
    settings.sort_by_key(|(_, value)| !value.is_empty());
    settings
}

/// Takes the settings of a recovery that has ended out of a data directory, and what was fetched ahead for it.
///
/// A clone of this node has the settings too, but not the plan, and could not start with them. The server runs on with the
/// values it has read, which mean nothing to it any more.
pub fn forget(data_dir: &Path) -> Result<(), Error> {
    let prefetched = data_dir.join(crate::fetch::PREFETCH_PATH);
    match fs::remove_dir_all(&prefetched) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::file("remove", &prefetched)(error));
        }
        _ => {}
    }
    let auto_conf = data_dir.join("postgresql.auto.conf");
    let before = fs::read_to_string(&auto_conf).map_err(Error::file("read", &auto_conf))?;
    let none: Vec<(&str, String)> = SETTINGS.iter().map(|name| (*name, String::new())).collect();
    let staged = data_dir.join("postgresql.auto.conf.drydock");
    write_file(&staged, &without_settings(&before, &none))?;
    let sync = fs::File::open(&staged).and_then(|file| file.sync_all());
    sync.and_then(|()| fs::rename(&staged, &auto_conf)).map_err(Error::file("put in place", &auto_conf))
}

/// The file with these settings instead of whatever it had of them.
fn with_settings(before: &str, settings: &[(&str, String)]) -> String {
    let mut text = without_settings(before, settings);
    text.push_str(HEADING);
    text.push('\n');
    for (name, value) in settings {
        text.push_str(&format!("{name} = '{}'\n", value.replace('\\', "\\\\").replace('\'', "''")));
    }
    text
}

fn without_settings(before: &str, settings: &[(&str, String)]) -> String {
    let is_ours = |line: &str| {
        let name =
            line.trim_start().split(|c: char| c == '=' || c.is_whitespace()).next().unwrap_or_default();
        settings.iter().any(|(ours, _)| ours.eq_ignore_ascii_case(name))
    };
    let kept = before.lines().filter(|line| !is_ours(line) && *line != HEADING);
    kept.flat_map(|line| [line, "\n"]).collect()
}

const HEADING: &str = "# Written by a restore of Drydock:";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_recovery_needed_is_forgotten_when_it_ends() {
        let data_dir = tempfile::tempdir().unwrap();
        let auto_conf = data_dir.path().join("postgresql.auto.conf");
        let before = "# Do not edit this file manually!\nwork_mem = '4MB'\n";
        fs::write(&auto_conf, with_settings(before, &[("restore_command", "backupctl".into())])).unwrap();
        forget(data_dir.path()).unwrap();
        assert_eq!(fs::read_to_string(&auto_conf).unwrap(), before);
    }

    #[test]
    fn what_an_earlier_recovery_set_is_replaced() {
        let before = "# Do not edit this file manually!\nwork_mem = '4MB'\nrecovery_target_time = 'yesterday'\nrestore_command='cp'\n";
        let once = with_settings(
            before,
            &[("restore_command", "it's \\ it".into()), ("recovery_target_time", String::new())],
        );
        let expected = format!(
            "# Do not edit this file manually!\nwork_mem = '4MB'\n{HEADING}\nrestore_command = 'it''s \\\\ it'\nrecovery_target_time = ''\n"
        );
        assert_eq!(once, expected);
        assert_eq!(
            with_settings(
                &once,
                &[("restore_command", "it's \\ it".into()), ("recovery_target_time", String::new())]
            ),
            expected
        );
    }
}
