# Every target says what it does on stderr; stdout carries results only. ARGS goes to the command.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := test
MAKEFLAGS += --no-builtin-rules --no-print-directory

ARGS ?=
VENV := .venv
STAMP := $(VENV)/.setup-stamp
PYTHON := $(VENV)/bin/python
PYTEST := $(PYTHON) -Im pytest
BUILD := $(CURDIR)/build
SOURCES := operator runtime billing tests

.PHONY: setup demo check test test-unit test-integration test-cluster test-chart test-long test-scale docs-check bench \
	image cluster cluster-down clean

setup: $(STAMP) ## .venv/bin/tidegate with everything it needs, from uv.lock
	@:

$(STAMP): pyproject.toml uv.lock
	@echo "setup: installing the locked packages into $(VENV)" >&2
	@uv=$$(.ci/find-uv); UV_PROJECT_ENVIRONMENT=$(VENV) "$$uv" sync --frozen --all-extras >&2
	@touch $@

demo: setup ## the main job, end to end: ARGS="--engine sim" needs no model and no download
	@$(VENV)/bin/tidegate demo $(ARGS)

check: setup ## format, lint, layering, types, sizes: 60 s
	@echo "check: format and lint" >&2
	@$(VENV)/bin/ruff format --check --quiet $(SOURCES)
	@$(VENV)/bin/ruff check --quiet $(SOURCES)
	@echo "check: layering" >&2
	@$(VENV)/bin/lint-imports --no-logo >&2
	@echo "check: types" >&2
	@$(VENV)/bin/mypy --no-error-summary >&2
	@echo "check: sizes" >&2
	@$(PYTEST) -q tests/unit/test_size_limits.py >&2

test: check ## everything that must be green; one run, so that its closing line counts it all
	@echo "test: unit, chart, integration, and a real cluster of two nodes" >&2
	@$(PYTEST) tests/unit tests/chart tests/integration tests/cluster $(ARGS)

test-unit: setup
	@$(PYTEST) tests/unit $(ARGS)

test-integration: setup
	@$(PYTEST) tests/integration $(ARGS)

docs-check: setup ## what the documentation says, run; its SDKs come from PyPI and npm
	@TEST_REGISTRIES=1 $(PYTEST) tests/unit/test_documents.py tests/unit/test_reference_doc.py \
		tests/unit/test_explanation_doc.py tests/integration/test_howtos.py tests/integration/test_tutorial.py $(ARGS)

bench: setup ## router bench kit: ours beside every peer that is installed
	@mkdir -p $(BUILD)/bench
	@$(PYTHON) tests/bench/compare.py --root $(BUILD)/bench $(ARGS)

test-cluster: setup ## a real Kubernetes, two nodes; or KUBECONFIG=... TEST_IMAGE=... for another one
	@$(PYTEST) tests/cluster $(ARGS)

test-chart: setup ## the chart rendered, and every object validated offline
	@$(PYTEST) tests/chart $(ARGS)

test-long: setup ## what takes long: wakes, motion, scale (ARGS="--part motion" for one of them)
	@$(PYTHON) tests/cluster/long.py $(ARGS)

test-scale: setup ## 1,000 models and 2,000 simulated pods: what operator and router cost (docs/scale.md)
	@$(PYTHON) tests/cluster/scale.py $(ARGS)

image: setup ## the shipped image (ARGS="tidegate vllm-cpu" for both), by buildah
	@$(PYTHON) tests/cluster/harness/images.py $(or $(ARGS),tidegate) >&2

cluster: setup ## a two-node cluster on this machine; its kubeconfig's path is the last line
	@$(PYTHON) tests/cluster/harness/cli.py up

cluster-down: setup
	@$(PYTHON) tests/cluster/harness/cli.py down

clean: ## what this Makefile made here; shared caches stay
	@rm -rf $(VENV) .tools build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache
