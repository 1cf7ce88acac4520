# Two commands do all the set-up: `make lab` and `make test`. Each is quick when nothing has changed.

.PHONY: help lab test test-conformance test-browser fuzz check-lab release-labs progress slides lint format bench test-v2 test-vm lock venv clean
export PYTHON
SHELL := /bin/bash

help:
	@echo "make lab      prepare everything and open JupyterLab on notebooks and labs (PORT=8888)"
	@echo "make test     prepare what is missing and run every test (TESTS='-k pivot_root -x')"
	@echo "make test-conformance  put suites of others to the runtime (tests/conformance/README.md)"
	@echo "make test-browser  JupyterLab in a real browser; leaves its screenshots in .cache/browser"
	@echo "make check-lab LAB=02        check your answers to a lab"
	@echo "make release-labs TO=folder  write the labs' copies for learners (LABS='02 04' for some)"
	@echo "make progress CLASS=folder   who of a class has solved what"
	@echo "make slides                  slides for a class, from the notebooks, in slides/"
	@echo "make lint     style, types and layers only"
	@echo "make format   let ruff format the code and the notebooks"
	@echo "make fuzz     look for input that breaks a parser (SECONDS_EACH=60)"
	@echo "make bench    measure, beside crun, runc, podman and docker where they are installed"
	@echo "make test-v2  in a virtual machine with Debian's kernel: cgroup v2, rootless, netem, AppArmor, SELinux"
	@echo "make test-vm  the whole virtual machine, by vagrant up, and the course in it (QUICK=1, CHAPTER=04, PART=arm64: parts; SUITE=trixie)"
	@echo "make lock     write requirements.txt anew (UPGRADE=1: with the newest versions)"
	@echo "make clean    stop the registry and remove all that set-up has made in this folder"

venv:
	@tools/system.sh
	@tools/venv.sh

lab: venv
	@tools/vm.sh
	@tools/registry.sh start
	@tools/lab.sh

test: venv
	@tools/vm.sh
	@tools/test.sh $(TESTS)

test-browser: venv
	@tools/vm.sh
	@tools/browser.sh $(TESTS)

check-lab: venv
	@tools/check_lab.sh $(LAB)

release-labs: venv
	@[ -n "$(TO)" ] || { echo "name a folder: make release-labs TO=class/anna" >&2; exit 2; }
	@.venv/bin/python tools/labs.py --to "$(TO)" $(LABS)

progress: venv
	@[ -n "$(CLASS)" ] || { echo "name the folder that holds the learners': make progress CLASS=class" >&2; exit 2; }
	@.venv/bin/python -m labs.instructor.progress "$(CLASS)" $(if $(CHART),--chart "$(CHART)")

slides: venv
	@.venv/bin/python -m labs.instructor.slides $(NOTEBOOKS)

lint: venv
	@tools/lint.sh

format: venv
	@.venv/bin/ruff check --quiet --fix --select I
	@.venv/bin/ruff format

fuzz: venv
	@tools/fuzz.sh $(SECONDS_EACH)

bench: venv
	@. tools/say.sh && as_root "the benchmark makes containers" .venv/bin/python -m bench $(BENCH)

test-conformance: venv
	@. tools/say.sh && as_root "the suites make containers" .venv/bin/python -m tests.conformance

test-v2: venv
	@tests/v2/run

test-vm: venv
	@tests/vm/run

lock:
	@tools/lock.sh $(if $(UPGRADE),--upgrade)

clean:
	@tools/registry.sh stop
	@. tools/say.sh && as_root "some files are root's" \
	    rm -rf .venv .registry .jupyter .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
