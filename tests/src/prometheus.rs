//! A real Prometheus, which asks the service every second and judges by the alerts that Drydock ships.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::person::Person;
use crate::postgres::{free_port, tail};
use crate::process::Process;
use crate::wait::{wait_for, wait_until};
use crate::{World, http, tools};

const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// The repository is looked at once a minute.
const FIRES_WITHIN: Duration = Duration::from_secs(150);

/// A server of Prometheus, killed when dropped.
pub struct Prometheus {
    port: u16,
    log: std::path::PathBuf,
    _process: Process,
}

impl Prometheus {
    /// Asks the service at `target` for its metrics. The alerts wait for nothing, and `limits` replace what is in them.
    #[track_caller]
    pub fn start(world: &World, target: u16, limits: &[(&str, &str)]) -> Prometheus {
        let program = tools::other("prometheus", "prometheus");
        let home = world.directory("prometheus");
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../monitoring");
        let read =
            |name: &str| fs::read_to_string(format!("{shipped}/{name}")).expect("read what is shipped");
        let mut rules: String = read("drydock.rules.yml")
            .lines()
            .filter(|line| !line.trim_start().starts_with("for: "))
            .map(|line| line.to_owned() + "\n")
            .collect();
        for (shipped, here) in limits {
            assert!(rules.contains(shipped), "{shipped:?} is in no alert");
            rules = rules.replace(shipped, here);
        }
        let asks = read("prometheus.yml").replace("backup:8080", &format!("127.0.0.1:{target}"));
        fs::write(home.join("drydock.rules.yml"), rules).expect("write the alerts");
        fs::write(home.join("prometheus.yml"), asks.replace("15s", "1s")).expect("write whom to ask");
        let port = free_port();
        let log = home.join("prometheus.log");
        let mut command = Person::unprivileged().command(&program, &home);
        command.args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=warn"]);
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let mut process = Process::spawn_logged("prometheus", &mut command, &log);
        wait_until("Prometheus to be ready", STARTS_WITHIN, || {
            assert!(process.exited().is_none(), "Prometheus has ended:\n{}", tail(&log));
            http::get(port, "/-/ready").is_some_and(|answer| answer.status == 200)
        });
        Prometheus { port, log, _process: process }
    }

    /// The names of the alerts that fire now.
    #[track_caller]
    pub fn firing(&self) -> Vec<String> {
        let answer = http::get(self.port, "/api/v1/alerts").expect("an answer").json();
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        let fires = |alert: &Value| alert["state"] == "firing";
        let name = |alert: Value| alert["labels"]["alertname"].as_str().map(str::to_owned);
        alerts.into_iter().filter(fires).filter_map(name).collect()
    }

    /// Waits until all of these fire.
    #[track_caller]
    pub fn wait_until_fires(&self, alerts: &[&str]) {
        let mut firing = Vec::new();
        let what = format!("{alerts:?} to fire:\n{}", tail(&self.log));
        wait_for(&what, FIRES_WITHIN, || {
            firing = self.firing();
            alerts.iter().all(|alert| firing.iter().any(|one| one == alert)).then_some(())
        });
    }

    /// Waits until none of these fires.
    #[track_caller]
    pub fn wait_until_silent(&self, alerts: &[&str]) {
        wait_until(&format!("{alerts:?} to be silent"), FIRES_WITHIN, || {
            !self.firing().iter().any(|one| alerts.contains(&one.as_str()))
        });
    }
}
