# `make run`, `make test` and `make check` each work alone on a fresh clone with Python (3.11 to 3.13), make and a package index.

PYTHON ?= $(firstword $(foreach name,python3.13 python3.12 python3.11 python3 python,$(shell $(name) -c "import sys; print('$(name)' if (3, 11) <= sys.version_info[:2] <= (3, 13) else '')" 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: run test lint check install slow clean

run: install
	$(BIN)/python run_all.py $(ARGS)

test: install
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

slow: install
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Every method on small scenes, held against results/baselines/tiny-tiny.json. One thread, as there: the number of cores
# decides nothing. A cell that fails is the check's to report, with the rest.
CHECK := OMP_NUM_THREADS=1 $(BIN)/python run_all.py
CHECKED := --suite tiny --output build/check

check: install
	$(CHECK) $(CHECKED) || true
	$(CHECK) check $(CHECKED) --markdown build/check/check.md $(ARGS)

install: $(STAMP)

# The stamp is written last: an interrupted installation starts again, a finished one is not repeated.
$(STAMP): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then echo "error: no Python 3.11, 3.12 or 3.13 found; give one: make run PYTHON=/path/to/python3.12" >&2; exit 2; fi
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt ".[test]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) build groupbench.egg-info
