//! What programs ask and have done over HTTP; every answer is as `docs/openapi.json` describes it.

use std::collections::BTreeSet;
use std::time::Duration;

use e2e::{Answer, Loss, Return, Service, Shape, World, http, wait_until};
use serde_json::{Value, json};

const DONE_WITHIN: Duration = Duration::from_secs(120);
const TOKEN: &str = "0123456789abcdef0123";

/// A service to ask, and the description that its answers are compared with.
struct Client {
    port: u16,
    token: Option<&'static str>,
    description: Value,
    /// What was asked, as the description names it.
    asked: BTreeSet<String>,
}

impl Client {
    fn of(service: &Service, token: Option<&'static str>) -> Client {
        let port = service.monitor_port();
        let description = http::request(port, "GET", "/api/v1/openapi.json", token, None).expect("an answer");
        let description = description.json();
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
        let file: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        assert_eq!(description, file);
        Client { port, token, description, asked: BTreeSet::new() }
    }

    /// Asks, and compares the answer with what is described for this path, method and status.
    #[track_caller]
    fn ask(&mut self, method: &str, path: &str, document: Option<&Value>) -> (u16, Value) {
        let text = document.map(Value::to_string);
        let answer = http::request(self.port, method, path, self.token, text.as_deref());
        let Answer { status, body } = answer.expect("an answer");
        let answer: Value =
            serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"));
        let plain = path.split('?').next().unwrap();
        let described = match plain.strip_prefix("/api/v1/operations/") {
            Some(_) => "/api/v1/operations/{id}",
            None => plain,
        };
        let operation = &self.description["paths"][described][method.to_lowercase()];
        assert!(operation.is_object(), "{method} {described} is not described");
        let schema = &operation["responses"][status.to_string()]["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{method} {described} is not described to answer {status}: {answer}");
        let whole = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "components": self.description["components"], "allOf": [schema],
        });
        let validator = jsonschema::options().should_validate_formats(true).build(&whole).expect("a schema");
        let wrong: Vec<String> = validator
            .iter_errors(&answer)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(wrong.is_empty(), "{method} {path} is not as described: {wrong:#?}\n{answer:#}");
        self.asked.insert(format!("{} {described}", method.to_lowercase()));
        (status, answer)
    }

    #[track_caller]
    fn get(&mut self, path: &str) -> Value {
        let (status, answer) = self.ask("GET", path, None);
        assert_eq!(status, 200, "{path}: {answer:#}");
        answer
    }

    /// Has something done, and waits until it is.
    #[track_caller]
    fn done(&mut self, path: &str, document: &Value) -> Value {
        let (status, begun) = self.ask("POST", path, Some(document));
        assert_eq!(status, 202, "{path}: {begun:#}");
        let mut operation = begun;
        wait_until(&format!("{path} to be done"), DONE_WITHIN, || {
            operation = self.get(&format!("/api/v1/operations/{}", operation["id"]));
            operation["state"] != "running"
        });
        assert_eq!(operation["state"], "done", "{operation:#}");
        operation["result"].clone()
    }
}

#[test]
fn everything_is_as_described() {
    let world = World::new();
    let mut cluster = world.cluster(&Shape { standbys: 1, ..Shape::default() });
    world.set("DRYDOCK_MONITOR_LISTEN", "127.0.0.1:0");
    world.set("DRYDOCK_API_TOKEN", TOKEN);
    world.set("DRYDOCK_RETENTION_BACKUPS", "1");
    let service = world.start_backupd_for(&cluster).expect_anything();
    let mut client = Client::of(&service, Some(TOKEN));
    client.get("/api/v1/overview");

    // Two backups, the first of which goes when what has expired is removed.
    cluster.primary().sql("create table t (n int); insert into t values (1)");
    let first = client.done("/api/v1/backups", &json!({ "note": "over HTTP" }));
    assert_eq!(first["note"], "over HTTP");
    let second = client.done("/api/v1/backups", &json!({}));
    let plan = client.get("/api/v1/expire");
    let fate = |plan: &Value, id: &Value| {
        plan["backups"].as_array().unwrap().iter().find(|backup| backup["id"] == *id).unwrap()["keep"].clone()
    };
    assert_eq!((fate(&plan, &first["id"]), fate(&plan, &second["id"])), (json!(false), json!(true)));
    let removed = client.done("/api/v1/expire", &json!({}));
    assert_eq!(removed["backups"], 1, "{removed:#}");
    assert_eq!(world.backups(), [second["id"].as_str().unwrap()]);
    let pinned = client.done("/api/v1/backups", &json!({ "pin": true, "note": "before the release" }));
    let report = client.done("/api/v1/verify", &json!({ "read": true, "share": 100 }));
    assert_eq!(report["findings"], json!([]), "{report:#}");

    // On a second timeline, which is followed.
    cluster.primary().sql("insert into t values (2)");
    let moment = cluster.primary().now();
    cluster.primary().sql("insert into t values (3)");
    cluster.wait_until_durable();
    cluster.lose_primary(Loss::Kill9);
    cluster.promote(cluster.standbys()[0]);
    cluster.gather(Return::Clone);
    cluster.primary().sql("insert into t values (4)");
    wait_until("the new primary to be streamed from", DONE_WITHIN, || {
        cluster.engine_streams_from(cluster.primary_node())
    });
    cluster.wait_until_durable();
    wait_until("the pin, the verification and the fork to be shown", DONE_WITHIN, || {
        let figures = client.get("/api/v1/overview")["figures"].clone();
        let backups = figures["backups"].as_array().cloned().unwrap_or_default();
        backups.iter().any(|backup| backup["id"] == pinned["id"] && backup["pin"].is_object())
            && figures["verified"]["findings"] == 0
            && figures["forks"].as_array().is_some_and(|forks| forks.len() == 1)
    });
    let overview = client.get("/api/v1/overview");
    assert_eq!((&overview["ready"], &overview["timeline"]), (&json!(true), &json!(2)), "{overview:#}");
    let status = client.get("/api/v1/status");
    assert_eq!(status["findings"], json!([]), "{status:#}");
    assert_eq!(client.get("/api/v1/backups")["backups"].as_array().unwrap().len(), 2);

    // The plan's command makes the restore that was asked about.
    let planned = client.get(&format!("/api/v1/restore-plan?target_time={moment}"));
    let command = planned["command"].as_str().unwrap().to_owned();
    let node = world.restore_as_told(&command);
    assert_eq!(node.start().value("select string_agg(n::text, ',' order by n) from t"), "1,2");

    for (path, status, says) in [
        ("/api/v1/restore-plan?target_time=2001-01-01T00:00:00Z", 422, "lies before the end of backup"),
        ("/api/v1/restore-plan?target_time=teatime", 400, "target_time"),
        ("/api/v1/restore-plan?target_lsn=x", 400, "target_lsn"),
        ("/api/v1/restore-plan?target_xid=5&target_immediate=true", 400, "only one target"),
        ("/api/v1/restore-plan?surprise=1", 400, "surprise"),
        ("/api/v1/operations/99999", 404, "no such operation"),
    ] {
        let (found, answer) = client.ask("GET", path, None);
        assert_eq!(found, status, "{path}: {answer}");
        assert!(answer["error"].as_str().is_some_and(|error| error.contains(says)), "{path}: {answer}");
    }
    for (path, document) in [
        ("/api/v1/backups", json!({ "surprise": 1 })),
        ("/api/v1/verify", json!({ "read": true, "share": 101 })),
    ] {
        assert_eq!(client.ask("POST", path, Some(&document)).0, 400, "{path}");
    }
    assert_eq!(client.get("/api/v1/operations").as_array().unwrap().len(), 5);
    client.get("/api/v1/openapi.json");
    let paths = client.description["paths"].as_object().unwrap().iter();
    let described: BTreeSet<String> = paths
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(move |method| format!("{method} {path}"))
        })
        .collect();
    assert_eq!(client.asked, described, "every path that is described is asked");

    client.token = Some("not this one, surely");
    assert_eq!(client.ask("GET", "/api/v1/overview", None).0, 401);
    client.token = None;
    assert_eq!(client.ask("POST", "/api/v1/expire", Some(&json!({}))).0, 401);
    let log = service.log_text();
    assert!(!log.contains(TOKEN), "the token is in the log");
    service.stop();
}

#[test]
fn without_a_token_one_may_read_and_nothing_is_done() {
    let world = World::new();
    let primary = world.postgres();
    world.set("DRYDOCK_MONITOR_LISTEN", "127.0.0.1:0");
    let service = world.start_backupd(&primary);
    let mut client = Client::of(&service, None);
    client.get("/api/v1/overview");
    for path in ["/api/v1/backups", "/api/v1/expire", "/api/v1/verify"] {
        let (status, answer) = client.ask("POST", path, Some(&json!({})));
        assert_eq!(status, 403, "{answer}");
        assert!(answer["hint"].as_str().is_some_and(|hint| hint.contains("api.token")), "{answer}");
    }
    assert!(world.backups().is_empty());
    service.stop();
}

/// A backup of somebody else counts, and one that is asked for twice is taken once.
#[test]
fn one_backup_at_a_time() {
    let world = World::new();
    let primary = world.postgres();
    primary.pgbench_tables(20);
    world.set("DRYDOCK_MONITOR_LISTEN", "127.0.0.1:0");
    world.set("DRYDOCK_API_TOKEN", TOKEN);
    world.set("DRYDOCK_BACKUP_MAX_RATE", "20MB");
    let service = world.start_backupd(&primary);
    let mut client = Client::of(&service, Some(TOKEN));
    let (status, first) = client.ask("POST", "/api/v1/backups", Some(&json!({})));
    assert_eq!(status, 202, "{first}");
    let (status, second) = client.ask("POST", "/api/v1/backups", Some(&json!({})));
    assert_eq!(status, 409, "{second}");
    // Who does not ask the service is told as well, once the first has a name.
    wait_until("the backup to say that it runs", DONE_WITHIN, || {
        let status = world.backupctl(&["--output", "json", "status"]);
        status.json()["running_backups"].as_array().is_some_and(|running| !running.is_empty())
    });
    world.backupctl(&["backup"]).fails(11, &["being taken already", "status"]);
    wait_until("the first to be done", DONE_WITHIN, || {
        client.get(&format!("/api/v1/operations/{}", first["id"]))["state"] == "done"
    });
    let progress = client.get(&format!("/api/v1/operations/{}", first["id"]))["progress"].clone();
    assert!(progress["bytes"].as_u64().is_some_and(|bytes| bytes > 100 << 20), "{progress}");
    assert_eq!(world.backups().len(), 1);
    service.stop();
}
