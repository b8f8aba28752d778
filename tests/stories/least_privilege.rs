//! A role with REPLICATION and `pg_monitor` is enough for everything.

use e2e::{ROLE, World};

#[test]
fn a_role_with_replication_and_pg_monitor_does_everything() {
    let world = World::new();
    let mut primary = world.postgres();
    let rights = format!(
        "select rolsuper, rolreplication, rolcreaterole, rolcreatedb, rolbypassrls, \
           array(select b.rolname from pg_auth_members m join pg_roles b on b.oid = m.roleid where m.member = r.oid) \
         from pg_roles r where rolname = '{}'",
        ROLE.0
    );
    assert_eq!(primary.rows(&rights), [["f", "t", "f", "f", "f", "{pg_monitor}"]]);

    let service = world.start_backupd(&primary);
    primary.sql("create table secrets (n int); insert into secrets values (1)");
    let backup = world.backup();
    primary.sql("insert into secrets values (2)");
    service.wait_until_durable(&primary);
    for verb in [
        &["list"][..],
        &["show", &backup],
        &["status"],
        &["check"],
        &["verify"],
        &["verify", "--read"],
        &["wal", "list"],
    ] {
        world.backupctl(verb).success();
        world.json(verb);
    }
    service.stop();
    primary.destroy();
    assert_eq!(world.restore_newest().value("select count(*) from secrets"), "2");
}

#[test]
fn even_pg_monitor_is_not_needed_to_keep_data_safe() {
    let world = World::new();
    let mut primary = world.postgres();
    primary.sql(&format!("revoke pg_monitor from {}; create table t (n int)", ROLE.0));
    let service = world.start_backupd(&primary).expect_anything();
    world.backup();
    primary.sql("insert into t values (1)");
    service.wait_until_durable(&primary);
    // What cannot be seen is said.
    let checked = world.backupctl(&["check"]);
    assert!(matches!(checked.code, 0 | 10) && checked.stdout.contains("pg_monitor"), "{checked:?}");
    service.stop();
    primary.destroy();
    assert_eq!(world.restore_newest().value("select count(*) from t"), "1");
}
