#!/usr/bin/env bash
# Prints the path of Garage's program (https://garagehq.deuxfleurs.fr). It is taken from GARAGE, from the PATH or from
# target/garage, and installed there by cargo when it is nowhere; that takes a C compiler and a quarter of an hour.
# `--optimised` installs what a benchmark may measure, in target/garage-optimised, and takes half an hour.
set -euo pipefail
cd "$(dirname "$0")/.."

version=2.5.0
root=target/garage opt_level=1
if [[ ${1:-} == --optimised ]]; then
    root=target/garage-optimised opt_level=3
fi

if [[ -n ${GARAGE:-} ]]; then
    if [[ ! -x $GARAGE ]]; then
        echo "garage: $GARAGE cannot be run; GARAGE has to name Garage's program" >&2
        exit 1
    fi
    garage=$GARAGE
elif ! garage=$(command -v garage); then
    garage=$root/bin/garage
    if [[ ! -x $garage ]]; then
        echo "garage: installing Garage $version into $root" >&2
        # Beside our workspace, whose toolchain and settings are not its own.
        CARGO_PROFILE_RELEASE_OPT_LEVEL=$opt_level CARGO_PROFILE_RELEASE_LTO=off CARGO_TARGET_DIR=$root/build \
            cargo install garage --version "$version" --locked --root "$root" \
            --no-default-features --features bundled-libs,sqlite >&2 || {
            echo "garage: cargo could not install it; install Garage $version in another way and name it in GARAGE" >&2
            exit 1
        }
        rm -rf "$root/build"
    fi
fi
realpath "$garage"
