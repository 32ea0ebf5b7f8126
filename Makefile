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

.PHONY: install serve stop test test-rust test-python test-through fuzz audit check format bench bench-bundle bench-cluster bench-gateway bench-image bench-parameters bench-startup bench-traffic bench-cli soak docs site test-wheels wheels clean

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

## test-through: the end-to-end tests once more, over TCP, TLS and HTTP/2 through nginx, as to a cluster
test-through: install $(VENV)/.dev
	FLYTE_TEST_THROUGH=nginx $(BIN)/python -m pytest -q tests/python/e2e

FUZZ_SECONDS ?= 600

## fuzz: every reader of what is not trusted, FUZZ_SECONDS each; needs `cargo install cargo-fuzz` and a nightly toolchain
fuzz:
	for target in $(basename $(notdir $(wildcard tests/fuzz/targets/*.rs))); do \
		cargo +nightly fuzz run --fuzz-dir tests/fuzz --sanitizer none $$target -- \
			-max_total_time=$(FUZZ_SECONDS) -timeout=10 || exit 1; done

## audit: licences and sources of crates, and what is known against them and against Python packages (needs cargo-deny and cargo-audit)
audit: $(BIN)/python
	.ci/audit

## check: format, lints, types, layering, audit; AUDIT_OFFLINE=1 where the lists of advisories cannot be reached
check: install $(VENV)/.dev audit
	cargo fmt --check
	cargo clippy --quiet --all-targets -- -D warnings
	cargo clippy --quiet --all-targets --features python -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --quiet --no-deps
	cargo test --quiet --test rust
	$(BIN)/ruff check python tests examples benches docs/generate.py
	$(BIN)/ruff format --check python tests examples benches docs/generate.py
	$(BIN)/mypy python/flyte
	$(BIN)/python -m mypy.stubtest --allowlist tests/typing/stubtest.allow flyte._init flyte._serving flyte.remote._app flyte._native

## format: rewrite sources in the project's form
format: $(VENV)/.dev
	cargo fmt
	$(BIN)/ruff format python tests examples benches docs/generate.py
	$(BIN)/ruff check --fix python tests examples benches docs/generate.py

## bench: every figure, each against a named peer, into benches/results.md; BENCHES="cli bundle" for some
bench: install $(VENV)/.dev
	PATH=$(BIN):$$PATH $(BIN)/python benches/suite.py $(BENCHES)

## bench-bundle: bundling, beside tar | zstd and the PyPI SDK
bench-bundle: $(BIN)/python
	$(BIN)/python benches/bundle.py

## bench-gateway: the gateway beside nginx (needs nginx and wrk)
bench-gateway: install
	$(BIN)/python benches/gateway.py

## bench-traffic: rollouts under load, cold starts, streams that last, 200 apps at zero, hot reload
bench-traffic: install
	for name in rollouts cold_start streams many_apps watch; do $(BIN)/python benches/$$name.py || exit 1; done

## bench-cluster: serving over TCP beside the PyPI SDK, on one platform
bench-cluster: install
	$(BIN)/python benches/foreign.py

## bench-parameters: a folder of 2 GB from S3, beside `aws s3 cp` (needs go)
bench-parameters: install
	$(BIN)/python benches/parameters.py

## bench-startup: what `fserve` adds to the start of an app, beside plain Python
bench-startup: install
	$(BIN)/python benches/startup.py

## bench-image: environments beside bare uv, images beside the Docker Engine (needs docker, docker-registry and the base image)
bench-image: install
	$(BIN)/python benches/environments.py
	$(BIN)/python benches/image.py

## bench-cli: what a command costs before it does anything, beside the PyPI SDK
bench-cli: install
	$(BIN)/python benches/cli.py

HOURS ?= 2

## soak: HOURS of a platform's life, and whether anything that it holds grows
soak: install
	$(BIN)/python benches/soak.py --hours $(HOURS)

## docs: write the pages that are made from the source
docs: install
	$(BIN)/python docs/generate.py

## site: the documentation as HTML, in `site`
site: docs
	$(BIN)/uv tool run --from mkdocs --with mkdocs-material mkdocs build --strict

## wheels: what is published, in `dist`: a wheel for this machine's glibc and newer (maturin's own audit), and the sources
wheels: $(BIN)/python
	rm -rf dist
	$(BIN)/maturin build --release --compatibility pypi --out dist --interpreter $(BIN)/python
	$(BIN)/maturin sdist --out dist

## test-wheels: each of them in a clean environment without a network, for each Python of PYTHONS; after `make wheels`
PYTHONS ?= $(PYTHON)
test-wheels: $(BIN)/python
	$(BIN)/python tests/wheels.py dist $(PYTHONS)

clean:
	rm -rf $(VENV) $(CARGO_TARGET_DIR)
