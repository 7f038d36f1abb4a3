# Every target builds the environment it needs; PYTHON chooses the interpreter it is built from.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow test-all lint bench clean

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

$(VENV)/.bench: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --editable '.[bench]'
	touch $@

demo: $(VENV)/.ready
	$(BIN)/trimtab fit --config configs/classifier.yaml

lint: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -m 'not slow and not gpu'

test-slow: $(VENV)/.ready
	$(BIN)/python -m pytest -m slow

test-all: lint
	$(BIN)/python -m pytest -m 'not gpu'

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.trainer
	$(BIN)/python -m benchmarks.saf
	$(BIN)/python -m benchmarks.optimizers
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.losses
	$(BIN)/python -m benchmarks.attacks
	$(BIN)/python -m benchmarks.csib
	$(BIN)/python -m benchmarks.clustering
	$(BIN)/python -m benchmarks.detection
	$(BIN)/python -m benchmarks.sae
	$(BIN)/python -m benchmarks.preference

clean:
	rm -rf $(VENV) build dist *.egg-info
