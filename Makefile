# Modshift. `make demo` shows it working, `make test` proves it, `make bench` measures it.

CARGO ?= cargo
# Errors name what went wrong; their stacks only hide it.
export RUST_LIB_BACKTRACE ?= 0

.PHONY: help install build demo test lint bench soak clean

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

install: ## what the build and the demo need from Debian
	@deploy/local/install.sh

install-test: install
	@deploy/local/install.sh --test

build: install ## the release binary, target/release/modshift
	$(CARGO) build --release --locked -p modshift

demo: install ## reshard 3 -> 4 under a live writer; KAFKA=1 for a real broker and two processes
	$(CARGO) build --release --locked -p modshift -p modshift-tests --bins
	target/release/demo $(if $(KAFKA),--kafka) $(DEMO_ARGS)

# In the profile of the tests, so that build scripts and macros are built once.
lint: ## formatting and clippy, warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings

test: install-test ## everything, against real MariaDB and Kafka
	$(CARGO) build --release --locked -p modshift
	$(CARGO) test --release --locked --workspace --no-fail-fast

bench: install ## ratios against yardsticks of the same run: a table, and target/bench.json
	$(CARGO) build --release --locked -p modshift -p modshift-tests --bins
	target/release/bench $(BENCH_ARGS)

soak: install-test ## the long runs: every crash point, many seeds
	$(CARGO) build --release --locked -p modshift
	MODSHIFT_SOAK=1 $(CARGO) test --release --locked -p modshift-tests -- --nocapture --test-threads=1

clean: ## build results and servers' data
	$(CARGO) clean
