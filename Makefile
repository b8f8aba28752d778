# Everything here also runs from a fresh clone on a Debian machine with a Rust toolchain: `make setup` installs the rest.

# Stories mostly wait for disks and servers, so more of them than there are cores can run at once.
STORIES_AT_ONCE ?= $(shell expr $$(nproc) + 1)

.PHONY: demo test soak failovers garage lint format deny bench bench-s3 build setup

demo: setup                ## a disaster and a recovery, in a temporary directory
	cargo build --release -p backupd -p backupctl
	scripts/demo.sh

test: setup lint build     ## every test, those on real PostgreSQL included
	RUST_TEST_THREADS=$(STORIES_AT_ONCE) cargo test --workspace --no-fail-fast

soak: setup build          ## the stories with chance in them, ten times over
	for round in 1 2 3 4 5 6 7 8 9 10; do \
	    RUST_TEST_THREADS=$(STORIES_AT_ONCE) cargo test -p e2e -- kill_ synchronous full_disk || exit 1; \
	done

failovers: setup build     ## sixty failovers at random, and what comes with them; see tests/stories/failover
	E2E_STORY_MINUTES=120 E2E_FAILOVERS=60 cargo test --workspace --test stories -- failover:: --nocapture --test-threads 1

garage:                    ## the contract of stores against a real S3 server; installs Garage where it is missing
	scripts/garage.sh

lint:                      ## formatting and clippy, warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

format:
	cargo fmt --all

deny:                      ## licenses and advisories; needs `cargo install cargo-deny`
	cargo deny check

bench: setup               ## side by side with others; see bench/
	bench/run

bench-s3: setup            ## the same with repositories in buckets of a real S3 server
	bench/run --storage s3

# The stories run the binaries beside them, so these are built with the whole workspace first.
build:
	cargo build --workspace

setup:
	@scripts/setup.sh
