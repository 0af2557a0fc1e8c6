# The same commands as CI; `just` lists them.

_default:
    @just --list

# Format, lints, tests, docs: what every change passes before it lands.
check: fmt clippy test doc

fmt:
    cargo fmt --all --check

clippy:
    cargo clippy --workspace --exclude benches --lib --bins --examples --all-features -- -D warnings
    cargo clippy --workspace --exclude benches --tests --all-features -- -D warnings -A clippy::unwrap_used -A clippy::print_stdout
    cargo clippy -p benches --all-targets -- -D warnings

# All tests, as whoever you are.
test:
    cargo test --workspace

# The same tests again as an ordinary user (needs root to change to it).
test-user USER:
    .ci/as-user {{USER}}

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --exclude benches --no-deps --all-features

# Each feature alone and all together (needs cargo-hack).
features:
    cargo hack check --feature-powerset --no-dev-deps -p cgroup -p image-layers -p container-core

# The oldest compiler that we promise.
msrv:
    cargo +1.88 check --workspace

bench *ARGS:
    cargo bench -p benches {{ARGS}}

# Real clients driving the example `oci-runtime`: podman, containerd, docker, swarm.
clients:
    .ci/clients

# Everything that CI does.
ci:
    .ci/run
