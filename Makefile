# Two commands do all the set-up: `make lab` and `make test`. Each is quick when nothing has changed.

.PHONY: help lab test lint format bench test-v2 lock venv clean
export PYTHON
SHELL := /bin/bash

help:
	@echo "make lab      prepare everything and open JupyterLab on the notebooks (PORT=8888)"
	@echo "make test     prepare what is missing and run every test (TESTS='-k pivot_root -x')"
	@echo "make lint     style, types and layers only"
	@echo "make format   let ruff format the code and the notebooks"
	@echo "make bench    measure, beside crun, runc, podman and docker where they are installed"
	@echo "make test-v2  the cgroup tests in a virtual machine whose controllers are on cgroup v2"
	@echo "make lock     write requirements.txt anew (UPGRADE=1: with the newest versions)"
	@echo "make clean    stop the registry and remove all that set-up has made in this folder"

venv:
	@tools/system.sh
	@tools/venv.sh

lab: venv
	@tools/registry.sh start
	@tools/lab.sh

test: venv
	@tools/test.sh $(TESTS)

lint: venv
	@tools/lint.sh

format: venv
	@.venv/bin/ruff check --quiet --fix --select I
	@.venv/bin/ruff format

bench: venv
	@. tools/say.sh && as_root "the benchmark makes containers" .venv/bin/python -m bench $(BENCH)

test-v2: venv
	@tests/v2/run

lock:
	@tools/lock.sh $(if $(UPGRADE),--upgrade)

clean:
	@tools/registry.sh stop
	@. tools/say.sh && as_root "some files are root's" \
	    rm -rf .venv .registry .jupyter .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
