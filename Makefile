PYTHON ?= python3
BIN := .venv/bin

.PHONY: help install demo up test bench dashboards lint type format lock clean

help:            ## These lines
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ ##/' | column -t -s '##'

demo: install    ## Forecast real prices of five tickers, through Dagster
	@$(BIN)/stock-assets demo

up: install      ## Forecasts on :8000, Dagster on :3000, until Ctrl-C
	@$(BIN)/stock-assets up

test: lint type  ## Lint, types and the whole test suite
	$(BIN)/pytest

bench: install   ## Measure side by side, and write the tables into the README
	@$(BIN)/python -m tests.bench

dashboards: install ## Write the Grafana dashboards from their source
	@$(BIN)/python -m dashboards

lint: install    ## Format and lint rules hold
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

type: install    ## Types hold
	$(BIN)/mypy

format: install  ## Format, and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: install    ## Resolve the dependencies anew
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras \
		--generate-hashes --no-emit-index-url --no-annotate \
		--custom-compile-command "make lock" --output-file requirements.lock pyproject.toml

clean:           ## Remove the environment
	rm -rf .venv

install: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), \
		"Python 3.11 to 3.13 is needed, for example: make PYTHON=python3.12"'
	@echo "Setting up .venv from requirements.lock, once; this takes a minute or two"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@
