# Two commands matter: `make serve` and `make test`. Everything needed is set up on the way.

PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR
WHEELS := $(CARGO_TARGET_DIR)/wheels
# The release profile in all the project's own ways of building; `make PROFILE=dev install` is quicker to build.
PROFILE ?= release
SOURCES := $(shell find src proto python -type f -not -name '*.pyc' 2>/dev/null) Cargo.toml Cargo.lock pyproject.toml
# Packages of the `dev` group of pyproject.toml, which an installer of the machine may be too old to read.
DEV := $(shell sed -n 's/^dev = \[\(.*\)\]/\1/p' pyproject.toml | tr -d '",')

.PHONY: install serve stop test test-rust test-python fuzz audit check format bench bench-bundle bench-cluster bench-gateway bench-image bench-parameters bench-startup bench-traffic bench-cli crash soak docs site test-wheels wheels clean threats peers bench-streams test-through

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet 'maturin>=1.9,<2' uv

# The installed wheel, marked so that nothing is built twice.
$(VENV)/.installed: $(BIN)/python $(SOURCES)
	rm -rf $(WHEELS)
	$(BIN)/maturin build --profile $(PROFILE) --out $(WHEELS) --interpreter $(BIN)/python
	$(BIN)/uv pip install --quiet --python $(BIN)/python --reinstall-package flyte-rs $(WHEELS)/flyte_rs-*.whl
	touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(DEV)
	touch $@

## install: .venv with the release build
install: $(VENV)/.installed

## serve: serve examples/hello.py and print its URL
serve: install
	@$(BIN)/python examples/hello.py

## stop: end the local platform and its apps
stop: install
	@$(BIN)/flyte local stop

## test: every test
test: test-rust test-python

# The environment builder is tested with the real `uv`.
test-rust: $(BIN)/python
	PATH=$(BIN):$$PATH cargo test --quiet

test-python: install $(VENV)/.dev
	$(BIN)/python -m pytest -q

## threats: the tests of the threat model, and its table with what became of each
threats: install $(VENV)/.dev
	PATH=$(BIN):$$PATH $(BIN)/python tests/threats.py

## test-through: the end-to-end tests once more, over TCP, TLS and HTTP/2 through nginx, as to a cluster
test-through: install $(VENV)/.dev
	FLYTE_TEST_THROUGH=nginx $(BIN)/python -m pytest -q tests/python/e2e

FUZZ_SECONDS ?= 600
# Some of them, by name; all when it is left out.
FUZZ_TARGETS ?=

## fuzz: every reader of what is not trusted, FUZZ_SECONDS each, noted in tests/fuzz/RESULTS.md; needs a nightly toolchain
fuzz:
	cargo +nightly fuzz --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-fuzz
	$(PYTHON) tests/fuzz/run.py --seconds $(FUZZ_SECONDS) $(FUZZ_TARGETS)

## audit: licences and sources of crates, and what is known against them and against Python packages (needs cargo-deny, and cargo-audit for the last)
audit: $(BIN)/python
	.ci/audit

# What is promised to users, and what Rust promises to Python, `App` first: mypy does not find its attributes otherwise. The rest has no stubs that could differ from it; modules with
# names that are there for type checkers alone are left to mypy.
STUBTESTED := flyte._init flyte._serving flyte.remote._app flyte._native flyte.errors flyte._environment flyte._build \
	flyte._deployment flyte._secret flyte._lifecycle flyte._runtime flyte._cli flyte.app._types flyte.app._context \
	flyte.app._connector flyte.remote._status flyte.app.extras._fastapi flyte.app.extras._webhook

## check: format, lints, types, layering, documentation, audit; AUDIT_OFFLINE=1 where the lists of advisories cannot be reached
check: install $(VENV)/.dev audit
	cargo fmt --check
	cargo clippy --quiet --all-targets -- -D warnings
	cargo clippy --quiet --all-targets --features python -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --quiet --no-deps
	cargo test --quiet --test rust
	$(BIN)/ruff check python tests examples benches docs/generate.py
	$(BIN)/ruff format --check python tests examples benches docs/generate.py
	$(BIN)/mypy python/flyte
	$(BIN)/python -m mypy.stubtest --allowlist tests/typing/stubtest.allow $(STUBTESTED)
	$(BIN)/uv tool run --from mkdocs --with mkdocs-material mkdocs build --quiet --strict --site-dir $(CARGO_TARGET_DIR)/site

## format: rewrite sources in the project's form
format: $(VENV)/.dev
	cargo fmt
	$(BIN)/ruff format python tests examples benches docs/generate.py
	$(BIN)/ruff check --fix python tests examples benches docs/generate.py

# Seconds for which event streams are read; 600 for the ten minutes that are promised.
STREAM_SECONDS ?= 20

## bench: every figure, each against a named peer, into benches/results.md; BENCHES="cli bundle" for some
bench: install $(VENV)/.dev peers
	PATH=$(BIN):$$PATH FLYTE_BENCH_STREAM_SECONDS=$(STREAM_SECONDS) $(BIN)/python benches/suite.py $(BENCHES)

## peers: what is compared with: programs of Debian (as root), packages of PyPI in environments below benches/.peers
peers: $(BIN)/python
	PATH=$(BIN):$$PATH $(BIN)/python benches/peers.py

## bench-bundle: bundling, beside tar | zstd and the PyPI SDK
bench-bundle: $(BIN)/python
	$(BIN)/python benches/bundle.py

## bench-gateway: the gateway beside nginx
bench-gateway: install peers
	$(BIN)/python benches/gateway.py

## bench-traffic: rollouts under load, cold starts, streams that last, 200 apps at zero, hot reload
bench-traffic: install
	for name in rollouts cold_start streams many_apps watch; do \
		FLYTE_BENCH_STREAM_SECONDS=$(STREAM_SECONDS) $(BIN)/python benches/$$name.py || exit 1; done

## bench-streams: large uploads, WebSockets across rollouts, and event streams of ten minutes
bench-streams: STREAM_SECONDS = 600
bench-streams: install
	$(BIN)/python benches/streams.py --seconds $(STREAM_SECONDS)

## bench-cluster: serving over TCP beside the PyPI SDK, on one platform
bench-cluster: install
	$(BIN)/python benches/foreign.py

## bench-parameters: a folder of 2 GB from S3, beside `aws s3 cp` (needs go)
bench-parameters: install
	$(BIN)/python benches/parameters.py

## bench-startup: what `fserve` adds to the start of an app, beside plain Python
bench-startup: install
	$(BIN)/python benches/startup.py

## bench-image: environments beside bare uv, images beside the Docker Engine
bench-image: install peers
	$(BIN)/python benches/environments.py
	$(BIN)/python benches/image.py

## bench-cli: what a command costs before it does anything, beside the PyPI SDK
bench-cli: install
	$(BIN)/python benches/cli.py

ROUNDS ?= 500
SEED ?= $(shell date +%N | sed 's/^0*//')

## crash: ROUNDS of kills at random moments and named points, and whether anything was lost; SEED repeats a run
crash: install
	$(BIN)/python tests/crash --rounds $(ROUNDS) --seed $(SEED)

HOURS ?= 2

## soak: HOURS of a platform's life, and whether anything that it holds grows
soak: install
	$(BIN)/python benches/soak.py --hours $(HOURS)

## docs: write the pages that are made from the source
docs: install
	$(BIN)/python docs/generate.py

.PHONY: screenshots test-first-time

## screenshots: what people see, into docs/looks (needs chromium)
screenshots: install $(VENV)/.dev
	$(BIN)/python tests/screenshots.py

## site: the documentation as HTML, in `site`
site: docs
	$(BIN)/uv tool run --from mkdocs --with mkdocs-material mkdocs build --strict

## wheels: what is published, in `dist`: a wheel for this machine's glibc and newer (maturin's own audit), and the sources
wheels: $(BIN)/python
	rm -rf dist
	$(BIN)/maturin build --release --compatibility pypi --out dist --interpreter $(BIN)/python
	$(BIN)/maturin sdist --out dist

## test-wheels: each of them in a clean environment without a network, and `pip install .`; PYTHONS are all of 3.10 to 3.13
test-wheels: wheels
	$(BIN)/python tests/wheels.py dist --checkout $(PYTHONS)

## test-first-time: what README tells somebody new, typed into a shell with a home that is new
test-first-time:
	$(PYTHON) tests/first_time.py

clean:
	rm -rf $(VENV) $(CARGO_TARGET_DIR)
