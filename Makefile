# Every target makes what it needs: .venv holds the package and its test tools.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test hups lint matrix bench faults clean

$(READY): setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

test: $(READY)
	$(BIN)/python -m pytest tests

hups: $(READY)
	HOTRELOAD_HUPS=50 $(BIN)/python -m pytest -s tests/test_wrapper_load.py

lint: $(READY)
	$(BIN)/ruff check supervisor_hotreload tests
	$(BIN)/ruff format --check supervisor_hotreload tests
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .venvs build dist *.egg-info
