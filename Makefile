# One recipe for each thing that CI does. A machine with python3 (3.11 or later, with venv and pip), git and make
# is enough: every recipe that needs the environment makes it first.

PYTHON ?= python3
PROCESSES := -n logical --maxprocesses 4
# These wait for servers, schedulers and timeouts more than they compute.
SLOW_PROCESSES := -n 3 --dist loadfile
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help venv demo test test-slow lint format types layers bench faults clean

help:
	@echo "make demo       a synthetic cohort, from scans to an open report, in demo-output/"
	@echo "make test       the tests, without those that take long"
	@echo "make test-slow  the tests that take long"
	@echo "make lint       ruff: rules and formatting      make format   apply them"
	@echo "make types      mypy, strict                    make layers   import-linter"
	@echo "make bench      ratios against named rivals; ONLY=<pattern> runs a part"
	@echo "make faults     twenty faults, injected; a line each; ONLY='F1 F7' runs some, FULL=1 all rounds"
	@echo "make clean      remove what the other recipes made"

venv: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[cluster,demo,test,dev]"
	@touch $@

demo: $(INSTALLED)
	$(BIN)/cohort demo demo-output

test: $(INSTALLED)
	$(BIN)/python -m pytest $(PROCESSES) -m "not slow"

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest $(SLOW_PROCESSES) -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(INSTALLED)
	$(BIN)/mypy

layers: $(INSTALLED)
	$(BIN)/lint-imports

bench: $(INSTALLED)
	$(BIN)/python tests/bench/run.py $(if $(ONLY),--only "$(ONLY)")

faults: $(INSTALLED)
	cd tests && $(abspath $(BIN))/python -m faults $(if $(FULL),--full) $(ONLY)

clean:
	rm -rf $(VENV) demo-output build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
