# make demo: a physics campaign, from nothing to a plot. make test: everything that must hold.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules
.DELETE_ON_ERROR:
.SUFFIXES:

PYTHON ?= python3
UV_VERSION := 0.13.8
# Tests and the demo start hundreds of processes: where Python may keep no bytecode, each compiles every module again.
unexport PYTHONDONTWRITEBYTECODE
export VIRTUAL_ENV := $(CURDIR)/.venv
export PATH := $(CURDIR)/.venv/bin:$(PATH)

UV := .venv/bin/uv
RUN := .venv/bin/python -m
CODE := schemas pipeline executors consumers triggers tests examples docs
SCRIPTS := examples/zmumu/dimuon.py examples/zmumu/merge.py examples/zmumu/demo.py docs/generate.py

.PHONY: help demo test lint unit bench bench-queues bench-matching bench-lifecycle bench-scale simulate chaos docs lock clean
help:
	@echo "make demo    run the Z -> mu mu campaign on this machine; plot in build/demo/"
	@echo "make test    lint, types and all tests, against real servers"
	@echo "make lint    lint and types alone"
	@echo "make unit    the unit tests alone"
	@echo "make bench   benchmarks"
	@echo "make bench-queues  our consumer beside RQ, Celery and Dramatiq, on Redis and RabbitMQ"
	@echo "make bench-matching   matching with up to ten million waiting jobs, on MariaDB"
	@echo "make bench-lifecycle  100,000 jobs from submission to done, through 1,000 simulated pilots"
	@echo "make bench-scale  200,000 jobs through 1, 2 and 4 consumers of optimisation, on MariaDB"
	@echo "make simulate  a week of provisioning, simulated beside the rules of SiteDirector and GlideinWMS"
	@echo "make chaos   50,000 messages through each broker under random faults; prints what was lost and doubled"
	@echo "make docs    write the generated pages of docs/reference"
	@echo "make lock    resolve uv.lock anew, without the registry's host names"
	@echo "make clean   remove .venv and everything built"

demo: .venv/.demo
	@.venv/bin/python examples/zmumu/demo.py --to build/demo

# Three at a time, since they wait more than they work, the longest first; but for the tests that compare times or bring
# the machine to its limits.
test: lint
	$(RUN) pytest -n 3 --dist loadscope --no-loadscope-reorder -m "not alone" tests/acceptance tests/deploy tests/conformance tests/chaos tests/integration tests/simulation tests/unit
	$(RUN) pytest -m alone tests/integration/pilot tests/acceptance

lint: .venv/.test
	$(RUN) ruff check $(CODE)
	$(RUN) ruff format --check $(CODE)
	$(RUN) mypy --strict
	$(RUN) mypy --strict $(SCRIPTS)
	.venv/bin/vermin --no-tips --violations -t=3.6- pipeline/pilot

unit: .venv/.test
	$(RUN) pytest tests/unit

bench: .venv/.test
	$(RUN) tests.benchmarks

bench-queues: .venv/.test
	$(RUN) tests.benchmarks queues

bench-matching: .venv/.test
	$(RUN) tests.benchmarks matching

bench-lifecycle: .venv/.test
	$(RUN) tests.benchmarks lifecycle

bench-scale: .venv/.test
	$(RUN) tests.benchmarks scale

simulate: .venv/.test
	$(RUN) tests.simulation

chaos: .venv/.test
	$(RUN) tests.chaos

docs: .venv/.test
	.venv/bin/python docs/generate.py

# Nothing committed names a package registry (docs/decisions/0001-lock-without-hosts.md): whatever host a URL of the
# lock has, it is replaced; names, versions and hashes are what counts.
lock: .venv/.uv
	$(UV) lock
	sed -i -E \
		-e 's#registry = "[^"]*"#registry = "https://registry.invalid/simple"#g' \
		-e 's#\{ url = "[^"]*/([^"/]+)"#{ url = "https://registry.invalid/\1"#g' uv.lock

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# The environment: uv of one version, then exactly what uv.lock says, from whatever index this machine is set up for.
.venv/.uv:
	@deploy/setup.sh demo
	@[ -x .venv/bin/python ] && .venv/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install -q --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

define install
	@mkdir -p build
	@$(UV) export -q --frozen --no-header --no-emit-project --no-default-groups $(1) -o build/requirements.txt
	@$(UV) pip install -q --require-hashes -r build/requirements.txt
	@$(UV) pip install -q --no-deps --no-build-isolation -e .
	@touch $@
endef

.venv/.demo: .venv/.uv pyproject.toml uv.lock
	$(call install,--group build --group examples)

.venv/.test: .venv/.uv pyproject.toml uv.lock
	@PYTHON=.venv/bin/python deploy/setup.sh test
	$(call install,--group dev --extra mysql --extra htcondor --extra traces)
	@touch .venv/.demo
