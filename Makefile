# Everything a user or developer runs. Each target makes the virtual environment first when it is not there.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check bench format test-all clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

demo: $(VENV)/installed
	$(BIN)/remora demo

test: $(VENV)/installed
	$(BIN)/python -m pytest

check: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/installed
	$(BIN)/remora bench

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-all: test
	REMORA_TEST_POSTGRESQL=1 $(BIN)/python -m pytest tests/processes/test_head_store.py
	REMORA_TEST_NETWORKS=1 $(BIN)/python -m pytest tests/cluster
	@for version in 3.12 3.13; do \
	  if python$$version -c pass 2>/dev/null; then \
	    echo "== Python $$version"; \
	    $(MAKE) test PYTHON=python$$version VENV=.venv-$$version || exit 1; \
	  else echo "== Python $$version is not installed: skipped"; fi; \
	done

clean:
	rm -rf $(VENV) .venv-* build *.egg-info src/*.egg-info
