# The tasks of dstl. `make` lists them. CARGO_TARGET_DIR is honoured where it is set.

# Where rustup puts cargo, for shells that did not read its environment.
export PATH := $(PATH):$(HOME)/.cargo/bin

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
ARGS ?=
STORE ?=
TARGET := $(or $(CARGO_TARGET_DIR),target)
DSTL := $(TARGET)/release/dstl
# Tests run the dependencies that ship, so that those are compiled once. The packages of this workspace are compiled for them with debug
# assertions and without optimization, as `cargo test` does it: that takes a third of the time, and tests mostly wait.
PACKAGES := dstl dstl-client dstl-proto
FEATURES := --features demo,testing
CHECKED := --release --locked $(FEATURES) --config profile.release.incremental=true $(foreach it,$(PACKAGES),--config 'profile.release.package.$(it).debug-assertions=true' \
	--config 'profile.release.package.$(it).opt-level=0')
# Tests mostly wait: for disks, for timers, for processes. So more of them run at a time than there are processors, and their files are in
# memory where there is room for them.
export RUST_TEST_THREADS ?= $(shell echo $$(( 2 * $$(nproc) )))
IN_MEMORY = $(if $(TMPDIR),,$(shell [ -w /dev/shm ] && [ "$$(df --output=avail /dev/shm | tail -n 1)" -gt 8000000 ] && echo TMPDIR=/dev/shm))
MIN_RUST := 1.95
# What is built without RocksDB has everything else, HDFS where it is asked for: it takes a minute or two to compile.
WITHOUT_ROCKSDB := --no-default-features $(if $(filter hdfs:%,$(STORE)),--features hdfs)
DEMO := --features demo --bin dstl --bin dstl-demo
# RocksDB's bindings need libclang: found, or installed, once.
WITH_LIBCLANG := found=$$(.ci/libclang); eval "$$found";
ROCKSDB_BUILT = $(wildcard $(TARGET)/release/build/librocksdb-sys-*/out/librocksdb.a)

DENY := cargo-deny

EXAMPLES := sliding_window session_window stream_join deduplication buffering_sink

# The daemon that tests of clients run; built where it is not given.
DSTL_BIN ?=

.PHONY: help demo demo-flink examples test test-process test-stores test-java test-python test-quixstreams test-pyflink examples-flink python-wheel test-flink flink-quick flink-jar verify bench bench-stages bench-java bench-peers bench-python check-tools check-java check-peers check-promtool check-chromium fmt-check lint doc doc-test client-check server-check audit

help: ## List these tasks
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

# RocksDB takes long to compile. Where it is not compiled yet, the first demo does without it; the second build adds it and
# compiles nothing else again but dstl itself.
demo: check-tools ## Build dstl and run the demo on both inner backends (STORE=s3://bucket/prefix ARGS="--kills 3 PATH…")
ifeq ($(ROCKSDB_BUILT),)
	@echo 'demo: building dstl with optimizations, without RocksDB first; this takes some minutes, once' >&2
	$(CARGO) build --release --locked $(WITHOUT_ROCKSDB) $(DEMO)
else
	$(WITH_LIBCLANG) $(CARGO) build --release --locked $(DEMO)
endif
	@echo 'demo: a word count in two processes, the daemon and its task; both are killed at random moments (kill -9)' >&2
	@$(DSTL)-demo $(if $(STORE),--store '$(STORE)') $(ARGS)
ifeq ($(ROCKSDB_BUILT),)
	@echo 'demo: now the same with state on disk. RocksDB is compiled for it, once: about 15 minutes on two cores' >&2
	$(WITH_LIBCLANG) $(CARGO) build --release --locked $(DEMO)
endif
	@echo 'demo: the same with the inner backend rocksdb' >&2
	@$(DSTL)-demo --inner rocksdb $(if $(STORE),--store '$(STORE)') $(ARGS)

examples: check-tools ## Build the examples and run each: it loses its daemon in the middle, and checks its result
	$(WITH_LIBCLANG) $(CARGO) build $(CHECKED) --bins --examples
	@for example in $(EXAMPLES); do DSTL_BIN=$(DSTL) timeout 120 $(TARGET)/release/examples/$$example; done

test: check-tools ## Run the unit and integration tests
	$(WITH_LIBCLANG) $(IN_MEMORY) $(CARGO) test $(CHECKED) --workspace --lib --bin dstl-demo --test it $(ARGS)

test-process: check-tools ## Run the demo, stock clients in Python and a server that speaks S3 against dstl (Python 3.10, PyPI the first time)
	$(WITH_LIBCLANG) $(IN_MEMORY) $(CARGO) test $(CHECKED) --test process $(ARGS)

# Servers that others wrote, each started by its script in tests/stores; some minutes each. Unit tests that need one are ignored elsewhere.
STORES ?= radosgw hdfs hdfs-ha hdfs-kerberos azurite gcs
# Those that a change must pass.
VERIFIED_STORES := hdfs azurite gcs
test-stores: java-daemon ## Test dstl on real stores: promises, demo with kills, servers that fail (STORES="hdfs gcs" DSTL_BIN=…)
ifeq ($(DSTL_BIN),)
	@unit="$$($(UNIT_TESTS))"; $(MAKE) --no-print-directory stores-tested UNIT="$$unit"
else
	@$(MAKE) --no-print-directory stores-tested
endif

# Compiles the unit tests, and prints the path of their program.
UNIT_TESTS = $(WITH_LIBCLANG) $(CARGO) test $(CHECKED) --lib --no-run --message-format=json | \
	sed -n '/"test":true/s/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1

# The same with programs that are there.
.PHONY: stores-tested
stores-tested: $(if $(filter hdfs%,$(STORES)),check-java)
	PYTHONDONTWRITEBYTECODE=1 python3 tests/stores/run.py $(or $(DSTL_BIN),$(DSTL)) $(STORES) $(if $(UNIT),--unit "$(UNIT) --ignored")

test-java: check-java java-daemon ## Build the client for the JVM, its documentation too, and test it against a daemon (DSTL_BIN=…)
	DSTL_BIN='$(abspath $(or $(DSTL_BIN),$(DSTL)))' .ci/mvn -pl java verify

test-python: java-daemon ## Test the client for Python against a daemon, in an environment of its own (DSTL_BIN=… PYTHON=python3.12 ARGS="-k misuse")
	cd clients/python && python="$$(tools/environment.sh test)" && DSTL_BIN='$(abspath $(or $(DSTL_BIN),$(DSTL)))' "$$python" -m pytest $(ARGS)

test-quixstreams: java-daemon ## Run the tests of state of Quix Streams on dstl (DSTL_BIN=… QUIX_SOURCE=<its git repository> ARGS="-k windowed")
	DSTL_BIN='$(abspath $(or $(DSTL_BIN),$(DSTL)))' clients/python/tests_quix/run.sh $(ARGS)

FLINK_FROM_PYTHON = cd clients/python && python="$$(tools/environment.sh flink)" && DSTL_BIN='$(abspath $(or $(DSTL_BIN),$(DSTL)))' \
	DSTL_FLINK_JAR='$(abspath $(or $(DSTL_FLINK_JAR),clients/flink/target/dstl-flink-0.1.0-all.jar))' "$$python" -m pytest tests_flink $(ARGS)

test-pyflink: java-daemon ## Test the module for PyFlink and the examples in Python, after `make flink-jar` (DSTL_BIN=… DSTL_FLINK_JAR=…)
	$(FLINK_FROM_PYTHON) -m 'not java'

examples-flink: check-java java-daemon ## Run the examples for Flink in Java on a local cluster, with kills, after `make flink-jar` (DSTL_BIN=… DSTL_FLINK_JAR=…)
	$(FLINK_FROM_PYTHON) -m java

python-wheel: ## Build the client for Python: clients/python/dist/dstl-0.1.0-py3-none-any.whl
	cd clients/python && python="$$(tools/environment.sh test)" && "$$python" -m build --wheel --no-isolation

flink-jar: check-java ## Build the state backend for Flink: clients/flink/target/dstl-flink-0.1.0-all.jar
	.ci/mvn -pl java,flink -am -DskipTests -Dmaven.javadoc.skip install

FLINK_TEST = DSTL_BIN='$(abspath $(or $(DSTL_BIN),$(DSTL)))' .ci/mvn -pl java,flink -Dclient.skipTests=true \
	$(if $(FLINK),-Dflink.version=$(FLINK) -Dflink.target=target/$(FLINK)) test

test-flink: check-java java-daemon ## Test the state backend for Flink by Flink's own suites, jobs and a cluster (DSTL_BIN=… FLINK=2.3.0)
	$(FLINK_TEST)

flink-quick: check-java java-daemon ## The same without the cluster of processes
	$(FLINK_TEST) -Dtest.excludedGroups=long -Dtest.forks=2

# The text is real, and always there. Kills and restarts take a minute or two, on dstl and on Flink's own backend each.
DEMO_TEXT = $(or $(TEXT),$(wildcard *.md proto/dstl/v1/*.proto clients/*/README.md))
demo-flink: flink-jar java-daemon ## Run a Flink cluster of processes on dstl, kill it again and again, compare (DSTL_BIN=… TEXT="FILE…" ARGS="dstl changelog rocksdb heap")
	DSTL_BIN='$(abspath $(or $(DSTL_BIN),$(DSTL)))' clients/flink/demo.sh $(foreach file,$(DEMO_TEXT),'$(file)') -- $(ARGS)

# The same build as that of the examples: `--bin dstl` alone would compile dependencies anew, with fewer features.
.PHONY: java-daemon
java-daemon: $(if $(DSTL_BIN),,check-tools)
ifeq ($(DSTL_BIN),)
	$(WITH_LIBCLANG) $(CARGO) build $(CHECKED) --bins --examples
endif

# With all features, as dependencies are compiled for the tests.
.PHONY: shipped-daemon
shipped-daemon: $(if $(DSTL_BIN),,check-tools)
ifeq ($(DSTL_BIN),)
	$(WITH_LIBCLANG) $(CARGO) build --release --locked --bin dstl --examples
endif

# The tests come last: their summary is the last thing to be seen.
verify: check-tools check-promtool check-chromium fmt-check lint doc doc-test client-check server-check audit examples ## Run everything that a change must pass
	$(MAKE) --no-print-directory test-java test-python DSTL_BIN='$(DSTL)'
ifeq ($(ROCKSDB_BUILT),)
	@echo 'verify: LEFT OUT, as all had to be compiled first, and the whole shall take less than an hour: make test-stores flink-quick' >&2
else
	$(MAKE) --no-print-directory flink-quick DSTL_BIN='$(DSTL)'
	$(MAKE) --no-print-directory test-stores STORES='$(VERIFIED_STORES)'
	@echo 'verify: LEFT OUT, for their time: make test-stores STORES="$(filter-out $(VERIFIED_STORES),$(STORES))"' >&2
endif
	@echo 'verify: LEFT OUT, each takes ten or twenty minutes: make test-flink, demo-flink, test-pyflink, test-quixstreams' >&2
	$(WITH_LIBCLANG) $(IN_MEMORY) $(CARGO) test $(CHECKED) --workspace --lib --bin dstl-demo --test it --test process

fmt-check: ## Check the formatting
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path benches/peers/Cargo.toml --check

lint: ## Run clippy; warnings are errors
	$(WITH_LIBCLANG) $(CARGO) clippy --release --locked --workspace $(FEATURES) --all-targets -- -D warnings

doc: ## Build the documentation; warnings are errors
	$(WITH_LIBCLANG) RUSTDOCFLAGS='-D warnings' $(CARGO) doc --release --locked --workspace --no-deps

doc-test: ## Run the examples of the documentation
	$(WITH_LIBCLANG) $(CARGO) test $(CHECKED) --workspace --doc

client-check: ## Check that the client alone compiles, without the daemon's dependencies
	@! $(CARGO) tree --locked -p dstl-client -e normal,build --prefix none | grep -E '^(dstl|object_store|rocksdb|librocksdb-sys) '
	$(CARGO) check --release --locked -p dstl-client

server-check: ## Check that the daemon compiles without RocksDB
	$(CARGO) check --release --locked $(WITHOUT_ROCKSDB)

# Licences and sources need nothing; advisories need their database, from GitHub.
audit: ## Check the dependencies' licences, sources and advisories (deny.toml), where cargo-deny is installed
	@if ! $(DENY) --version >/dev/null 2>&1; then \
		echo 'audit: LEFT OUT, cargo-deny is not installed (cargo install --locked cargo-deny)'; \
		exit 0; \
	fi; \
	$(DENY) --all-features check licenses sources bans; \
	if $(DENY) fetch db >/dev/null 2>&1; then \
		$(DENY) --all-features check advisories; \
	else \
		echo 'audit: advisories LEFT OUT, their database could not be fetched'; \
	fi

bench: check-tools ## Measure speed against a real daemon (ARGS="floor update --json")
	$(WITH_LIBCLANG) $(CARGO) bench --locked --bench load -- $(ARGS)

bench-stages: check-tools ## Measure each stage of a write and of a restore by itself (ARGS="apply --quick")
	$(WITH_LIBCLANG) $(CARGO) bench --locked $(FEATURES) --bench stages -- $(ARGS)

bench-java: check-java shipped-daemon ## Measure the client for the JVM against a daemon (DSTL_BIN=…)
	DSTL_BIN='$(abspath $(or $(DSTL_BIN),$(DSTL)))' .ci/mvn -pl java test-compile exec:exec@bench

# A workspace of its own, which shares the folder of the target: crates that both need are compiled once, RocksDB above all.
PEERS = --release --locked --manifest-path benches/peers/Cargo.toml --target-dir '$(abspath $(TARGET))'

bench-peers: check-tools check-peers ## Measure dstl beside Flink, Redis, SlateDB and RocksDB in one run (ARGS="--rounds 5 --only redis,slatedb --chart FILE")
	@$(WITH_LIBCLANG) $(CARGO) build $(PEERS) && load="$$($(CARGO) bench --locked --bench load --no-run --message-format=json | \
		sed -n '/"kind":\["bench"\]/s/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)" && \
	$(TARGET)/release/dstl-peers --load "$$load" $(ARGS)

bench-python: shipped-daemon ## Measure the client for Python beside redis-py (DSTL_BIN=… ARGS="--rounds 5")
	DSTL_BIN='$(abspath $(or $(DSTL_BIN),$(DSTL)))' clients/python/benches/run.sh $(ARGS)

check-java: ## Check for a JDK (17 or newer) and Maven; as root on Debian, install them
	@if ! javac -version >/dev/null 2>&1 || ! command -v mvn >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo 'check-java: javac or mvn is missing; installing default-jdk-headless and maven'; \
			apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends default-jdk-headless maven; \
		else \
			echo 'check-java: javac 17 or newer, or mvn, is missing: apt-get install default-jdk-headless maven' >&2; \
			exit 1; \
		fi; \
	fi

# Alerts, dashboard and metrics are checked with it; their tests leave it out where it is missing, but not in CI.
check-promtool: ## Check for promtool; as root on Debian, install it
	@if ! command -v promtool >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo 'check-promtool: promtool is missing; installing prometheus'; \
			{ apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends prometheus; } \
				|| [ "$${CI:-}" != true ]; \
		else \
			echo 'check-promtool: LEFT OUT, promtool is not installed (apt-get install prometheus)'; \
		fi; \
	fi

# A peer that is missing is left out, and the table says so.
check-peers: ## Check for Redis, a JDK and Maven; as root on Debian, install them
	@if ! command -v redis-server >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo 'check-peers: redis-server is missing; installing it' >&2; \
			{ apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends redis-server; } >&2 || true; \
		else \
			echo 'check-peers: LEFT OUT, redis-server is not installed (apt-get install redis-server)' >&2; \
		fi; \
	fi
	@$(MAKE) --no-print-directory check-java >&2 || true

# The status page is tested in it; that test leaves it out where it is missing, but not in CI.
check-chromium: ## Check for Chromium; as root on Debian, install it
	@if ! command -v chromium >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo 'check-chromium: chromium is missing; installing it'; \
			{ apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends chromium; } \
				|| [ "$${CI:-}" != true ]; \
		else \
			echo 'check-chromium: LEFT OUT, chromium is not installed (apt-get install chromium)'; \
		fi; \
	fi

check-tools: ## Check for cargo, rustc and compilers for C and C++; on Debian, as root or with sudo, install the compilers
	@missing=''; root=''; \
	if [ "$$(id -u)" != 0 ] && sudo -n true 2>/dev/null; then root='sudo -n'; fi; \
	if ! command -v cc >/dev/null || ! command -v c++ >/dev/null; then \
		if { [ "$$(id -u)" = 0 ] || [ -n "$$root" ]; } && command -v apt-get >/dev/null; then \
			echo 'check-tools: a C or C++ compiler is missing; installing g++ and libc6-dev'; \
			$$root apt-get update -q && $$root apt-get install -qy --no-install-recommends gcc g++ libc6-dev; \
		else \
			missing+=$$'\n  compilers for C and C++ (cc, c++): install the packages g++ and libc6-dev, as root: apt-get install g++ libc6-dev'; \
		fi; \
	fi; \
	if ! command -v $(CARGO) >/dev/null; then \
		missing+=$$'\n  cargo: install Rust $(MIN_RUST) or newer from https://rustup.rs'; \
	fi; \
	if ! command -v rustc >/dev/null; then \
		missing+=$$'\n  rustc: install Rust $(MIN_RUST) or newer from https://rustup.rs'; \
	else \
		found=$$(rustc --version | cut -d' ' -f2); \
		if [ "$$(printf '%s\n' '$(MIN_RUST)' "$$found" | sort -V | head -n1)" != '$(MIN_RUST)' ]; then \
			missing+=$$'\n  '"rustc $(MIN_RUST) or newer, this is $$found: rustup update stable"; \
		fi; \
	fi; \
	if [ -n "$$missing" ]; then \
		echo "check-tools: dstl cannot be built here; what is missing:$$missing" >&2; \
		exit 1; \
	fi
