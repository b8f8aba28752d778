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
                Setting { key: $key, variables: &$variables, secret: is_secret($key), about: $about };
        )*
        /// All of them.
        pub const ALL: &[Setting] = &[$($name),*];
    };
}

const fn is_secret(key: &str) -> bool {
    ends_with(key, b"password")
        || ends_with(key, b"token")
        || ends_with(key, b"webhook")
        || ends_with(key, b"ping")
}

const fn ends_with(key: &str, word: &[u8]) -> bool {
    let key = key.as_bytes();
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
        "where backups and WAL are kept: file:///var/backups, an absolute directory, s3://bucket/prefix, or https://backup:8443 to read what \
         a service there serves";
    ALSO = "also", ["DRYDOCK_REPOSITORY_ALSO"],
        "further repositories, directories or buckets, with commas between: nothing is acknowledged before they have it, too; default none";
    LATER = "later", ["DRYDOCK_REPOSITORY_LATER"],
        "further repositories, with commas between, that nobody waits for: what they miss is copied there later; default none";
    CLUSTER = "cluster", ["DRYDOCK_CLUSTER", "UPSTREAM_NAME"],
        "the cluster's name in the repository; default pg_cluster";
    WORKERS = "workers", ["DRYDOCK_WORKERS"],
        "threads that compress, hash and verify; default: as many as there are cores";

    HTTP_TOKEN = "http.token", ["DRYDOCK_REPOSITORY_TOKEN"],
        "the token that a service asks for, with an address that begins with https:";
    HTTP_CA_FILE = "http.ca_file", ["DRYDOCK_REPOSITORY_CA_FILE"],
        "PEM file of the authorities that may vouch for that service; default: the system's";
    HTTP_INSECURE = "http.insecure", ["DRYDOCK_REPOSITORY_INSECURE"],
        "true lets token and data go over http: to other machines, for anybody on the way to read; default false";

    S3_REGION = "s3.region", ["DRYDOCK_S3_REGION"],
        "the bucket's region; default: what AWS_REGION or the profile says, else us-east-1";
    S3_ENDPOINT = "s3.endpoint", ["DRYDOCK_S3_ENDPOINT"],
        "URL of an S3 server other than AWS, such as https://minio:9000";
    S3_PATH_STYLE = "s3.path_style", ["DRYDOCK_S3_PATH_STYLE"],
        "whether the bucket stands in the path of a URL, true, or in its host name, false; default: true with s3.endpoint";
    S3_CA_FILE = "s3.ca_file", ["DRYDOCK_S3_CA_FILE"],
        "PEM file of authorities to trust besides the system's";
    S3_PROFILE = "s3.profile", ["DRYDOCK_S3_PROFILE"],
        "the profile in the files of the AWS command line";
    S3_CREDENTIALS_FILE = "s3.credentials_file", ["DRYDOCK_S3_CREDENTIALS_FILE"],
        "file with credentials in the form of ~/.aws/credentials; default: the environment, the profile, a web identity, the machine's metadata";
    S3_ENCRYPTION = "s3.encryption", ["DRYDOCK_S3_ENCRYPTION"],
        "how the server encrypts: bucket (as it says), sse-s3, sse-kms, or sse-kms:KEY; default bucket";
    S3_STORAGE_CLASS = "s3.storage_class", ["DRYDOCK_S3_STORAGE_CLASS"],
        "storage class of packs, such as STANDARD_IA; default: the bucket's";
    S3_TAGS = "s3.tags", ["DRYDOCK_S3_TAGS"],
        "tags of each object: NAME=VALUE, with commas between";
    S3_LOCK_MODE = "s3.lock_mode", ["DRYDOCK_S3_LOCK_MODE"],
        "Object Lock of packs, governance or compliance; default governance where s3.lock_days is set";
    S3_LOCK_DAYS = "s3.lock_days", ["DRYDOCK_S3_LOCK_DAYS"],
        "for how many days nobody can delete a pack; default none";
    S3_UPLOAD_RATE = "s3.upload_rate", ["DRYDOCK_S3_UPLOAD_RATE"],
        "limit on what is sent each second, such as 20MB; default none";
    S3_DOWNLOAD_RATE = "s3.download_rate", ["DRYDOCK_S3_DOWNLOAD_RATE"],
        "limit on what is received each second, such as 20MB; default none";
    S3_REQUESTS = "s3.requests", ["DRYDOCK_S3_REQUESTS"],
        "requests under way at once; default 16";
    S3_CONNECT_TIMEOUT = "s3.connect_timeout", ["DRYDOCK_S3_CONNECT_TIMEOUT"],
        "time to reach the server; default 10s";
    S3_REQUEST_TIMEOUT = "s3.request_timeout", ["DRYDOCK_S3_REQUEST_TIMEOUT"],
        "how long a request may stand still; default 60s";

    SERVE_LISTEN = "serve.listen", ["DRYDOCK_SERVE_LISTEN"],
        "address and port at which the service serves its repository, read only: 0.0.0.0:8443; default: nowhere";
    SERVE_TOKEN = "serve.token", ["DRYDOCK_SERVE_TOKEN"],
        "the token to ask for, 16 characters or more: whoever has it reads the database";
    SERVE_TLS_CERTIFICATE = "serve.tls_certificate", ["DRYDOCK_SERVE_TLS_CERTIFICATE"],
        "PEM file of the certificate to show, and those between it and its authority; read again when it changes";
    SERVE_TLS_KEY = "serve.tls_key", ["DRYDOCK_SERVE_TLS_KEY"],
        "PEM file of the certificate's key";
    SERVE_INSECURE = "serve.insecure", ["DRYDOCK_SERVE_INSECURE"],
        "true lets the repository be served to other machines without TLS; default false";

    MONITOR_LISTEN = "monitor.listen", ["DRYDOCK_MONITOR_LISTEN"],
        "address and port of health, metrics, status page and JSON, over HTTP and for anybody to read: 0.0.0.0:8080; default: nowhere";
    API_TOKEN = "api.token", ["DRYDOCK_API_TOKEN"],
        "what whoever has things done over HTTP has to send, 16 characters or more; with it, page and JSON ask for it, too; default: nothing \
         is done over HTTP";

    HOST = "server.host", ["REPLICATION_HOST", "PGHOST"],
        "the server: a name, an address, or the directory of its socket; a port may follow, host:port. With commas between, all nodes of a cluster, \
         of which the primary is followed";
    PARTNERS = "server.partners", ["PARTNER_NODES"],
        "further nodes of the cluster, with commas between; default none";
    REPMGR_DATABASE = "server.repmgr_database", ["REPLICATION_DB"],
        "the database with repmgr's metadata, which names further nodes; default: repmgr is not asked";
    USE_SLOT = "server.use_slot", ["USE_REPLICATION_SLOTS"],
        "false (or 0) does without a replication slot, and risks that a server removes WAL that is not archived yet; default true";
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
        "within what time WAL of an unfinished segment is made durable, where the storage takes less than half of it; default 1s";
    IN_FLIGHT = "wal.in_flight", ["DRYDOCK_WAL_IN_FLIGHT"],
        "segments compressed and written at once; default 2";

    BACKUP_SOURCE = "backup.source", ["DRYDOCK_BACKUP_SOURCE"],
        "which node of several is copied: primary, prefer-standby, or standby; default primary";
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

    BACKUP_SCHEDULE = "backup.schedule", ["BACKUP_SCHEDULE"],
        "when the service takes base backups: a cron line, such as 0 2 * * *; default: whenever somebody does";
    MAXIMUM_AGE = "backup.maximum_age", ["DRYDOCK_BACKUP_MAXIMUM_AGE"],
        "status and check find fault with a newest backup that is older than so, such as 26h; default none";
    SCHEDULE_TIMEZONE = "schedule.timezone", ["DRYDOCK_SCHEDULE_TIMEZONE"],
        "the time zone of schedules, such as Europe/Berlin; default UTC";
    SCHEDULE_JITTER = "schedule.jitter", ["DRYDOCK_SCHEDULE_JITTER"],
        "everything scheduled comes so much later, that not all clusters begin at once; default 0";
    SCHEDULE_WINDOW = "schedule.window", ["DRYDOCK_SCHEDULE_WINDOW"],
        "hours in which a scheduled backup or verification may begin, such as 22:00-06:00; default: all";

    VERIFY_SCHEDULE = "verify.schedule", ["DRYDOCK_VERIFY_SCHEDULE"],
        "when the service verifies the repository, reading what was not read before and a share of the rest: a cron line; default: whenever \
         somebody does";
    VERIFY_SHARE = "verify.share", ["DRYDOCK_VERIFY_SHARE"],
        "how many percent of what was read before are read again each time; default 10";

    RETENTION_SCHEDULE = "retention.schedule", ["DRYDOCK_RETENTION_SCHEDULE"],
        "when the service removes what has expired: a cron line; default: every hour";
    RETENTION_DAYS = "retention.days", ["BACKUP_RETENTION_DAYS"],
        "every moment of so many days can be restored; default: for ever, and nothing is removed";
    RETENTION_BACKUPS = "retention.backups", ["DRYDOCK_RETENTION_BACKUPS"],
        "so many of the newest backups stay, with all WAL behind the oldest of them; default: as retention.days says";
    RETENTION_MINIMUM = "retention.minimum", ["DRYDOCK_RETENTION_MINIMUM"],
        "at least so many of the newest backups stay, however old they are; default 1";
    RETENTION_WAL_DAYS = "retention.wal_days", ["DRYDOCK_RETENTION_WAL_DAYS"],
        "only so many days can be restored to any moment; older backups that stay keep the WAL alone that makes them consistent; \
         default: as retention.days says";
    RETENTION_DAILY = "retention.daily", ["DRYDOCK_RETENTION_DAILY"],
        "the newest backup of each of so many days stays beyond that; default none";
    RETENTION_WEEKLY = "retention.weekly", ["DRYDOCK_RETENTION_WEEKLY"],
        "the same for weeks; default none";
    RETENTION_MONTHLY = "retention.monthly", ["DRYDOCK_RETENTION_MONTHLY"],
        "the same for months; default none";
    RETENTION_YEARLY = "retention.yearly", ["DRYDOCK_RETENTION_YEARLY"],
        "the same for years; default none";

    RECIPIENTS = "encryption.recipients", ["DRYDOCK_RECIPIENTS"],
        "age recipients, with commas between: a repository that is made is encrypted to them, and one that names others is refused; default: whom the repository names";
    IDENTITY_FILE = "encryption.identity_file", ["DRYDOCK_IDENTITY_FILE"],
        "file with the age identity that reads what is encrypted; nobody else may be able to read it";
    IDENTITY_COMMAND = "encryption.identity_command", ["DRYDOCK_IDENTITY_COMMAND"],
        "command for the shell that prints such a file, instead of one";
    SERVICE_IDENTITY_FILE = "encryption.service_identity_file", ["DRYDOCK_SERVICE_IDENTITY_FILE"],
        "file with the service's own identity, which reads lists and maps of backups and no content";

    EVENTS_COMMAND = "events.command", ["DRYDOCK_EVENTS_COMMAND"],
        "command for the shell that is given each event as JSON on standard input; default none";
    EVENTS_WEBHOOK = "events.webhook", ["DRYDOCK_EVENTS_WEBHOOK"],
        "URL that each event is posted to as JSON; default none";
    EVENTS_PING = "events.ping", ["DRYDOCK_EVENTS_PING"],
        "URL that is asked for after each base backup, for whoever misses it when it does not come; default none";
    EVENTS_LAG_LIMIT = "events.lag_limit", ["DRYDOCK_EVENTS_LAG_LIMIT"],
        "an archive that has been behind for longer is an event, such as 5min; default none";

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
        "  Each password and token may also come from a file: add _file to its key, or _FILE to its variable.\n",
    );
    text.push_str("  Flags win over the environment, and the environment over the file.");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_tokens_and_urls_with_tokens_are_secret_and_nothing_else_is() {
        let secret: Vec<&str> =
            ALL.iter().filter(|setting| setting.secret).map(|setting| setting.key).collect();
        assert_eq!(
            secret,
            [
                "http.token",
                "serve.token",
                "api.token",
                "server.password",
                "sql.password",
                "events.webhook",
                "events.ping"
            ]
        );
    }
}
