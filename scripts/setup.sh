#!/usr/bin/env bash
# Installs what the build, the tests and the demo need on a Debian machine that has a Rust toolchain. It does nothing
# where everything is there already, and needs root (or sudo) only where something is missing.
set -euo pipefail

bindir=${PG_BINDIR:-$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1 || true)}
postgresql_programs=(initdb postgres psql pgbench pg_basebackup pg_receivewal pg_verifybackup pg_checksums pg_amcheck
    pg_waldump)

packages=()

want() { # <package> <program>…: wants the package unless every program is on the PATH
    local package=$1 program
    shift
    for program in "$@"; do
        if ! command -v "$program" >/dev/null; then
            packages+=("$package")
            return
        fi
    done
}

want build-essential cc make
want zstd zstd
want age age
want python3 python3
want openssl openssl
want util-linux setpriv
# The page is looked at in a real browser, and the alerts are judged by a real Prometheus.
want chromium chromium
want chromium-driver chromedriver
want prometheus prometheus promtool
for program in "${postgresql_programs[@]}"; do
    if [[ ! -x ${bindir:-/none}/$program ]]; then
        packages+=(postgresql)
        break
    fi
done
# The amcheck extension lies beside the server; Debian has had it in the server's own package for all versions we
# support, other builds may keep it apart.
if [[ ! " ${packages[*]} " == *" postgresql "* && ! -e $("$bindir/pg_config" --sharedir)/extension/amcheck.control ]]; then
    packages+=(postgresql-contrib)
fi

if [[ ${#packages[@]} -eq 0 ]]; then
    exit 0
fi

if ! command -v apt-get >/dev/null; then
    echo "setup: missing: ${packages[*]} (Debian's names); this script can install them with apt-get only" >&2
    exit 1
fi
sudo=()
if [[ $EUID -ne 0 ]]; then
    if ! command -v sudo >/dev/null; then
        echo "setup: missing: ${packages[*]}; run \`apt-get install ${packages[*]}\` as root, there is no sudo here" >&2
        exit 1
    fi
    sudo=(sudo)
fi

echo "setup: installing ${packages[*]}"
if [[ " ${packages[*]} " == *" postgresql "* && ! -e /etc/postgresql-common/createcluster.conf ]]; then
    # Debian's package starts a server of its own on port 5432. Nobody asked for one.
    "${sudo[@]}" mkdir -p /etc/postgresql-common
    echo "create_main_cluster = false" | "${sudo[@]}" tee /etc/postgresql-common/createcluster.conf >/dev/null
fi
# --force-confold keeps that file when the package brings its own.
"${sudo[@]}" apt-get update -q
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends -o Dpkg::Options::=--force-confold "${packages[@]}"
