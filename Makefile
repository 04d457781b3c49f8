PYTHON ?= python3
BIN := .venv/bin
IMAGE = stock-assets:$(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' stock_assets/__init__.py)
DAGSTER = $(shell sed -n 's/^dagster==\([0-9.]*\).*/\1/p' requirements.lock)
KIND := --context kind-stock-assets --namespace stock-assets
KEY := dagster_home/kind.key
VALUES := $(patsubst %,--values helm-values/%.yaml,dagster service database network local)

OSV ?= https://api.osv.dev
SBOM ?= sbom.json

.PHONY: help install demo up test soak bench dashboards lint type format lock audit sbom clean image kind-up kind-demo kind-down

help:            ## These lines
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ ##/' | column -t -s '##'

demo: install    ## Forecast real prices of five tickers, through Dagster
	@$(BIN)/stock-assets demo

up: install      ## Forecasts on :8000, Dagster on :3000, until Ctrl-C
	@$(BIN)/stock-assets up

test: lint type  ## Lint, types and the whole test suite
	$(BIN)/pytest

soak: install    ## What takes hours: a thousand kills, half a million files, half an hour of everything at once
	STOCK_ASSETS_TEST_SOAK=yes $(BIN)/pytest -n0 -m soak

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

audit: install   ## Known holes of the locked packages, which OSV is asked for
	@$(BIN)/python -W ignore -c 'import requests; requests.post("$(OSV)/v1/query", timeout=10, json={ \
		"package": {"name": "jinja2", "ecosystem": "PyPI"}, "version": "2.4.1"}).json()["vulns"][0]' 2>/dev/null || \
		{ echo "$(OSV) cannot be reached from here, or knows no hole where there is one: nothing was audited"; exit 1; }
	$(BIN)/pip-audit --vulnerability-service osv --osv-url $(OSV)/v1/query --disable-pip --requirement requirements.lock

sbom: install    ## The locked packages as CycloneDX, with versions and hashes, in sbom.json
	@$(BIN)/python -W ignore -m cyclonedx_py requirements --pyproject pyproject.toml --output-reproducible \
		--output-file $(SBOM) requirements.lock

image:           ## The image for Kubernetes; needs Docker
	docker build --tag $(IMAGE) .

kind-up: install image ## The platform in a cluster on this machine; needs Docker, kind, kubectl and helm
	kind get clusters | grep -qx stock-assets || kind create cluster --name stock-assets
	kind load docker-image --name stock-assets $(IMAGE)
	kubectl $(KIND) get namespace stock-assets || kubectl $(KIND) create namespace stock-assets
	kubectl $(KIND) label --overwrite namespace stock-assets pod-security.kubernetes.io/enforce=restricted
	@kubectl $(KIND) get secret stock-assets-database || { password=$$(openssl rand -hex 24) && \
		kubectl $(KIND) create secret generic stock-assets-database \
			--from-literal=postgresql-password=$$password --from-literal=PGPASSWORD=$$password; }
	@kubectl $(KIND) get secret stock-assets-api || { \
		(umask 077; $(BIN)/stock-assets key ops --scope read --scope upload --scope train > $(KEY)) && \
		kubectl $(KIND) create secret generic stock-assets-api \
			--from-literal=STOCK_ASSETS_API_KEYS="$$(tail -n 1 $(KEY))"; }
	helm upgrade --install stock-assets dagster --repo https://dagster-io.github.io/helm --version $(DAGSTER) \
		--kube-context kind-stock-assets --namespace stock-assets \
		$(VALUES) --wait --wait-for-jobs --timeout 15m

kind-demo: kind-up ## Forecast real prices of five tickers in it
	@kubectl $(KIND) port-forward service/stock-assets-api 8080:80 >/dev/null & trap "kill $$!" EXIT; \
		curl --silent --retry 20 --retry-connrefused --output /dev/null http://127.0.0.1:8080/healthz && \
		STOCK_ASSETS_KEY=$$(head -n 1 $(KEY)) $(BIN)/python helm-values/demo.py http://127.0.0.1:8080

kind-down:       ## Remove that cluster
	kind delete cluster --name stock-assets

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
