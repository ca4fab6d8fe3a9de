# Everything an engineer types. `make` alone lists it.
# The Python of the environment; another one than before makes the environment anew.
PYTHON ?= python3
# The environment, and the lock it is made from.
VENV ?= .venv
LOCK ?= requirements/development.txt
BIN := $(VENV)/bin
# The environment is brought up to date before a target. To run needs a quarter of what the tests and linters need.
READY := ready
READY_TO_RUN := ready-to-run
# `trap '' INT` below: Python would answer Ctrl-C in its first tenth of a second with a traceback. The programs handle it
# as soon as they have begun.
# Settings of the shell that would lead Python to other packages than those of the environment.
unexport PYTHONHOME PYTHONPATH
# Python reads the path of this tree from a file of .venv, in the encoding of the locale. A path may have any letters.
ifeq ($(filter %.UTF-8 %.utf8,$(or $(LC_ALL),$(LC_CTYPE),$(LANG))),)
export LC_ALL := C.UTF-8
endif
# Test processes, twice as many as CI has cores: the long tests wait for real processes more than they compute. worksteal: a
# test process that has nothing left takes over tests of another one.
JOBS ?= 4
PYTEST = pytest -n $(JOBS) --dist worksteal
# Without this each test process would compile all tests again, which takes it about four seconds.
unexport PYTHONDONTWRITEBYTECODE
unexport COVERAGE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: $(READY) $(READY_TO_RUN)
.PHONY: help run run-aws run-pixel run-storage test quick coverage soak rehearse load bench lint format types lock dist metrics picture clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(READY_TO_RUN) ## the whole system on this machine: local SNS and SQS, both services, a demo page; Ctrl-C stops it
	@trap '' INT; exec $(BIN)/python -m tracker.local run $(ARGS)

run-aws: $(READY_TO_RUN) ## the local SNS and SQS alone, with topic and queues, for run-pixel and run-storage
	@trap '' INT; exec $(BIN)/python -m tracker.local broker $(ARGS)

run-pixel: $(READY_TO_RUN) ## the pixel service with config/pixel.yaml
	@$(BIN)/python -m tracker.pixel --config config/pixel.yaml

run-storage: $(READY_TO_RUN) ## the storage service with config/storage.yaml
	@$(BIN)/python -m tracker.storage --config config/storage.yaml

test: $(READY) ## every test; make test ARGS="-k ledger" for some of them
ifndef COVERAGE
	@$(BIN)/python -m $(PYTEST) $(ARGS)
else
	@rm -rf .coverage && mkdir .coverage
	@$(BIN)/coverage run -m $(PYTEST) $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage html --quiet
	@$(BIN)/coverage report
endif

quick: $(READY) ## the tests to run first after a change in core, pixel or storage; half a minute
	@$(BIN)/ruff check --quiet .
	@$(BIN)/python -m $(PYTEST) -q -m "not slow" tests/core tests/pixel tests/storage $(ARGS)

coverage: ## every test, and which lines and branches of src they run; fails below the floor in setup.cfg
	@$(MAKE) --no-print-directory test COVERAGE=1

soak: $(READY) ## the long fault loops and outages; make soak ARGS="--seed 7 --rounds 20" repeats one
	@$(BIN)/python -m tests.soak $(ARGS)

rehearse: $(READY) ## the guides' commands on systemd, Docker and Compose, with visitors; make rehearse ARGS="systemd" for a part
	@$(BIN)/python -m tests.rehearse $(ARGS)

load: $(READY) ## load a running pixel with wrk, and prove that every visit arrived; make load ARGS="--seconds 30"
	@$(BIN)/python -m benchmarks.load $(ARGS)

bench: $(READY) ## half an hour of benchmarks, into docs/benchmarks.md; make bench ARGS="--only hits --rounds 1 --seconds 1"
	@$(BIN)/python -m benchmarks $(ARGS)

lint: $(READY) ## ruff, formatting and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: $(READY) ## rewrite the code as ruff formats it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY) ## mypy, strict, over src and tests
	$(BIN)/mypy

# Keeps the pins that still fit; make lock ARGS=--upgrade moves them. aiobotocore and moto move together (both pin botocore).
COMPILE = "$(CURDIR)/$(BIN)/uv" pip compile --quiet --generate-hashes --universal --python-version 3.11 \
	--custom-compile-command "make lock" $(ARGS)

lock: $(READY) ## lock requirements/*.in again, with hashes; make lock ARGS=--upgrade for newer versions
	cd requirements && $(COMPILE) development.in -o development.txt
	cd requirements && $(COMPILE) -c development.txt run.in -o run.txt
	cd requirements && $(COMPILE) -c development.txt run-archive.in -o run-archive.txt
	cd requirements && $(COMPILE) -c development.txt runtime.in -o runtime.txt
	cd requirements && $(COMPILE) -c development.txt analysis.in -o analysis.txt
	cd requirements && $(COMPILE) -c development.txt archive.in -o archive.txt
	cd requirements && $(COMPILE) -c development.txt build.in -o build.txt
	cd requirements && $(COMPILE) -c development.txt testing.in -o testing.txt
	cd requirements && $(COMPILE) -c development.txt dist.in -o dist.txt

dist: ## a release into dist/: sdist and wheel, checked and tried, licences, bill of materials
	@PYTHON="$(PYTHON)" .ci/dist

metrics: $(READY) ## write the table of metrics into docs/metrics.md
	@$(BIN)/python -m tracker.telemetry docs/metrics.md

picture: $(READY) ## run the system and draw docs/terminal.svg, the picture of the README
	@$(BIN)/python docs/terminal.py

clean: ## remove .venv, caches and build output; var/ with its visits stays
	rm -rf .venv* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage build dist src/*.egg-info
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment keeps the Python it has, unless one is named: by PYTHON=... on the command line or in the process
# environment.
SET_UP = @trap '' INT; exec $(PYTHON) -I requirements/set_up.py $(VENV) $(if $(filter-out file,$(origin PYTHON)),--with-this-python)

$(READY):
	$(SET_UP) $(LOCK)

$(READY_TO_RUN):
	$(SET_UP) requirements/$(if $(findstring --archive,$(ARGS)),run-archive,run).txt
