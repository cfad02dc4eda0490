# make demo and make test do all their own set-up; they need git, make and Python >= 3.11.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# Each command that a test starts would compile all that it imports, a third of its time.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 3
COVER ?= here
SEED ?= $(shell date +%s)
MINUTES ?= 15
SUITE ?= all
ONLY ?=
DEMO := examples/hello

.PHONY: help demo test check faults torture bench schemas locks clean

help: ## Show what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(VENV)/.python-ok:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "falplan needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.python-ok
	@echo "Installing falplan into $(VENV) ..."
	@$(BIN)/pip install -q --disable-pip-version-check uv
	@$(BIN)/uv pip install -q --python $(BIN)/python -e . 'fal-client>=0.5'
	@touch $@

$(VENV)/.dev-installed: pyproject.toml $(VENV)/.installed
	@echo "Installing what the tests need ..."
	@$(BIN)/uv pip install -q --python $(BIN)/python -e '.[dev]'
	@touch $@

demo: $(VENV)/.installed ## Deploy examples/hello on this machine and call it with fal_client
	@$(BIN)/falplan -C $(DEMO) apply --auto-approve
	@echo
	@echo "Calling it with the fal_client package:"
	@$(BIN)/falplan -C $(DEMO) exec -- $(abspath $(BIN))/python $(DEMO)/client.py
	@echo
	@$(BIN)/falplan -C $(DEMO) apps list
	@echo
	@echo "Try next:"
	@echo "  edit $(DEMO)/app.py, then    $(BIN)/falplan -C $(DEMO) plan"
	@echo "                               $(BIN)/falplan -C $(DEMO) apply"
	@echo "  call it from the shell:      $(BIN)/falplan -C $(DEMO) call hello '{\"name\": \"you\"}'"
	@echo "  see its runners:             $(BIN)/falplan -C $(DEMO) runners list"
	@echo "Stop everything:               $(BIN)/falplan -C $(DEMO) destroy --auto-approve"

test: check ## Lint, types, layers, all tests; COVER=all measures what they start, too
	@$(BIN)/coverage erase
	@COVER=$(COVER) $(BIN)/coverage run -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not faults and not bench" $(TESTS)
	@$(BIN)/coverage combine -q
	@$(BIN)/coverage report --format=total | xargs echo "Coverage (lines and branches, %):"

check: $(VENV)/.dev-installed ## Lint, types and layers alone
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

faults: $(VENV)/.dev-installed ## Kills and other faults, bounded by MINUTES, and properties with more examples; the seed is printed
	@$(BIN)/pytest -q -n $(WORKERS) --dist worksteal -m "faults or hypothesis" --hypothesis-profile thorough $(TESTS)
	@$(BIN)/python -m tests.faults.run --suite $(SUITE) --minutes $(MINUTES) --seed $(SEED)

torture: $(VENV)/.dev-installed ## The full counts: make torture SUITE=apply MINUTES=60 SEED=1; adds up over runs
	@$(BIN)/python -m tests.faults.run --suite $(SUITE) --minutes $(MINUTES) --seed $(SEED) --only "$(ONLY)" --full

bench: $(VENV)/.dev-installed ## Ratios against a peer or a limit in the same run
	@$(BIN)/pytest -q -s -m bench -p no:randomly tests/bench tests/gateway/test_keys.py

schemas: $(VENV)/.dev-installed ## Write schemas/ and docs/reference/ from the models
	@$(BIN)/python -m tests.generated

LOCK = $(BIN)/uv pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url --custom-compile-command 'make locks'

locks: $(VENV)/.dev-installed ## Write .ci/requirements/*.txt anew: the newest releases that are allowed, with their hashes
	@$(LOCK) pyproject.toml .ci/requirements/backend.in -o .ci/requirements/locked.txt
	@$(LOCK) -c .ci/requirements/locked.txt .ci/requirements/build.in -o .ci/requirements/build.txt

clean: ## Remove the virtual environment and caches
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
