# Every target sets up what it needs: a virtual environment in .venv, and the package in it.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup demo test lint bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	touch $(STAMP)

demo: setup  ## the study `quickstart`, on the CPU
	$(BIN)/recallfront run quickstart

test: setup lint  ## every test, slow ones included
	$(BIN)/python -m pytest -q

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

bench: setup  ## recallfront's own overheads
	$(BIN)/recallfront bench

clean:
	rm -rf .venv build dist *.egg-info
