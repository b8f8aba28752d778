#!/usr/bin/env bash
# Runs the contract of stores against a real Garage (https://garagehq.deuxfleurs.fr): one node in a temporary directory,
# which is removed at the end. scripts/garage-program.sh says where Garage comes from.
set -euo pipefail
cd "$(dirname "$0")/.."

garage=$(scripts/garage-program.sh)

directory=$(mktemp -d)
server=
finish() {
    if [[ -n $server ]]; then
        kill "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$directory"
}
trap finish EXIT

free_port() { # prints a port of loopback that nobody listens on
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
s3_port=$(free_port)
rpc_port=$(free_port)

cat >"$directory/garage.toml" <<END
metadata_dir = "$directory/meta"
data_dir = "$directory/data"
db_engine = "sqlite"
replication_factor = 1
rpc_bind_addr = "127.0.0.1:$rpc_port"
rpc_public_addr = "127.0.0.1:$rpc_port"
rpc_secret = "$(head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \n')"

[s3_api]
s3_region = "garage"
api_bind_addr = "127.0.0.1:$s3_port"
END
chmod 600 "$directory/garage.toml"
run() {
    "$garage" -c "$directory/garage.toml" "$@" 2>>"$directory/log"
}

"$garage" -c "$directory/garage.toml" server >>"$directory/log" 2>&1 &
server=$!
for attempt in $(seq 100); do
    run status >/dev/null && break
    if [[ $attempt == 100 ]] || ! kill -0 "$server" 2>/dev/null; then
        echo "garage: it does not start; its log:" >&2
        tail -n 20 "$directory/log" >&2
        exit 1
    fi
    sleep 0.1
done

node=$(run node id -q | cut -d @ -f 1)
run layout assign -z here -c 1G "$node" >/dev/null
run layout apply --version 1 >/dev/null
run bucket create backups >/dev/null
key=$(run key create drydock)
run bucket allow --read --write --owner backups --key drydock >/dev/null

S3_ENDPOINT=http://127.0.0.1:$s3_port S3_REGION=garage S3_BUCKET=backups \
    AWS_ACCESS_KEY_ID=$(awk '/^Key ID:/ { print $3 }' <<<"$key") \
    AWS_SECRET_ACCESS_KEY=$(awk '/^Secret key:/ { print $3 }' <<<"$key") \
    cargo test --workspace --test garage -- --nocapture
