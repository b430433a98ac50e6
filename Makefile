# `make run` and `make test` each work alone on a fresh clone with Python (3.11 to 3.13), make and a package index.

PYTHON ?= $(firstword $(foreach name,python3.13 python3.12 python3.11 python3 python,$(shell $(name) -c "import sys; print('$(name)' if (3, 11) <= sys.version_info[:2] <= (3, 13) else '')" 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test lint install slow clean

run: install
	$(BIN)/python run_all.py $(ARGS)

test: install
	$(BIN)/python -m pytest -n auto $(ARGS)

slow: install
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

install: $(STAMP)

# The stamp is written last: an interrupted installation starts again, a finished one is not repeated.
$(STAMP): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then echo "error: no Python 3.11, 3.12 or 3.13 found; give one: make run PYTHON=/path/to/python3.12" >&2; exit 2; fi
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt ".[test]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) build groupbench.egg-info
