# One verb per thing a person does; the same verbs run locally and in CI.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
export PITWALL_HOME ?= $(CURDIR)/data

.PHONY: help venv demo serve test test-fast lint fmt bench clean

help: ## list the verbs
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

venv: $(VENV)/.installed ## create .venv and install everything, once

$(VENV)/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Pitwall needs Python 3.11 or 3.12: not found as '$(PYTHON)'. Try: make $(MAKECMDGOALS) PYTHON=python3"; exit 2; }
	@echo "Installing into $(VENV) (about two minutes the first time) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: venv ## simulate seasons, run the whole loop, print the verdict, a lookup and a prediction
	@$(BIN)/pitwall run --source simulator --seasons 5 --races 16 --seed 7
	@$(BIN)/pitwall lookup --race latest --driver ines_dubois
	@$(BIN)/pitwall predict --race latest

serve: venv ## serve the home over HTTP on port 8000
	@$(BIN)/pitwall serve

test: venv ## all tests, with coverage
	@rm -f .coverage .coverage.*
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report=term --cov-fail-under=80

test-fast: venv ## unit tests only
	$(BIN)/python -m pytest -n 2 -q tests/unit

lint: venv ## ruff, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: venv ## format and sort imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: venv ## speed as ratios against a reference measured in the same run
	@$(BIN)/python tests/benchmarks/run.py

clean: ## remove the environment and the caches of tools; a home (PITWALL_HOME) stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
