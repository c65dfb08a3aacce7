# Every target sets up what it needs: a virtual environment in .venv, and the package in it.
PYTHON ?= python3

# What is installed: the exact set of constraints.txt, or with LOCK=latest the newest that pyproject.toml allows.
LOCK ?= constraints.txt
ifeq ($(LOCK),latest)
VENV := .venv-latest
else
VENV := .venv
EXACT := --constraint $(LOCK)
endif
BIN := $(VENV)/bin

# Where it is set, every process compiles all that it imports of this checkout: a second of each that the tests start.
unexport PYTHONDONTWRITEBYTECODE

# pip compiles one file after another; all processors do it together. What does not compile is for another Python.
define install
$(PYTHON) -m venv $(VENV)
$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-compile "pip>=25.1"
$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-compile $(EXACT) --editable . $(1)
$(BIN)/python -m compileall -qq -j 0 -x '/tests/' $(VENV)/lib || true
endef

.PHONY: setup lock demo test beside record lint attack docs bench kernels-report gpu clean

setup: $(VENV)/.developer

$(VENV)/.user: pyproject.toml $(wildcard $(LOCK))
	$(call install)
	touch $@

$(VENV)/.developer: pyproject.toml $(wildcard $(LOCK))
	$(call install,--group dev)
	touch $(VENV)/.user $@

lock:  ## constraints.txt from the set of `make test LOCK=latest`
	$(MAKE) --no-print-directory setup LOCK=latest
	.venv-latest/bin/python -m pip install --quiet --editable .[postgres,s3,gpu]
	(grep '^#' constraints.txt; .venv-latest/bin/python -m pip freeze --all --exclude-editable --exclude pip --exclude triton \
	  | sed -E 's/[+].*//; s/.*/\L&/; :a; s/^([^=]*)[._]+/\1-/; ta' | LC_ALL=C sort) > constraints.new
	mv constraints.new constraints.txt

demo: $(VENV)/.user  ## the study `quickstart`, on the CPU
	$(BIN)/recallfront run quickstart

# not what the machine says it has: a container may be given less
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -q --durations=10
# of the time of the long files of tests that passed as they are now: which share is run; SHARE=1 is every test
SHARE ?= $(if $(filter latest,$(LOCK)),1,0.1)
# one for all that `make test` calls
ifndef DRAW
DRAW := $(shell date +%s)
endif
export DRAW
PASSED = --share $(SHARE) --share-seed $(DRAW) $(RECORD)
# LOCK=latest tries them with newer packages
test: setup  ## the tests, slow ones included; those that time something have the machine to themselves
	$(MAKE) --no-print-directory --jobs 2 lint beside
	$(PYTEST) $(PASSED) -m alone $$(grep -rlw --include='*.py' mark.alone tests | LC_ALL=C sort)

beside: setup
	$(PYTEST) $(PASSED) -n $(WORKERS) --dist worksteal -m "not alone"

record:  ## every test, and tests/passed.json with the long ones that pass
	$(MAKE) --no-print-directory test SHARE=1 RECORD=--record

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

attack: SECONDS ?= 600
attack: SEED ?= 0
attack: setup  ## odd specifications, kills, damaged files: each for so many seconds, from this seed; then outages of a minute
	ATTACK_SECONDS=$(SECONDS) ATTACK_SEED=$(SEED) $(PYTEST) -s -m attack tests/attack
	OUTAGE_SECONDS=60 $(PYTEST) -s tests/platform/sweep/test_outage.py
	RECALLFRONT_OUTAGE=60 RECALLFRONT_FAILING=0.1 $(PYTEST) -s tests/platform/home/test_cluster.py

docs: $(VENV)/.user  ## the pages that are generated: every key of a sweep, its JSON schema, the public names
	$(BIN)/python -m recallfront.sweeps.documentation > docs/specification.md
	$(BIN)/python -m recallfront.sweeps.schema > docs/sweep.schema.json
	$(BIN)/python -m recallfront.documentation > docs/api.md

bench: $(VENV)/.user  ## recallfront's own overheads
	$(BIN)/recallfront bench

kernels-report: $(VENV)/.user  ## every kernel compiled for sm_80 and sm_90: registers, spills, shared memory
	$(BIN)/python -m recallfront.kernels.gpu.report

gpu: OUTPUT ?=
gpu:  ## the kernels' tests and then their benchmarks, and training steps as CUDA graphs, on this machine's GPU
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) -m recallfront.benchmarks.models.decode_step $(if $(OUTPUT),--output $(OUTPUT))
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) -m recallfront.benchmarks.models.train_step

clean:
	rm -rf .venv .venv-latest build dist *.egg-info
