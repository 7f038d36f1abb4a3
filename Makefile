# Every target builds the environment it needs; PYTHON chooses the interpreter it is built from,
# and JOBS how many tests run at once.
PYTHON ?= python3
JOBS ?= 2
SLURM_JOBS ?= 4
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: bytecode demo test test-all test-portable test-slurm lint bench clean

# bytecode of what is imported is written then: most of 20,000 files never are
$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-compile --editable '.[dev]'
	touch $@

$(VENV)/.bench: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --editable '.[bench]'
	touch $@

demo: $(VENV)/.ready
	$(BIN)/trimtab fit --config configs/classifier.yaml

# the bytecode of the tests and of what a run imports, which each job would compile again
bytecode: $(VENV)/.ready
	@-$(BIN)/python -m pytest -qq -k 'test_it_trains and regressor' > /dev/null

lint: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# one thread each, as several tests run at once
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# every fact, and one config or overlay of each kind
test: $(VENV)/.ready
	$(MAKE) --jobs=2 lint bytecode
	$(PYTEST) -m 'not slow and not combination'

# every combination, published settings and the learning runs of minutes
test-all: $(VENV)/.ready
	$(MAKE) --jobs=2 lint bytecode
	$(PYTEST)

# the facts as other processors compute them, a sample of all tests in other surroundings
test-portable: $(VENV)/.ready
	$(BIN)/python -m tests.portable --jobs $(JOBS)

# jobs on a SLURM of their own, which is installed from Debian's packages where it is missing
test-slurm: $(VENV)/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.slurm -n $(SLURM_JOBS)

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.trainer
	$(BIN)/python -m benchmarks.saf
	$(BIN)/python -m benchmarks.optimizers
	$(BIN)/python -m benchmarks.mfac
	$(BIN)/python -m benchmarks.refined --cost
	$(BIN)/python -m benchmarks.opposing_signals
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.loading
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.losses
	$(BIN)/python -m benchmarks.attacks
	$(BIN)/python -m benchmarks.csib
	$(BIN)/python -m benchmarks.clustering
	$(BIN)/python -m benchmarks.representation
	$(BIN)/python -m benchmarks.detection
	$(BIN)/python -m benchmarks.face
	$(BIN)/python -m benchmarks.sae
	$(BIN)/python -m benchmarks.preference
	$(BIN)/python -m benchmarks.tuning
	$(BIN)/python -m benchmarks.gns

clean:
	rm -rf $(VENV) build dist *.egg-info
