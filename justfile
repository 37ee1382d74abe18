# Shortcuts. Everything here is plain cargo, which works without `just` as well.

# List the recipes
default:
    @just --list

# Run the checks to pass before a push
ready: fmt-check clippy test

# Format the code
fmt:
    cargo fmt

# Check that the code is formatted
fmt-check:
    cargo fmt --check

# Lint everything; warnings are errors
clippy:
    cargo clippy --all-targets -- -D warnings

# Run all tests, or those whose names contain the given words
test *words:
    cargo test {{words}}

# Run the tests in full, with all kills and hangs, as `ci` does
test-full *words:
    TIDINGS_TESTS=full cargo test {{words}}

# Simulate the gateway with this many seeds, and print statistics
simulate seeds="200":
    TIDINGS_SIM_SEEDS={{seeds}} cargo test --test sim whatever_happens -- --nocapture

# Check licences, sources, bans and advisories of the dependencies. Needs cargo-deny
deny:
    cargo deny check

# Run the benchmarks
bench *arguments:
    cargo bench {{arguments}}

# Run all checks of CI: the above, clients in other languages, fuzzing and more. Takes long
ci:
    .ci/run

# Run clients in other languages against the gateway. Needs Python with venv, and Node.js with npm
clients:
    cargo build
    tests/clients/install target/clients
    tests/clients/run.py target/debug/tidings target/clients

# Test the console in Chromium, all of it or the files whose names begin with these words. Needs Node.js with npm, and Chromium
browser *words:
    cargo build
    tests/browser/run target/debug/tidings {{words}}

# Take the pictures in docs/images again. Needs also libfaketime, pngquant and openssl
pictures:
    cargo build
    tests/browser/run --pictures target/debug/tidings

# Fuzz all decoders, or the named targets, for this many seconds each. Needs a C++ compiler
fuzz seconds="10" *targets:
    fuzz/run {{seconds}} {{targets}}

# Remove redundant inputs from target/fuzz/corpus, where fuzzing keeps those that it found
fuzz-minimise *targets:
    fuzz/run --minimise {{targets}}

# Run the demo: publish, deliver, list
demo:
    cargo run --release -- demo

# Run the gateway; deliveries to this machine are allowed
serve *arguments:
    cargo run --release -- serve --egress-allow 127.0.0.0/8 --egress-allow ::1 {{arguments}}

# Run a receiver that prints webhooks
receive *arguments:
    cargo run --release -- receive {{arguments}}

# Print the settings in force
config *arguments:
    cargo run --release -- config {{arguments}}

# Update the tables in docs/errors.md
errors:
    WRITE_DOCUMENTS=1 cargo test --test integration documents::the_document_of_errors

# Update the table in docs/settings.md
settings:
    cargo run --quiet -- config --markdown > target/settings.md
    sed -i -e '/settings:begin/,/settings:end/{/settings:/!d}' -e '/settings:begin/r target/settings.md' docs/settings.md
