# Every target installs what it needs into .venv first; repeated calls are instant.
#
#   make demo     run the real job: index the standard library, then compare the pools
#   make test     run the tests; of those that run on many pools and brokers a part (ALL=1: on every one)
#   make check    ruff, mypy --strict, the floors test, stubtest of the core
#   make bench    compare the pools (BENCH= passes arguments on, such as BENCH=--benchmark-compare)
#   make fuzz     mutate a million messages and feed them to every decoder (INPUTS=1000000)
#   make chaos    kill processes and servers, many rounds (ROUNDS=10)
#   make chaos MINUTES=10    the soak: full speed with a fault every 5 s, then a count (SEED= POOLS="prefork gevent" BROKER=sqlite EVERY=5 STEER=0.5 BEATS=2)
#   make docs     write docs/settings.md from the settings table
#   make build    only create .venv and build the core in place
#
# Another interpreter: make PYTHON=python3.13 VENV=.venv313 test

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build
.DELETE_ON_ERROR:

VENV ?= .venv
PY := $(VENV)/bin/python
# twice quiet: errors only, not pip's warnings about indexes and caches
PIP := $(PY) -m pip install --quiet --quiet --disable-pip-version-check
ROUNDS ?= 10
MINUTES ?=
SEED ?=
POOLS ?=
BROKER ?= redis
EVERY ?= 5
STEER ?= 0.5
BEATS ?= 2
TESTS ?= tests
ALL ?=
INPUTS ?= 1000000
BENCH ?=

# python3 if it is new enough, else the newest that is
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

CORE := setup.py $(wildcard fastq/*.pyx fastq/*.pxi fastq/*.pxd fastq/*.h)

.PHONY: build demo test check bench chaos fuzz docs clean

build: $(VENV)/.stamp-core

$(PY):
	@test -n "$(PYTHON)" || { echo "fastq needs Python 3.11 or newer: none of python3, python3.11 .. python3.14 is; say which: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fastq needs Python 3.11 or newer; $(PYTHON) is older" >&2; exit 1; }
	@echo "Creating $(VENV) with $$($(PYTHON) --version)."
	@$(PYTHON) -m venv $(VENV) || { echo "cannot create $(VENV): on Debian and Ubuntu, apt install python3-venv" >&2; rm -rf $(VENV); exit 1; }

# The editable install also builds the core; later changes of the core alone take the rule below.
$(VENV)/.stamp-install: pyproject.toml setup.py | $(PY)
	@echo "Installing fastq and what its tests need into $(VENV); this takes a minute."
	@$(PIP) 'setuptools>=77' 'Cython>=3.1'
	@$(PIP) --no-build-isolation --editable '.[test]'
	@touch $@

$(VENV)/.stamp-core: $(CORE) $(VENV)/.stamp-install
	$(PY) setup.py --quiet build_ext --inplace
	@touch $@

$(VENV)/.stamp-dev: pyproject.toml $(VENV)/.stamp-install
	@$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@

$(VENV)/.stamp-bench: pyproject.toml $(VENV)/.stamp-install
	@$(PIP) --no-build-isolation --editable '.[bench]'
	@touch $@

demo: build
	$(PY) examples/stdlib_index/run.py

test: build
	$(if $(ALL),FASTQ_ALL_CASES=1 )$(PY) -m pytest $(TESTS)

check: build $(VENV)/.stamp-dev
	$(PY) -m ruff check .
	$(PY) -m mypy --strict fastq
	$(PY) -m pytest -q tests/unit/test_floors.py
	$(PY) -m mypy.stubtest --mypy-config-file pyproject.toml fastq._core

bench: build $(VENV)/.stamp-bench
	$(PY) benchmarks/pools.py $(BENCH)

chaos: build
ifeq ($(MINUTES),)
	FASTQ_CHAOS_ROUNDS=$(ROUNDS) $(PY) -m pytest tests/chaos
else
	$(PY) -m tests.chaos.soak --minutes $(MINUTES) --broker $(BROKER) --every $(EVERY) --steer-every $(STEER) --beats $(BEATS) --results benchmarks/results \
		$(if $(SEED),--seed $(SEED)) $(if $(POOLS),--pools "$(POOLS)")
endif

fuzz: build
	$(PY) -m tests.fuzz_decoders --inputs $(INPUTS)

docs: build
	$(PY) -c 'from fastq.settings.page import settings_markdown as page; print(page(), end="")' > docs/settings.md

clean:
	rm -rf build dist *.egg-info fastq/_core.c fastq/_core*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	rm -f $(VENV)/.stamp-*
