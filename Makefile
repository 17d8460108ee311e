# Everything here works from a clean clone with Python 3.11 or newer, pip and make alone.
# PYTHON chooses the interpreter that makes the environment, VENV where it lies.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := outputs/demo

.DEFAULT_GOAL := help
.PHONY: help demo test check faults bench collector generated constraints clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.core ## run a small language-model pipeline, then print where its time went
	$(BIN)/python examples/lm_pipeline.py --small --prefix $(DEMO) --run-json $(DEMO)/run.json
	$(BIN)/otel-exec summary $(DEMO)/run.json

test: check ## everything that CI runs: the checks, then all tests
	OTEL_EXEC_REQUIRE="ray$${OTEL_EXEC_REQUIRE:+,$$OTEL_EXEC_REQUIRE}" $(BIN)/python -m pytest

check: $(VENV)/.dev ## the checks that run nothing: ruff, mypy, import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

faults: $(VENV)/.dev ## kill, damage and soak for about an hour; seeds are printed
	PYTHONPATH=tests $(BIN)/python -m faults.kill_driver --times 200
	PYTHONPATH=tests $(BIN)/python -m faults.kill_worker --times 200
	PYTHONPATH=tests $(BIN)/python -m faults.many_drivers --drivers 20
	PYTHONPATH=tests $(BIN)/python -m faults.fuzz --mutations 10000
	PYTHONPATH=tests $(BIN)/python -m faults.soak --minutes 10 --spans 1000000
	$(BIN)/python tests/faults/ray_kills.py --kills 100
	$(BIN)/python tests/faults/ray_head.py $$(mktemp -d)
	$(BIN)/python tests/faults/ray_memory.py $$(mktemp -d)

bench: $(VENV)/.bench ## the benchmarks, side by side with peers
	$(BIN)/python bench/run.py

collector: ## build the OpenTelemetry Collector that tests and CI run (needs Go; some minutes, once)
	collector-config/build.sh

generated: $(VENV)/.core ## write anew what is made from the registry of names
	$(BIN)/python docs/generate_semconv.py
	$(BIN)/python dashboards/generate.py

constraints: ## resolve constraints.txt again (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --extra dev --extra bench --extra ray \
	  --custom-compile-command "make constraints" pyproject.toml -o constraints.txt

clean: ## remove the environment and what tools left behind; outputs/ stays
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage

# The stamps say what is installed: again only when what is wanted has changed.
# The build backend is installed first, pinned like the rest, instead of whichever is newest into an environment that is thrown away.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is %s: make PYTHON=python3.11" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) hatchling editables
	$(INSTALL) --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	$(INSTALL) --no-build-isolation -e '.[dev,ray]'
	@touch $@

$(VENV)/.bench: $(VENV)/.core
	$(INSTALL) --no-build-isolation -e '.[bench,ray]'
	@touch $@
