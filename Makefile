# intent_ref: ground.make
# `make` lists what it can do. Everything is installed into .venv, by exact versions and hashes.
.DEFAULT_GOAL := help
.PHONY: help demo serve test endurance lint bench pins clean
SHELL := /bin/sh
BIN := .venv/bin
# Hundreds of tests start a process: each would compile every module again.
unexport PYTHONDONTWRITEBYTECODE
# Three for two cores: most tests wait for a server now and then.
TEST_PROCESSES ?= 3
PINS = uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --quiet \
	--no-emit-index-url --no-header --no-annotate --no-emit-package quantum

help: ## Lists the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: .venv/runtime ## Takes an intent from definition to completed execution, and explains what happens
	@$(BIN)/quantum demo

serve: .venv/runtime ## Runs the platform at http://127.0.0.1:8000 until Ctrl-C
	@exec $(BIN)/quantum serve

test: lint ## Lint, then the quick tests, then the slow ones
	$(BIN)/python -m pytest -q -n $(TEST_PROCESSES) --dist loadfile -m "not slow and not chaos"
	$(BIN)/python -m pytest -q -n $(TEST_PROCESSES) --dist loadfile -m "(slow or chaos) and not endurance"

endurance: .venv/dev ## The longest tests: whole suites over brokers that break, and thousands of random requests
	$(BIN)/python -m pytest -q -m endurance

lint: .venv/dev ## Style, types, import contracts and house rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest -q tests/unit/test_house_rules.py

bench: .venv/dev ## Benchmarks, each figure beside its peer or limit
	@$(BIN)/python -m bench

pins: ## Renews constraints.txt and constraints-dev.txt to the newest versions (needs uv)
	@$(PINS) --upgrade --extra build -o .pins.tmp
	@{ sed 2q constraints.txt; grep -v '^#' .pins.tmp; } > .pins.new && mv .pins.new constraints.txt
	@$(PINS) --upgrade --all-extras -c constraints.txt -o .pins.tmp
	@{ sed 2q constraints-dev.txt; grep -v '^#' .pins.tmp; } > .pins.new && mv .pins.new constraints-dev.txt
	@rm .pins.tmp

clean: ## Removes .venv and what tools have cached
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The two stamps say that what the pins ask for is installed. An installation that was cut short is done again.
.venv/runtime: constraints.txt pyproject.toml
	@python=; for one in python3 python3.13 python3.12 python3.11; do \
		if $$one -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$one; break; fi; done; \
	if [ -z "$$python" ]; then echo "Quantum needs Python 3.11 or newer: install it, and see that python3 is found." >&2; exit 1; fi; \
	echo "Installing into .venv (once, until the pins change) ..."; \
	$$python -m venv --clear .venv || { echo "The module venv is missing: on Debian, install python3-venv." >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r constraints.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv/dev: constraints-dev.txt .venv/runtime
	@echo "Installing the development tools into .venv (once, until the pins change) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r constraints-dev.txt
	@touch $@
