# make demo | demo-text | demo-audio | demo-segmentation | demo-udi | test | test-slurm | test-release | check | site
# Each of these first creates a virtual environment in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Two test workers with one thread each. A worker gets one test at a time, slow tests first; tests that share a fixture of
# their module go to the same worker (tests/conftest.py).
# An empty PYTHONDONTWRITEBYTECODE stores byte code even if the environment forbids it. Otherwise every worker, and every
# command that a test starts, would compile hundreds of files (and add the checks of axes to them) again.
TEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
# Tests whose numbers depend on threads run once more with two threads, because some faults of numerical libraries occur
# only with several threads. Only files with such tests are collected, because the import of all files takes 15 seconds.
TWO_THREADS = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=2 $(BIN)/python -m pytest -q -m "also_with_two_threads and not slow" \
  $(shell grep -rl --include=test_*.py mark.also_with_two_threads tests)

.PHONY: setup test-slurm test-release demo demo-text demo-audio demo-segmentation demo-udi test check format lint types fast site clean

setup: $(READY)

# uv installs the pinned packages in seconds if they are in its cache. If uv cannot reach the package index (some mirrors
# are configured only for pip), pip installs the same packages more slowly. UV_SYSTEM_CERTS: uv accepts the certificates
# of the system, because some institutes have their own. uv and pip compile the packages once: if the environment forbids
# Python to store byte code, every start would otherwise take 6 seconds longer.
$(READY): requirements.txt requirements-dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip uv
	UV_SYSTEM_CERTS=1 $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.txt -r requirements-dev.txt -e . \
	  || $(BIN)/python -m pip install --quiet -r requirements.txt -r requirements-dev.txt -e .
	touch $(READY)

demo: setup
	$(BIN)/fungi demo

demo-text: setup
	$(BIN)/fungi demo-text

demo-audio: setup
	$(BIN)/fungi demo-audio

demo-segmentation: setup
	$(BIN)/fungi demo-segmentation

demo-udi: setup
	$(BIN)/fungi demo-udi

test: setup format lint types
	$(TEST) -m "not slurm and not release"
	$(TWO_THREADS)

# Tests that build the wheel and the site, and install the wheel in an empty environment.
test-release: setup
	$(TEST) -m release

# Tests that run the job files on a real SLURM. They start SLURM, and install it if they run as root.
test-slurm: setup
	$(TEST) -m slurm

check: setup format lint types fast

format: setup
	$(BIN)/ruff format --check .

lint: setup
	$(BIN)/ruff check .
	$(BIN)/python scripts/check_words.py

types: setup
	$(BIN)/mypy

fast: setup
	$(TEST) -m "not slow and not slurm"

site: setup
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site demo demo-text demo-audio demo-segmentation demo-udi .mypy_cache .ruff_cache .pytest_cache
