# The commands nobody should have to remember. `make` alone lists them; README.md gives each as plain pip/python lines too.
#
#   PYTHON=python3.12   which interpreter makes the virtual environment (default: 3.11, 3.12, 3.10, in this order)
#   VENV=.venv          where it is made
#   PY=python           use this interpreter as it is, and install nothing
#   JOBS=2              test processes

VENV ?= .venv
JOBS ?= 2
PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3 python; do \
	"$$p" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && { echo "$$p"; break; }; done)
PIP_FLAGS ?= --disable-pip-version-check --quiet --no-compile

ifeq ($(origin PY), undefined)
PY := $(VENV)/bin/python
RUN_READY := $(VENV)/.ready
DEV_READY := $(VENV)/.ready-dev
endif

# The folder of the interpreter, "" when it is to be found on PATH.
BIN := $(if $(findstring /,$(PY)),$(dir $(PY)))

# One thread per process: tests run in parallel, and Paddle's spinning threads would steal from each other.
TEST_ENV := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
PYTEST := $(TEST_ENV) $(PY) -m pytest -n $(JOBS)
SHELL_FILES = .ci/run $(shell git ls-files '*.sh')
TIPC_CONFIG ?= test_tipc/configs/GFPGAN/train_infer_python.txt
TIPC_MODE ?= lite_train_lite_infer

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo test test-slow test-page parity smoke lint format align tipc cpp bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(RUN_READY) ## make .venv with what the programs need, and the command ppgan-fr
install-dev: $(DEV_READY) ## the same, with what the tests need

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.10, 3.11 or 3.12 with venv was found; say which: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: requirements.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing requirements.txt into $(VENV) (paddlepaddle is 190 MB; about a minute on a quick line)"
	@$(VENV)/bin/python -m pip install $(PIP_FLAGS) -r requirements.txt
	@$(VENV)/bin/python -m pip install $(PIP_FLAGS) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.ready-dev: requirements-dev.txt $(VENV)/.ready
	@$(VENV)/bin/python -m pip install $(PIP_FLAGS) -r requirements-dev.txt
	@touch $@

demo: $(RUN_READY) ## restore the pictures of assets/demo and say where the result is
	$(PY) tools/predict.py --input assets/demo --output output/demo --report
	@echo "restored pictures: $(CURDIR)/output/demo/restored"
	@echo "before and after:  $(CURDIR)/output/demo/report.html (open it in a browser)"

test: $(DEV_READY) ## the default tests (minutes)
	$(PYTEST)

test-slow: $(DEV_READY) ## the tests that take long
	$(TEST_ENV) $(PY) -m pytest -m slow

test-page: $(DEV_READY) ## set the service up, restore through its clients, and use its page in headless Chromium
	$(TEST_ENV) $(PY) -m pytest -m slow tests/deploy/test_serving_running.py -k "browser or phone or both_clients"

parity: $(DEV_READY) ## compare with the reference fixtures of PPGAN_FIXTURES (default: tests/golden)
	$(PYTEST) -m parity

smoke: $(DEV_READY) ## every smoke configuration: train, evaluate, export, restore
	$(PYTEST) tests/test_every_config.py

lint: $(DEV_READY) ## ruff and ShellCheck
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(BIN)shellcheck -x --source-path=SCRIPTDIR $(SHELL_FILES)

format: $(DEV_READY) ## let ruff mend what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

align: $(DEV_READY) ## write the reprod_log files and the report of docs/alignment
	$(PY) tools/align.py --output docs/alignment

tipc: $(DEV_READY) ## one TIPC chain; TIPC_CONFIG=... TIPC_MODE=... choose it
	PATH="$(if $(BIN),$(abspath $(BIN)):)$$PATH" bash test_tipc/prepare.sh $(TIPC_CONFIG) $(TIPC_MODE)
	PATH="$(if $(BIN),$(abspath $(BIN)):)$$PATH" bash test_tipc/run.sh $(TIPC_CONFIG) $(TIPC_MODE)

cpp: $(RUN_READY) inference/gfpgan_mobile/inference.yml ## build the C++ program and restore assets/demo with it (needs cmake, g++, libjpeg and libpng)
	cmake -S deploy/inference_cpp -B build/cpp -DPYTHON=$(if $(BIN),$(abspath $(PY)),$(PY))
	cmake --build build/cpp --parallel $(JOBS)
	build/cpp/restore --model_dir=inference/gfpgan_mobile --image_dir=assets/demo --save_dir=output/cpp

inference/gfpgan_mobile/inference.yml: weights/gfpgan_mobile.pdparams | $(RUN_READY)
	$(PY) tools/export_model.py -c configs/gfpgan_mobile.yaml

bench: $(DEV_READY) ## the table of engines on this machine
	$(PY) benchmarks/engines.py --json output/engines.json

clean: ## remove what builds and tests leave (not .venv, not output)
	rm -rf build dist ./*.egg-info .pytest_cache .ruff_cache test_tipc/output test_tipc/data
