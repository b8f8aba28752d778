#!/usr/bin/env bash
# A disaster and a recovery. A server takes orders, Drydock follows it, somebody drops the table, and a fresh node gets
# everything back as it was a moment before. All in a temporary directory; nothing is left.
set -Eeuo pipefail

main() {
    directory=$1
    bindir=${PG_BINDIR:-$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)}
    export PATH=$directory/bin:$bindir:$PATH HOME=$directory LC_ALL=C TZ=UTC PGUSER=postgres PGDATABASE=postgres
    unset PGHOST PGPORT PGPASSWORD PGSERVICE
    cd "$directory"
    trap 'failed $LINENO' ERR
    trap stop_everything EXIT

    step "A PostgreSQL server, with a load on it"
    primary_port=$(free_port 25432)
    initdb -D primary -E UTF8 --locale=C --data-checksums -A trust --no-instructions >initdb.log
    start primary "$primary_port"
    on_primary "create role drydock login replication password 'demo'; grant pg_monitor to drydock"
    on_primary "create table orders (id bigserial primary key, taken timestamptz default now(), what text)"
    PGHOST=$directory PGPORT=$primary_port pgbench -i -q -s 10 2>pgbench-init.log
    note "PostgreSQL $(on_primary 'show server_version'), $(on_primary \
        'select pg_size_pretty(sum(pg_database_size(oid))) from pg_database') of data"

    step "The backup service beside it"
    export DRYDOCK_REPOSITORY=file://$directory/repository DRYDOCK_CLUSTER=demo
    export REPLICATION_HOST=127.0.0.1 REPLICATION_PORT=$primary_port REPLICATION_USER=drydock REPLICATION_PASSWORD=demo
    export POSTGRES_DB=postgres
    backupd run 2>backupd.log &
    service=$!
    wait_for "the service to stream" streaming
    note "streams every byte of WAL into $DRYDOCK_REPOSITORY"

    load accounts -b tpcb-like
    echo "insert into orders (what) values ('a boat'), ('an oar')" >orders.sql
    load orders -f orders.sql

    step "A base backup, under load"
    started=$(now)
    backupctl backup --note "the demo's"
    backup_seconds=$(since "$started")
    backupctl list

    step "Life goes on"
    sleep 5
    stop_load orders
    before=$(on_primary "select count(*) from orders")
    moment=$(on_primary "select to_char(clock_timestamp(), 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
    note "$before orders taken by $moment"
    sleep 1

    step "The mistake"
    on_primary "drop table orders"
    note "drop table orders"
    dropped=$(on_primary "select pg_current_wal_lsn()")
    if on_primary "select count(*) from orders" 2>mistake.log; then
        exit 1
    fi
    note "$(head -n 1 mistake.log)"
    wait_for "the WAL with the mistake in it to be durable" durable

    step "The recovery: a fresh node, as of $moment"
    started=$(now)
    backupctl restore --data-dir "$directory/restored" --target-time "$moment" --target-action promote
    restore_seconds=$(since "$started")
    restored_port=$(free_port 25532)
    start restored "$restored_port"
    wait_for "the end of recovery" promoted
    total_seconds=$(since "$started")
    after=$(query "$restored_port" "select count(*) from orders")

    step "Result"
    note "orders before the mistake   $before"
    note "orders on the restored node $after"
    note "lost                        $((before - after)) (nothing, or this demo would fail)"
    note "backup took                 $backup_seconds s, under load"
    note "restore took                $restore_seconds s; $total_seconds s until the node accepted writes"
    [[ $after == "$before" ]]
    query "$restored_port" "insert into orders (what) values ('a better lock')" >/dev/null
    stop_load accounts
    kill -TERM "$service"
    wait "$service"
    service=
    note "everything stopped cleanly"
}

on_primary() { query "$primary_port" "$1"; }

query() { psql -XAtq -v ON_ERROR_STOP=1 -h "$directory" -p "$1" -c "$2"; }

start() { # <directory> <port>
    pg_ctl -D "$1" -l "$1.log" -w -t 120 -s \
        -o "-p $2 -k $directory -c listen_addresses=127.0.0.1 -c logging_collector=off" start
}

declare -A loads=()

load() { # <name> <pgbench's arguments>…
    local name=$1
    shift
    PGHOST=$directory PGPORT=$primary_port PGAPPNAME=load_$name pgbench -n -c 2 -T 120 "$@" >"load-$name.log" 2>&1 &
    loads[$name]=$!
}

stop_load() { # <name>
    kill -TERM "${loads[$1]}" 2>/dev/null || true
    wait "${loads[$1]}" || true # killed is how it ends
    unset "loads[$1]"
    # The sessions end when the server notices.
    wait_for "the load to end" quiet "$1"
}

quiet() { # <name>
    [[ $(on_primary "select count(*) from pg_stat_activity where application_name = 'load_$1'") == 0 ]]
}

streaming() {
    [[ $(on_primary "select count(*) from pg_stat_replication
                     where application_name = 'drydock' and state = 'streaming'") == 1 ]]
}

durable() {
    [[ $(on_primary "select bool_and(restart_lsn >= '$dropped') from pg_replication_slots
                     where slot_name = 'drydock'") == t ]]
}

promoted() { [[ $(query "$restored_port" "select pg_is_in_recovery()") == f ]]; }

wait_for() { # <what> <command>…
    local what=$1 tries
    shift
    for tries in {1..600}; do
        if "$@" 2>/dev/null; then
            return
        fi
        sleep 0.1
    done
    echo "demo: waited a minute in vain for $what" >&2
    exit 1
}

free_port() { # <first to try>
    local port=$1
    while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        port=$((port + 1))
    done
    echo "$port"
}

now() { date +%s.%N; }
since() { awk -v from="$1" -v to="$(now)" 'BEGIN { printf "%.1f", to - from }'; }
step() { printf '\n== %s\n' "$*"; }
note() { printf '   %s\n' "$*"; }

failed() {
    echo "demo: failed at line $1; the ends of the logs:" >&2
    tail -n 15 "$directory"/*.log >&2 || true
}

stop_everything() {
    trap - ERR
    local id data
    for id in "${loads[@]}" ${service:+"$service"}; do
        kill -TERM "$id" 2>/dev/null || true
    done
    for data in restored primary; do
        if [[ -e $directory/$data/postmaster.pid ]]; then
            pg_ctl -D "$data" -m immediate -w -s stop >/dev/null 2>&1 || true
        fi
    done
    wait
}

if [[ ${1:-} == --inside ]]; then
    main "$2"
    exit
fi

# PostgreSQL refuses to run as root, and whoever it runs as may not be able to read this checkout. So all that is needed
# goes into the temporary directory, and the demo runs there as somebody unprivileged.
here=$(cd "$(dirname "$0")/.." && pwd)
binaries=${CARGO_TARGET_DIR:-$here/target}/release
for program in backupd backupctl; do
    if [[ ! -x $binaries/$program ]]; then
        echo "demo: no $binaries/$program; run \`make demo\`, which builds it" >&2
        exit 1
    fi
done
directory=$(mktemp -d /tmp/drydock-demo-XXXXXX)
trap 'rm -rf "$directory"' EXIT
mkdir "$directory/bin"
install -m 755 "$binaries/backupd" "$binaries/backupctl" "$directory/bin/"
install -m 755 "$0" "$directory/demo.sh"
as=()
if [[ $EUID -eq 0 ]]; then
    user=$(id -un postgres 2>/dev/null || echo nobody)
    chown -R "$user" "$directory"
    as=(setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups)
fi
"${as[@]}" bash "$directory/demo.sh" --inside "$directory"
