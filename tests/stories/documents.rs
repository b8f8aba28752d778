//! The documents keep their word: what they tell people to type works, and they name everything there is.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use e2e::{Kind, Output, Postgres, World};
use serde_json::Value;

/// Seconds for all commands of a document. A loop in one that waits for something must not wait for ever.
const SHELL_SECONDS: &str = "280";

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

/// The fenced blocks of this language, each with the line it starts on.
fn blocks(text: &str, language: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut lines = (1usize..).zip(text.lines());
    while let Some((_, line)) = lines.next() {
        let Some(found) = line.strip_prefix("```").filter(|found| !found.is_empty()) else { continue };
        let (numbers, body): (Vec<usize>, Vec<&str>) =
            lines.by_ref().take_while(|(_, line)| *line != "```").unzip();
        if found == language {
            blocks.push((numbers[0], body.join("\n") + "\n"));
        }
    }
    blocks
}

// ---- the commands

/// A server that is reached as documents assume, by `psql` alone, and that other servers started from its copies listen
/// beside.
fn server(world: &World) -> Postgres {
    let server = world.postgres();
    server.configure(&[
        &format!("port = {}", server.port()),
        &format!("unix_socket_directories = '{}'", server.sockets().display()),
    ]);
    server
}

/// Runs a document's `sh` blocks one after the other in one shell, as a person would type them.
#[track_caller]
fn run_commands(world: &World, server: &Postgres, name: &str, variables: &[(&str, &str)]) -> Output {
    // What runs in the background ends with the shell: all of it is one process group, made by `timeout`.
    let mut script = "set -eu\ntrap '' TERM\nat=start\n\
        trap 'code=$?; [ $code -eq 0 ] || echo \"the commands at $at failed\" >&2; kill -TERM 0; exit $code' EXIT\n"
        .to_owned();
    for (line, body) in blocks(&document(name), "sh") {
        script.push_str(&format!("at={name}:{line}\nset -x\n{body}{{ set +x; }} 2>/dev/null\n"));
    }
    let script = world.write_private("commands", &script);
    let psql = server.tool("psql");
    let programs = Path::new(psql.get_program()).parent().expect("PostgreSQL's programs are in a directory");
    let path = format!("{}:{}:/usr/bin:/bin", world.path().display(), programs.display());
    let mut shell = world.program("timeout", "coreutils");
    shell.args(["--kill-after=5", SHELL_SECONDS, "sh"]).arg(script).env("PATH", path);
    shell
        .env("PGHOST", server.sockets())
        .env("PGPORT", server.port().to_string())
        .env("PGDATA", server.data());
    shell.envs([("PGUSER", "postgres"), ("PGDATABASE", "postgres")]).envs(variables.iter().copied());
    world.run(&mut shell).success()
}

/// Stops the servers that a document started and did not stop, whatever came of it.
struct StopAtEnd<'world>(&'world World, Vec<PathBuf>);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        let StopAtEnd(world, directories) = self;
        for data in directories.iter().filter(|data| data.join("postmaster.pid").exists()) {
            let mut stop = world.adopt(data).tool("pg_ctl");
            world.run(stop.arg("-D").arg(data).args(["-m", "immediate", "-w", "stop"]));
        }
    }
}

#[test]
fn the_commands_of_the_readme() {
    let world = World::new();
    let server = server(&world);
    let _stop = StopAtEnd(&world, vec![world.path().join("restored")]);
    // The document makes the role and lets it in.
    server.sql("drop role drydock; create table t as select generate_series(1, 1000) n");
    server.hba(&["local all all trust"]);
    server.reload();
    run_commands(&world, &server, "README.md", &[]);
    assert!(world.path().join("backups/main/cluster.json").exists());
    assert!(world.path().join("restored/global/pg_control").exists());
    assert_eq!(server.value("show synchronous_standby_names"), "drydock");
}

#[test]
fn the_commands_of_recovery() {
    let world = World::new();
    let server = server(&world);
    let data = server.data().to_owned();
    let new = data.with_extension("new");
    let _stop = StopAtEnd(&world, vec![data.clone(), new, world.path().join("drill")]);
    let service = world.start_backupd(&server).expect_anything();
    // The harder case: commits wait for a service that will not be there for the restored server at first.
    server.sql("alter system set synchronous_standby_names = 'drydock'");
    server.reload();
    server.sql("create table orders as select generate_series(1, 1000) n");
    world.backup();
    server.sql("insert into orders select generate_series(1, 500)");
    std::thread::sleep(std::time::Duration::from_millis(50));
    let moment = server.now();
    std::thread::sleep(std::time::Duration::from_millis(50));
    let first = server.value("select pg_walfile_name(pg_current_wal_lsn())");
    server.sql("drop table orders");
    server.switch_segment();
    server.sql("create table later (n int)");
    let last = server.value("select pg_walfile_name(pg_current_wal_lsn())");
    service.wait_until_durable(&server);
    let copy = copy_of_the_repository(&world);

    let repository = format!("file://{}", world.objects().path("").display());
    let variables = [
        ("DRYDOCK_REPOSITORY", repository.as_str()),
        ("DRYDOCK_CLUSTER", World::CLUSTER),
        ("REPLICATION_HOST", "127.0.0.1"),
        ("REPLICATION_USER", e2e::ROLE.0),
        ("REPLICATION_PASSWORD", e2e::ROLE.1),
        ("MOMENT", &moment),
        ("segments", &format!("{first} {last}")),
        ("REPOSITORY", copy.to_str().expect("a plain path")),
        ("CLUSTER", World::CLUSTER),
    ];
    let said = run_commands(&world, &server, "RECOVERY.md", &variables).stdout;

    assert!(said.contains("; rels: base/"), "the drop is found in the WAL:\n{said}");
    // Another server has taken the place of the one that was started here, port and all.
    assert_eq!(server.value("select count(*) from orders"), "1500");
    assert!(server.try_sql("select * from later").is_err(), "what came after the moment is not there");
    assert_eq!(server.timeline().get(), 2);
    assert!(data.with_extension("broken").join("PG_VERSION").exists());
    service.wait_until_durable(&server);
    assert_eq!(world.backups().len(), 2);
    // A standby made from it starts, as nothing of the recovery is left in its settings.
    drop(server.standby("standby"));
    service.stop();
}

fn copy_of_the_repository(world: &World) -> PathBuf {
    let copy = world.fresh("copy");
    let mut cp = world.program("cp", "coreutils");
    world.run(cp.arg("-r").arg(world.objects().path("")).arg(&copy)).success();
    copy
}

// ---- the repository's format

/// A repository with two backups, whole segments, and pieces of one that is not.
fn repository() -> (World, Postgres) {
    let world = World::new();
    let server = world.postgres();
    let service = world.start_backupd(&server);
    server.sql("create table t (n int)");
    world.backup();
    world.backup();
    for n in 1..=3 {
        server.sql(&format!("insert into t select generate_series(1, {n} * 1000)"));
        service.wait_until_durable(&server);
    }
    service.stop();
    (world, server)
}

#[test]
fn the_format_names_every_key() {
    let (world, _server) = repository();
    let text = document("docs/format.md");
    let [(_, keys)] = &blocks(&text, "keys")[..] else { panic!("one block of keys") };
    let patterns: Vec<&str> = keys.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let mut unused: BTreeSet<&str> = patterns.iter().copied().collect();
    let is_hidden = |key: &str| key.split('/').any(|part| part.starts_with('.'));
    for key in world.objects().keys().into_iter().filter(|key| !is_hidden(key)) {
        let found: Vec<&str> = patterns.iter().copied().filter(|pattern| fits(pattern, &key)).collect();
        let [pattern] = found[..] else { panic!("{key} should be one of those, and is {found:?}: {keys}") };
        unused.remove(pattern);
    }
    // What it takes a promotion, a loss or a moment to see.
    let rare = |pattern: &str| {
        ["history", "holes", "expired", "pin", "state", "keys"].iter().any(|word| pattern.contains(word))
    };
    assert!(unused.iter().all(|pattern| rare(pattern)), "{unused:?} are not there");
}

/// Whether a key is of a pattern such as `<cluster>/wal/<tli>.history`.
fn fits(pattern: &str, key: &str) -> bool {
    let Some((literal, rest)) = pattern.split_once('<') else { return pattern == key };
    let (placeholder, pattern) = rest.split_once('>').expect("a placeholder ends");
    let Some(key) = key.strip_prefix(literal) else { return false };
    let is_hexadecimal = |c: char| c.is_ascii_digit() || ('A'..='F').contains(&c);
    let taken = match placeholder {
        "tli" | "log" => key.chars().take_while(|c| is_hexadecimal(*c)).count() == 8,
        "from" | "to" => key.chars().take_while(|c| is_hexadecimal(*c)).count() == 16,
        "segment" => key.chars().take_while(|c| is_hexadecimal(*c)).count() == 24,
        "backup" => key.find('Z') == Some("20260102T030405".len()),
        _ => true,
    };
    let end = key.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(key.len());
    taken && end > 0 && fits(pattern, &key[end..])
}

#[test]
fn pieces_make_a_segment_by_the_commands_of_the_format() {
    let (world, server) = repository();
    let piece = world.objects().path(&world.objects().last(Kind::Piece));
    let pieces = piece.parent().expect("pieces lie in a directory");
    let segment = pieces.file_name().and_then(|name| name.to_str()).expect("a plain name");
    let out = world.directory("out").join(segment);
    let variables = [("pieces", pieces.to_str().unwrap()), ("out", out.to_str().unwrap())];
    run_commands(&world, &server, "docs/format.md", &variables);
    let fetched = world.directory("fetched").join(segment);
    world.backupctl(&["wal", "fetch", segment, fetched.to_str().unwrap()]).success();
    assert!(fs::read(out).unwrap() == fs::read(fetched).unwrap());
}

// ---- what there is

#[test]
fn every_field_of_the_json_output_is_described() {
    let (world, server) = repository();
    world.point_at(&server);
    let described = document("docs/json.md");
    let mut missing = BTreeSet::new();
    for verb in [
        &["list"][..],
        &["show", "latest"],
        &["status"],
        &["status", "--copies"],
        &["copy", "/tmp/nowhere/to/be/found", "--dry-run"],
        &["verify"],
        &["verify", "--read"],
        &["verify", "--restore"],
        &["wal", "list"],
        &["expire", "--dry-run"],
        &["pin", "latest"],
        &["unpin", "latest"],
        &["restore", "--data-dir", "/nowhere/to/be/found", "--dry-run"],
    ] {
        fields(&world.json(verb), &mut |field| {
            if !described.contains(&format!("`{field}`")) {
                missing.insert(format!("{} in {}", field, verb.join(" ")));
            }
        });
    }
    // The service does not run, which `check` finds; its output is whole all the same.
    fields(&world.backupctl(&["--output", "json", "check"]).json(), &mut |field| {
        if !described.contains(&format!("`{field}`")) {
            missing.insert(format!("{field} in check"));
        }
    });
    assert!(missing.is_empty(), "docs/json.md does not describe {missing:#?}");
}

fn fields(value: &Value, see: &mut dyn FnMut(&str)) {
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| {
            see(name);
            fields(value, see);
        }),
        Value::Array(items) => items.iter().for_each(|item| fields(item, see)),
        _ => {}
    }
}

#[test]
fn every_setting_and_exit_code_is_in_the_readme() {
    let world = World::new();
    let readme = document("README.md");
    let help = world.backupctl(&["--help"]).success().stdout;
    let (settings, codes) = help
        .split_once("Settings,")
        .and_then(|(_, rest)| rest.split_once("Exit codes:"))
        .expect("the help lists settings and exit codes");
    let mut names = 0;
    // A line for each setting: its key, then its variables, which nothing else in the help looks like.
    for line in settings.lines() {
        let Some((key, variables)) = line.trim().split_once(' ') else { continue };
        let variables: Vec<&str> = variables.trim().split(", ").collect();
        if variables.iter().all(|name| name.chars().all(|c| c.is_ascii_uppercase() || c == '_')) {
            for name in variables.iter().chain([&key]) {
                assert!(readme.contains(&format!("`{name}`")), "README.md should name {name}");
                names += 1;
            }
        }
    }
    assert!(names > 60, "only {names} names were found in the help:\n{help}");
    let mut codes_seen = 0;
    for (code, meaning) in codes.lines().filter_map(|line| line.trim().split_once("  ")) {
        if code.parse::<u8>().is_ok() {
            // The help is wrapped to the width of a terminal, so the row begins with what is on the first line.
            let row = format!("| {code} | {}", meaning.trim());
            assert!(readme.contains(&row), "README.md should have the row {row}");
            codes_seen += 1;
        }
    }
    assert_eq!(codes_seen, 12);
}

#[test]
fn links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut documents: Vec<PathBuf> = ["README.md", "RECOVERY.md", "ARCHITECTURE.md", "CONTRIBUTING.md"]
        .iter()
        .map(|name| root.join(name))
        .collect();
    for directory in ["docs", "docs/adr"] {
        let entries = fs::read_dir(root.join(directory)).unwrap().map(|entry| entry.unwrap().path());
        documents.extend(entries.filter(|path| path.extension().is_some_and(|ending| ending == "md")));
    }
    for path in documents {
        let text = fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            if file.starts_with("https:") || file.ends_with(".svg") {
                continue;
            }
            let target = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            assert!(target.exists(), "{link} in {} leads nowhere", path.display());
            let has = || anchors(&fs::read_to_string(&target).expect("read a document")).contains(anchor);
            assert!(anchor.is_empty() || has(), "{link} in {}", path.display());
        }
    }
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings =
        text.lines().filter_map(|line| line.strip_prefix('#')).map(|line| line.trim_start_matches('#'));
    let anchor = |heading: &str| {
        let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    headings.map(anchor).collect()
}
