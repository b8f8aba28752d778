//! This process, as others on the same machine can recognise it.

use std::fs;

use engine::lease::Claimant;

/// Where Linux says which start of the machine this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// We, as one who wants the lease.
pub(crate) fn claimant() -> Claimant {
    let process = this().unwrap_or_default();
    Claimant { name: crate::runner(), process, has_ended, clock: crate::now }
}

/// `machine start/process namespace/process id/when it began`. Nothing else ever has the same.
fn this() -> Option<String> {
    let id = std::process::id();
    Some(format!("{}/{id}/{}", place()?, began(id)?))
}

/// Whether a runner, as [`crate::runner`] names it, is known to have ended: a process of this host that is not there any more, or
/// one whose id is ours now.
pub(crate) fn runner_has_ended(runner: &str) -> bool {
    let mine = crate::runner();
    let (Some((host, id)), Some((my_host, my_id))) = (runner.rsplit_once('/'), mine.rsplit_once('/')) else {
        return false;
    };
    host == my_host && (id == my_id || id.parse().is_ok_and(|id| began(id).is_none()))
}

/// Where process ids mean the same as to us.
fn place() -> Option<String> {
    let boot = fs::read_to_string(BOOT_ID).ok()?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{}/{}", boot.trim(), namespace.display()))
}

/// When a process began, in ticks since the machine started; `None` when it is not there.
fn began(id: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name in parentheses may hold anything. Fields count from behind it, where the state is the third.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let is_dead = matches!(fields.first(), Some(&("Z" | "X")));
    fields.get(19).filter(|_| !is_dead).map(|began| (*began).to_owned())
}

/// Whether the process is known to have ended: it ran here, and is not there any more.
fn has_ended(process: &str) -> bool {
    let known = || {
        let (place_and_id, when) = process.rsplit_once('/')?;
        let (was_at, id) = place_and_id.rsplit_once('/')?;
        if was_at != place()? {
            return None;
        }
        Some(began(id.parse().ok()?).as_deref() != Some(when))
    };
    known().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_has_ended_is_known_to_have() {
        let mine = this().unwrap();
        assert!(!has_ended(&mine), "{mine}");
        let (rest, _) = mine.rsplit_once('/').unwrap();
        assert!(has_ended(&format!("{rest}/1")), "another one with our id");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let id = child.id();
        let childs = format!("{}/{id}/{}", place().unwrap(), began(id).unwrap_or_else(|| "0".to_owned()));
        child.wait().unwrap();
        assert!(has_ended(&childs), "{childs}");
        assert!(!has_ended("elsewhere/pid:[1]/7/1"), "of another machine nobody knows");
        assert!(!has_ended(""));
    }

    #[test]
    fn a_runner_that_has_ended_is_known_to_have() {
        let host = crate::runner().rsplit_once('/').unwrap().0.to_owned();
        assert!(runner_has_ended(&crate::runner()), "we are not running yet");
        assert!(!runner_has_ended(&format!("{host}/1")), "the first process is always there");
        assert!(runner_has_ended(&format!("{host}/{}", u32::MAX)));
        assert!(!runner_has_ended(&format!("another-{host}/{}", u32::MAX)));
        assert!(!runner_has_ended("nonsense"));
    }
}
