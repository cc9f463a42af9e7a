# make demo | demo-text | demo-audio | demo-segmentation | test | test-slurm | test-release | check | site: each sets everything up first (a virtual environment in .venv).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Two test workers, one thread each: more would wait for each other. Tests are handed out one by one, slow ones first;
# those that share a fixture of their module go together (tests/conftest.py).
# Byte code is kept even where the environment forbids it: else every worker, and every command that a test starts,
# would compile (and prepare for the checks of axes) hundreds of files anew.
TEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
# Tests whose numbers depend on threads run once more with two: some faults of numerical libraries show with several
# threads alone.
THREADED := $(addprefix tests/evaluation/test_,combine.py linear.py clustering.py knn.py retrieval.py) \
  $(addprefix tests/engine/test_,laws.py projection.py) tests/objectives/test_deepcluster.py
TWO_THREADS := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=2 $(BIN)/python -m pytest -q -m "threads and not slow" $(THREADED)

.PHONY: setup test-slurm test-release demo demo-text demo-audio demo-segmentation demo-udi test check format lint types fast site clean

setup: $(READY)

# uv installs the pinned set in seconds where its cache is warm; where it can't reach the package index
# (some mirrors are configured for pip alone), pip does the same work more slowly. uv trusts whom the system trusts,
# as institutes with certificates of their own need it. Either compiles the packages once:
# where the environment forbids Python to keep byte code, every start would pay 6 seconds for it.
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

# The wheel in an empty environment, and the site.
test-release: setup
	$(TEST) -m release

# Job files on a real SLURM, which these tests start (and install, where they may).
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
