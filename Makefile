# Every target sets up what it needs: a virtual environment in .venv, and the package in it.
PYTHON ?= python3
BIN := .venv/bin

# pip compiles one file after another; all processors do it together. What does not compile is for another Python.
# Python's own compiling is no help where PYTHONDONTWRITEBYTECODE is set: every process would compile what it imports.
define install
$(PYTHON) -m venv .venv
$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-compile "pip>=25.1"
$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-compile --editable . $(1)
$(BIN)/python -m compileall -qq -j 0 -x '/tests/' .venv/lib || true
endef

.PHONY: setup demo test beside lint attack docs bench kernels-report gpu clean

setup: .venv/.developer

.venv/.user: pyproject.toml
	$(call install)
	touch $@

.venv/.developer: pyproject.toml
	$(call install,--group dev)
	touch .venv/.user $@

demo: .venv/.user  ## the study `quickstart`, on the CPU
	$(BIN)/recallfront run quickstart

# not what the machine says it has: a container may be given less
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -q --durations=10
test: setup  ## every test, slow ones included; those that time something have the machine to themselves
	$(MAKE) --no-print-directory --jobs 2 lint beside
	$(PYTEST) -m alone $$(grep -rlw --include='*.py' mark.alone tests)

beside: setup
	$(PYTEST) -n $(WORKERS) --dist worksteal -m "not alone"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

attack: SECONDS ?= 600
attack: SEED ?= 0
attack: setup  ## each kind of attack for so many seconds, from this seed: odd specifications, kills, damaged files
	ATTACK_SECONDS=$(SECONDS) ATTACK_SEED=$(SEED) $(PYTEST) -s -m attack tests/attack

docs: .venv/.user  ## the pages that are generated: every key of a sweep, its JSON schema, the public names
	$(BIN)/python -m recallfront.sweeps.documentation > docs/specification.md
	$(BIN)/python -m recallfront.sweeps.schema > docs/sweep.schema.json
	$(BIN)/python -m recallfront.documentation > docs/api.md

bench: .venv/.user  ## recallfront's own overheads
	$(BIN)/recallfront bench

kernels-report: .venv/.user  ## every kernel compiled for sm_80 and sm_90: registers, spills, shared memory
	$(BIN)/python -m recallfront.kernels.gpu.report

gpu: OUTPUT ?=
gpu:  ## the kernels' tests and then their benchmarks, on this machine's GPU
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) -m recallfront.benchmarks.models.decode_step $(if $(OUTPUT),--output $(OUTPUT))

clean:
	rm -rf .venv build dist *.egg-info
