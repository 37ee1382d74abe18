# Shortcuts. Everything here is plain cargo, which works without `just` as well.

# Lists the recipes.
default:
    @just --list

# What has to pass before a push.
ready: fmt-check clippy test

# Formats the code.
fmt:
    cargo fmt

# Says whether the code is formatted.
fmt-check:
    cargo fmt --check

# Lints everything; a warning is a fault.
clippy:
    cargo clippy --all-targets -- -D warnings

# Runs the tests: all, or those whose names contain the words given.
test *words:
    cargo test {{words}}

# Simulates the gateway from so many seeds, and counts what happened.
simulate seeds="200":
    TIDINGS_SIM_SEEDS={{seeds}} cargo test --test sim whatever_happens -- --nocapture

# Checks licences, sources, bans and advisories of what we depend on. Needs cargo-deny.
deny:
    cargo deny check

# Runs the benchmarks.
bench *arguments:
    cargo bench {{arguments}}

# Runs what has to pass before a change is taken: everything above, other languages' clients, and more. Takes long.
ci:
    .ci/run

# Runs other languages' clients against the gateway. Needs Python with venv, and Node.js with npm.
clients:
    cargo build
    tests/clients/install target/clients
    tests/clients/run.py target/debug/tidings target/clients

# Fuzzes every decoder: each target, or those named, for so many seconds. Needs a C++ compiler.
fuzz seconds="10" *targets:
    fuzz/run {{seconds}} {{targets}}

# Takes into fuzz/corpus what fuzzing found, as few inputs as reach as much of the code.
fuzz-minimise *targets:
    fuzz/run --minimise {{targets}}

# Shows the whole round: publish, deliver, list.
demo:
    cargo run --release -- demo

# Runs the gateway, allowed to POST to this machine.
serve *arguments:
    cargo run --release -- serve --egress-allow 127.0.0.0/8 --egress-allow ::1 {{arguments}}

# Runs a receiver that prints what arrives.
receive *arguments:
    cargo run --release -- receive {{arguments}}

# Prints the settings in force.
config *arguments:
    cargo run --release -- config {{arguments}}

# Updates the table in docs/settings.md.
settings:
    cargo run --quiet -- config --markdown > target/settings.md
    sed -i -e '/settings:begin/,/settings:end/{/settings:/!d}' -e '/settings:begin/r target/settings.md' docs/settings.md
