# Everything one can do here; CI calls only these.

set positional-arguments

nextest := `cargo nextest --version >/dev/null 2>&1 && echo yes || echo no`

# list what there is
default:
    @just --list --unsorted

# make this machine ready (Debian: packages, nats-server)
setup:
    deploy/setup

# build the one binary, target/release/mirrorlog
build:
    cargo build --release --locked

# run the binary: `just run status --json`
run *args:
    cargo run --quiet --release --locked -- "$@"

# all tests, documentation's examples apart; extra arguments go to the test runner
test *args: _everything
    {{ if nextest == "yes" { "cargo nextest run" } else { "cargo test --lib --bins --tests --examples" } }} --workspace --exclude bench --locked "$@"

# the protocol's models in larger bounds, all interleavings: minutes and some gigabytes
model *args:
    MODEL_BOUND=large cargo test --release --locked -p mirrorlog-core --test model -- --nocapture --test-threads 1 "$@"

# the stories only: whole networks on this machine
e2e *args: _binaries
    {{ if nextest == "yes" { "cargo nextest run" } else { "cargo test --lib --tests" } }} -p e2e --locked "$@"

# faults on real processes: `just chaos` plays a little of some, `just chaos kill --seeds 1..251 --kills 40` a lot of one; see --help
chaos *args: _everything
    deploy/setup --with-chaos
    "${CARGO_TARGET_DIR:-target}/debug/chaos" "$@"

# changes, first syncs and memory beside rsync, ftpsync, cp and find: `just bench --files 100000,1000000`; see --help
bench *args:
    deploy/setup --with-bench
    cargo build --release --locked -p mirrorlog
    cargo run --quiet --release --locked -p bench --bin bench -- --release "$@"

# a directory of 1,000 mirrors against nginx's `return 302`; see --help
bench-directory *args:
    deploy/setup --with-bench
    cargo build --release --locked -p mirrorlog
    cargo run --quiet --release --locked -p bench --bin bench-directory -- --release "$@"

# the mirror's HTTP server against nginx on the same files; see --help
bench-serving *args:
    deploy/setup --with-bench
    cargo build --release --locked -p mirrorlog
    cargo run --quiet --release --locked -p bench --bin bench-serving -- --release "$@"

# 1,000 simulated mirrors of a channel of 100,000 files: how soon all are complete; see --help
bench-fleet *args:
    cargo build --release --locked -p mirrorlog
    cargo run --quiet --release --locked -p bench --bin bench-fleet -- --release "$@"

# a mirror behind a slow link, beside iperf3 over the same link; needs root for network namespaces; see --help
bench-link *args:
    deploy/setup --with-bench
    cargo build --release --locked -p mirrorlog
    cargo run --quiet --release --locked -p bench --bin bench-link -- --release "$@"

# ten fresh mirrors of one pool, and peers that stall, die and lie: what the archive sends; see --help
bench-peers *args:
    cargo build --release --locked -p mirrorlog
    cargo run --quiet --release --locked -p bench --bin bench-peers -- --release "$@"

# two simulated days of a mirror on a slow link beside rsync by cron; see --help
bench-days *args:
    cargo run --quiet --release --locked -p bench --bin bench-days -- "$@"

# start-up, memory and transfer of the client beside curl and apt's own http; see --help
bench-client *args:
    deploy/setup --with-bench
    cargo build --release --locked -p mirrorlog
    cargo run --quiet --release --locked -p bench --bin bench-client -- --release "$@"

# what apt says while a thousand builds are published, against plain HTTP and rsync; see --help
bench-flips *args:
    deploy/setup --with-bench
    cargo build --release --locked -p mirrorlog
    cargo run --quiet --release --locked -p bench --bin bench-flips -- --release "$@"

# hostile bytes for what reads them: `just fuzz page -runs=10000000`; `just fuzz` lists the decoders, tests/fuzz tells more
fuzz *args:
    cargo run --quiet --locked -p fuzz -- "$@"

# the documentation's examples
doctest:
    cargo test --workspace --locked --doc --quiet

# clippy, warnings are errors
lint:
    cargo clippy --workspace --all-targets --locked -- -D warnings

# licences, bans and sources of all dependencies by deny.toml: needs cargo-deny; `just deny advisories` fetches the known faults
deny *checks="licenses bans sources":
    cargo deny --locked check {{checks}}

# format
fmt:
    cargo fmt --all

# check the format
fmt-check:
    cargo fmt --all --check

# the code's documentation, target/doc
docs:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# what CI checks
ci: fmt-check lint doctest test chaos

# binaries, tests and the examples that tests start, in one go: apart, what they have in common would be built twice, with
# other features
_everything:
    cargo build --quiet --locked --workspace --exclude bench --bins --tests --examples

# the stories start the binary as its users do
_binaries:
    cargo build --quiet --locked -p mirrorlog
