# make demo   the main job on real data: a table and a picture
# make test   every check that a change must pass
# make docs   the documentation, into docs/_build/html
# make peers  a second environment with the library that benchmarks compare with
# make clean  remove environments, caches and builds
#
# Needs only make and Python 3.11 or newer; PYTHON=... chooses another interpreter.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PEERS := .venv-peers
PIP := -m pip install --quiet --disable-pip-version-check

# Each test process computes on one thread: processes, not threads, share the cores.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: help demo test lint docs peers clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# \(make .*\)/\1/p' $(firstword $(MAKEFILE_LIST))

# The environment is made anew whenever what it installs may have changed; the stamps say what is in it.
$(VENV)/.demo: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "The pinned packages need Python 3.11 or newer, this is %d.%d: set PYTHON=/path/to/python3.11" % sys.version_info[:2])'
	$(PYTHON) -m venv --clear $(VENV)
	$(PY) $(PIP) -c constraints.txt -e '.[plot,gpytorch]'
	@touch $@

$(VENV)/.test: $(VENV)/.demo tests/requirements-peers.txt
	$(PY) $(PIP) -c constraints.txt -e '.[test]'
	$(PY) $(PIP) --no-deps -r tests/requirements-peers.txt
	$(PY) $(PIP) --no-deps --target $(VENV)/avalanche --upgrade avalanche-lib==0.6.0
	@touch $@

$(VENV)/.docs: $(VENV)/.demo
	$(PY) $(PIP) -c constraints.txt -e '.[docs]'
	@touch $@

$(PEERS)/.peers: benchmarks/constraints-peers.txt
	$(PYTHON) -m venv --clear $(PEERS)
	$(PEERS)/bin/python $(PIP) -c benchmarks/constraints-peers.txt neural-tangents jax jaxlib numpy
	$(PEERS)/bin/python -c 'import neural_tangents'
	@touch $@

demo: $(VENV)/.demo
	$(PY) benchmarks/demo.py

lint: $(VENV)/.test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports

test: lint
	$(ONE_THREAD) $(PY) -m pytest -n 2

docs: $(VENV)/.docs
	$(PY) -m sphinx -W --keep-going -b html docs docs/_build/html

peers: $(PEERS)/.peers

clean:
	rm -rf $(VENV) $(PEERS) build dist docs/_build docs/api docs/auto_examples docs/sg_execution_times.rst
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
