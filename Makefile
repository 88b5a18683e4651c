# The two commands of the README. Both make the environment first; PYTHON names the interpreter to build it with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/demo

.PHONY: demo test test-slow test-peers docs lint clean

# pyproject.toml and constraints.txt decide what is installed; a stamp is newer than both once it is.
$(VENV)/core: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "deepfield needs Python 3.11 or newer; run: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

# What tests, robots, loggers, browsers and documents need besides.
$(VENV)/installed: $(VENV)/core
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/core
	$(BIN)/interp demo --out $(OUT)

# Two processes of one thread each; a file stays with one of them, since its tests share models and stores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test: $(VENV)/installed
	$(PYTEST)

test-slow: $(VENV)/installed
	$(PYTEST) -m slow

# SAE files exchanged with the real packages, and relevance against lxt: about 8 GB of environments, made once.
test-peers: $(VENV)/installed
	$(BIN)/python benchmarks/peers.py saelens sparsify dictionary_learning lxt circuit_tracer saebench
	$(BIN)/python -m pytest tests/peers

# Into runs/site, which opens from disk; warnings are errors.
docs: $(VENV)/installed
	$(BIN)/mkdocs build --strict --quiet

lint: $(VENV)/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info runs
