# Every command a developer types. Paths are relative throughout, so that a folder with a space in its name works.

PYTHON ?= python3
PIP := .venv/bin/python -m pip --quiet --quiet --no-input --disable-pip-version-check install
PINNED := $(PIP) --require-hashes --only-binary :all:
# "compat" puts this folder on the import path; the default lists today's packages and misses tomorrow's.
EDITABLE := $(PIP) --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Targets share one .venv, one state folder and two cores.
.NOTPARALLEL:
.PHONY: help demo test check bench up down migrate schemas docs verify-data e2e faults format pins clean remade

help: ## list these targets
	@awk -F ':[^#]*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

demo: .venv/ready ## run the main job on 44,000 genes and stay up (ONCE=1: stop afterwards)
	@.venv/bin/python -m services.cli demo $(if $(ONCE),--once)

# Two at a time: most tests wait for something. Each has a cluster of its own; a file stays together,
# and the files in the order of tests/conftest.py.
test: .venv/ready-dev ## run every test, with a real PostgreSQL and a real Kafka
	@.venv/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: .venv/ready-dev ## format, lint, types, imports, schema drift, unit tests
	@.venv/bin/ruff check
	@.venv/bin/ruff format --check
	@.venv/bin/mypy
	@.venv/bin/lint-imports --no-logo
	@.venv/bin/python -m pytest tests/contracts tests/unit

e2e: .venv/ready-dev ## run the whole system once, then with processes killed in the middle
	@.venv/bin/python -m pytest tests/e2e

MINUTES ?= 10
faults: .venv/ready-dev ## kill, freeze and cut off everything at random (MINUTES=10; SEED=… repeats one)
	@.venv/bin/python -m tests.faults --minutes "$(MINUTES)" $(if $(SEED),--seed "$(SEED)")

bench: .venv/ready ## measure throughput, latencies and start-up
	@.venv/bin/python -m benchmarks

DATA ?= ../shared/data
verify-data: .venv/ready-dev ## compare every value with the upstream files of a folder (DATA=…)
	@.venv/bin/python -m tests.verify --data "$(DATA)"

up: .venv/ready ## start the embedded cluster and the services
	@.venv/bin/python -m services.cli up

down: .venv/ready ## stop what `make up` started
	@.venv/bin/python -m services.cli down

migrate: .venv/ready ## bring schemas and topics to what this checkout needs
	@.venv/bin/python -m services.cli migrate

schemas: .venv/ready ## regenerate what is generated from contracts/
	@.venv/bin/python -m contracts.generate

docs: .venv/ready ## write docs/sources.md from what the sources declare
	@.venv/bin/python -m services.cli.describe

format: .venv/ready-dev ## rewrite the code the way `make check` wants it
	@.venv/bin/ruff check --fix-only
	@.venv/bin/ruff format

# The pins of one file are constraints of the next, so that the three agree; pins that still fit are kept.
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
  --no-emit-index-url --no-emit-find-links --only-binary :all: --no-binary forbiddenfruit
pins: ## compile requirements/*.in to pins with hashes (needs uv: pip install uv)
	@command -v uv >/dev/null || { echo "annobus: make pins needs uv on the PATH: pip install uv"; exit 1; } >&2
	@$(COMPILE) requirements/run.in --output-file requirements/run.txt
	@$(COMPILE) requirements/demo.in --constraints requirements/run.txt --output-file requirements/demo.txt
	@$(COMPILE) requirements/dev.in --constraints requirements/run.txt --constraints requirements/demo.txt \
	  --output-file requirements/dev.txt

clean: ## remove .venv; .annobus holds your data and stays
	@rm -rf .venv

# A .venv is not portable: one that was moved or copied here, or whose interpreter is gone, is made again.
ifneq ($(shell test -x .venv/bin/python && test "$$(cat .venv/location 2>&1)" = "$$(pwd -P)" && echo here),here)
.venv/created: remade
endif

.venv/created:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "annobus: '$(PYTHON)' is not a Python of version 3.11 or newer: install one (Debian, Ubuntu: the" \
	    "packages python3 and python3-venv) or name one with PYTHON=…, for example make demo PYTHON=python3.13."; exit 1; } >&2
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "annobus: '$(PYTHON)' cannot make a virtual environment: install the package python3-venv (Debian," \
	    "Ubuntu) or name another interpreter with PYTHON=…"; exit 1; } >&2
	@"$(PYTHON)" -m venv --clear .venv
	@pwd -P > .venv/location
	@touch $@

# $(call install,<what to say>,<command>) keeps pip's words in a file and shows its last ones only when it failed.
define install
	@echo "annobus: installing $(1) into .venv …"
	@$(2) > .venv/install.log 2>&1 || { tail -n 5 .venv/install.log; \
	  echo "annobus: $(1) could not be installed into .venv: check that the package registry answers and run" \
	    "the command again (all that pip said is in .venv/install.log)."; exit 1; } >&2
endef

.venv/packages: .venv/created requirements/run.txt requirements/demo.txt
	$(call install,the packages of requirements/run.txt and demo.txt,$(PINNED) -r requirements/run.txt -r requirements/demo.txt)
	@touch $@

.venv/ready: .venv/packages pyproject.toml
	$(call install,the command annobus,$(EDITABLE))
	@touch $@

# forbiddenfruit is the one package without a wheel. It is pure Python, checked by its hash like the rest, and
# built with the setuptools of requirements/run.txt: an isolated build would fetch one that nobody pinned.
.venv/packages-dev: .venv/packages requirements/dev.txt
	$(call install,the packages of requirements/dev.txt,$(PINNED) --no-binary forbiddenfruit --use-pep517 --no-build-isolation -r requirements/dev.txt)
	@touch $@

.venv/ready-dev: .venv/ready .venv/packages-dev
	@touch $@
