//! Every setting there is: its key in the file, its variables, what it means. Everything else about names is derived
//! from this table.

/// A setting.
#[derive(Debug)]
pub struct Setting {
    /// Its key in the file, such as `wal.flush_interval`.
    pub key: &'static str,
    /// Its environment variables; the first that is set and not empty counts.
    pub variables: &'static [&'static str],
    /// Whether its value must never be shown. A secret may also come from a file: `<key>_file`, `<VARIABLE>_FILE`.
    pub secret: bool,
    /// What it means, with its default.
    pub about: &'static str,
}

macro_rules! settings {
    ($($name:ident = $key:literal, $variables:expr, $about:literal;)*) => {
        $(
            #[doc = $about]
            pub const $name: Setting =
                Setting { key: $key, variables: &$variables, secret: ends_with_password($key), about: $about };
        )*
        /// All of them.
        pub const ALL: &[Setting] = &[$($name),*];
    };
}

const fn ends_with_password(key: &str) -> bool {
    let (key, word) = (key.as_bytes(), b"password");
    let mut matched = 0;
    while matched < word.len() && matched < key.len() {
        if key[key.len() - 1 - matched] != word[word.len() - 1 - matched] {
            return false;
        }
        matched += 1;
    }
    matched == word.len()
}

settings! {
    REPOSITORY = "repository", ["DRYDOCK_REPOSITORY", "BACKUP_DIR"],
        "where backups and WAL are kept: file:///var/backups, or an absolute directory";
    CLUSTER = "cluster", ["DRYDOCK_CLUSTER", "UPSTREAM_NAME"],
        "the cluster's name in the repository; default pg_cluster";
    WORKERS = "workers", ["DRYDOCK_WORKERS"],
        "threads that compress, hash and verify; default: as many as there are cores";

    HOST = "server.host", ["REPLICATION_HOST", "PGHOST"],
        "the server: a name, an address, or the directory of its socket; a port may follow, host:port";
    PORT = "server.port", ["REPLICATION_PORT", "PGPORT"],
        "its port; default 5432";
    USER = "server.user", ["REPLICATION_USER", "PGUSER"],
        "the role, which needs LOGIN and REPLICATION";
    PASSWORD = "server.password", ["REPLICATION_PASSWORD", "PGPASSWORD"],
        "the role's password; without one the password file is asked";
    PASSFILE = "server.passfile", ["PGPASSFILE"],
        "the password file; default ~/.pgpass";
    SLOT = "server.slot", ["REPLICATION_SLOT_NAME"],
        "the replication slot; default drydock";
    APPLICATION_NAME = "server.application_name", ["DRYDOCK_APPLICATION_NAME", "PGAPPNAME"],
        "the name that pg_stat_replication shows and synchronous_standby_names may list; default drydock";
    CONNECT_TIMEOUT = "server.connect_timeout", ["REPLICATION_CONNECTION_TIMEOUT", "PGCONNECT_TIMEOUT"],
        "time to reach the server and log in; default 10s";
    SSLMODE = "server.sslmode", ["PGSSLMODE"],
        "how much TLS is needed, as in libpq; default prefer";
    SSLROOTCERT = "server.sslrootcert", ["PGSSLROOTCERT"],
        "PEM file of trusted roots, or the word system";
    SSLCERT = "server.sslcert", ["PGSSLCERT"],
        "PEM file of the client certificate";
    SSLKEY = "server.sslkey", ["PGSSLKEY"],
        "PEM file of the client certificate's key";

    SQL_USER = "sql.user", ["POSTGRES_USER"],
        "the role for SQL, where it is another";
    SQL_PASSWORD = "sql.password", ["POSTGRES_PASSWORD"],
        "that role's password";
    SQL_DATABASE = "sql.database", ["POSTGRES_DB", "PGDATABASE"],
        "the database for SQL; default postgres";
    SQL_CONNECT_TIMEOUT = "sql.connect_timeout", ["POSTGRES_CONNECTION_TIMEOUT"],
        "time to reach the server for SQL; default: server.connect_timeout";

    FLUSH_INTERVAL = "wal.flush_interval", ["DRYDOCK_WAL_FLUSH_INTERVAL"],
        "how long WAL of an unfinished segment may wait for more before it is made durable; default 1s";
    IN_FLIGHT = "wal.in_flight", ["DRYDOCK_WAL_IN_FLIGHT"],
        "segments compressed and written at once; default 2";

    LEVEL = "backup.level", ["DRYDOCK_BACKUP_LEVEL"],
        "zstd's level for files, 1 to 19; default 1";
    MAX_RATE = "backup.max_rate", ["DRYDOCK_BACKUP_MAX_RATE"],
        "limit on what the server sends each second, such as 50MB; default none";
    WAL_WAIT = "backup.wal_wait", ["DRYDOCK_BACKUP_WAL_WAIT"],
        "how long a backup waits for its WAL to be durable; default 10min";
    DEAD_AFTER = "backup.dead_after", ["DRYDOCK_BACKUP_DEAD_AFTER"],
        "an unfinished backup without a sign of life for so long is dead, and what it left is removed; default 1h";
    MASTER_ROLE_FILE = "backup.master_role_file", ["MASTER_ROLE_LOCK_FILE_NAME"],
        "file in the data directory that marks a primary, not to be restored; default master.lock";
    STANDBY_ROLE_FILE = "backup.standby_role_file", ["STANDBY_ROLE_LOCK_FILE_NAME"],
        "file in the data directory that marks a standby, not to be restored; default standby.lock";

    LOG_FILTER = "log.filter", ["DRYDOCK_LOG", "RUST_LOG"],
        "what the service logs: error, warn, info, debug, trace, also by module; default info";
    LOG_FORMAT = "log.format", ["DRYDOCK_LOG_FORMAT"],
        "how the service logs, text or json; default text";
}

/// The table as `--help` shows it.
pub fn help() -> String {
    let mut text =
        String::from("Settings, as keys of the configuration file and as environment variables:\n");
    for setting in ALL {
        text.push_str(&format!(
            "  {:<26} {}\n      {}\n",
            setting.key,
            setting.variables.join(", "),
            setting.about
        ));
    }
    text.push_str(
        "  Each password may also come from a file: add _file to its key, or _FILE to its variable.\n",
    );
    text.push_str("  Flags win over the environment, and the environment over the file.");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_secret_and_nothing_else_is() {
        let secret: Vec<&str> =
            ALL.iter().filter(|setting| setting.secret).map(|setting| setting.key).collect();
        assert_eq!(secret, ["server.password", "sql.password"]);
    }
}
