# Every target but `lock` and `clean` first sees to it that .venv is complete: nothing has to be run before it.

PYTHON ?= python3
CONFIG ?= $(if $(RETRAIN_CONFIG),$(RETRAIN_CONFIG),config/retrain.yaml)
PORT ?= 3000
ARGS ?=
# Processes that run tests. More than two would disturb the few tests that start servers and daemons.
WORKERS ?= 2

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

VENV := .venv
BIN := $(VENV)/bin
PACKAGES := $(VENV)/.packages-installed
READY := $(VENV)/.ready
# --compile: without byte code every process that imports dagster starts in 3 s instead of 0.8 s.
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
INSTALL := $(PIP) install --compile --no-deps --no-build-isolation

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test check ui bench lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  ARGS=... is passed on (make test ARGS='-k canary'), CONFIG=... picks the problem of make ui."

setup: $(READY) ## create .venv with the pinned, hashed versions of constraints.txt

# The stamp is the last thing written, so an install that was interrupted is done again, from an empty .venv.
$(PACKAGES): constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "No '$(PYTHON)' here. Name one: make setup PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1). Name another: make setup PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing about 1.3 GB of pinned packages into $(VENV): 2 to 5 minutes, once."
	@if [ -e $@ ]; then rm $@; else $(PYTHON) -m venv --clear $(VENV); fi
	@awk '/^[^ #]/ {keep = /^(pip|setuptools|wheel)==/} keep' constraints.txt > $(VENV)/build-tools.txt
	@$(INSTALL) --quiet --require-hashes -r $(VENV)/build-tools.txt
	@$(INSTALL) --progress-bar off --require-hashes -r constraints.txt | awk ' \
	    /^(Collecting|Processing) / {n++; sub(/.*\//, "", $$2); printf "  %3d  %s\n", n, $$2; fflush()} \
	    /^Installing collected/ {print "  unpacking and compiling them: about a minute"; fflush()}'
	@$(PIP) check
	@touch $@

$(READY): $(PACKAGES) pyproject.toml
	@PYTHONWARNINGS=ignore $(INSTALL) --quiet --editable .
	@touch $@

demo: $(READY) ## run the demonstration: 16 weeks of real flights, retrained, canaried, promoted, rolled back
	@$(BIN)/retrain demo $(ARGS)

test: $(READY) ## run every test (ARGS="-m 'not slow'" for the quick ones)
	@$(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=worksteal $(ARGS)

check: $(READY) ## lint, formatting, types and import layers: what CI runs before the tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

ui: $(READY) ## open the Dagster UI with its daemon on 127.0.0.1:3000 (PORT=..., CONFIG=config/flights.yaml)
	@test -f "$(CONFIG)" || { echo "There is no config at $(CONFIG). Name one: make ui CONFIG=config/retrain.yaml" >&2; exit 2; }
	@echo "Dagster UI of $(CONFIG): http://127.0.0.1:$(PORT) (Ctrl-C ends it)"
	@RETRAIN_CONFIG="$(abspath $(CONFIG))" DAGSTER_HOME="$${DAGSTER_HOME:-$(CURDIR)}" DAGSTER_DISABLE_TELEMETRY=yes \
	    PYTHONWARNINGS="$${PYTHONWARNINGS:-ignore:::click.core}" \
	    $(BIN)/dagster dev -h 127.0.0.1 -p $(PORT) -w workspace.yaml $(ARGS)

bench: $(READY) ## measure every budget and write JSON to benchmarks/results/ (ARGS="canary engine" for some)
	@$(BIN)/python benchmarks/run.py $(ARGS)

lock: $(PACKAGES) ## pin and hash the dependencies of pyproject.toml again (ARGS=--upgrade for the newest)
	@printf 'pip\nsetuptools\nwheel\n' | $(BIN)/uv pip compile pyproject.toml - --quiet --all-extras --universal \
	    --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate \
	    --custom-compile-command 'make lock' --output-file constraints.txt $(ARGS)

clean: ## remove .venv and what the tools made; data in .retrain/ stays
	@rm -rf $(VENV) .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info \
	    .tmp_dagster_home_* benchmarks/results
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
