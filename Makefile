# `make help` lists the targets; README's commands do without make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup fmt lint types imports check test test-system demo bench lock

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: .venv/.done  ## Make .venv with everything that development needs

.venv/.done: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -c constraints.txt -e '.[dev]'
	touch $@

fmt: setup  ## Format
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lint: setup  ## Style
	$(BIN)/ruff format --check
	$(BIN)/ruff check

types: setup  ## mypy, strict
	$(BIN)/mypy

imports: setup  ## Who may import whom
	$(BIN)/lint-imports

check: lint types imports  ## All that needs no test run

test: setup  ## The fast lane: no root, no system package
	$(BIN)/pytest

test-system: setup  ## The system lane: large downloads, system packages
	$(BIN)/pytest -m system

demo: setup  ## A real model answers
	$(BIN)/lemonade-serve demo

bench: setup  ## Measure; see docs/performance.md
	$(BIN)/python -m benchmarks.overhead

lock:  ## Write constraints.txt anew from what pyproject.toml allows today
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install '.[dev]'
	.venv-lock/bin/pip freeze --exclude lemonade-serve > constraints.txt
	rm -rf .venv-lock
