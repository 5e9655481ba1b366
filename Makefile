# Every target makes what it needs: .venv holds the package and its test tools.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
JOBS ?= 5
# real processes on a busy machine: what fails is tried again, and that is printed
RERUNS ?= 2
DEMO := $(VENV)/demo
DOCS := $(VENV)/docs
PACKAGES := nginx haproxy unicorn puma

.PHONY: demo packages test hups lint docs matrix bench servers faults clean

# The first command of the README: no test tools, so that it is there soon.
$(DEMO): setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[demo]'
	touch $@

$(READY): setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

demo: $(DEMO)
	@$(BIN)/hotreload-demo

# servers that pip does not have; none of them is to start by itself (RUNLEVEL)
packages:
	@missing=; for name in $(PACKAGES); do \
	    PATH="$$PATH:/usr/sbin" command -v $$name >/dev/null || missing="$$missing $$name"; done; \
	if [ -n "$$missing" ]; then \
	    if [ "$$(id -u)" != 0 ]; then echo "as root, please: apt-get install$$missing"; exit 1; fi; \
	    echo "installing$$missing"; apt-get -qq update && RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
	    apt-get -qq install --no-install-recommends $$missing >/dev/null; fi

test: $(READY) packages
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup --reruns $(RERUNS) -rR tests

hups: $(READY)
	HOTRELOAD_HUPS=50 $(BIN)/python -m pytest -s tests/test_wrapper_load.py

lint: $(READY)
	$(BIN)/ruff check supervisor_hotreload tests
	$(BIN)/ruff format --check supervisor_hotreload tests
	$(BIN)/mypy

# No test tools for this one either. Warnings are errors.
$(DOCS): setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

docs: $(DOCS)
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build
	@echo "the pages are in docs/_build/index.html"

matrix: $(READY)
	$(BIN)/python -m tests.matrix --write docs/matrix.rst

bench: $(READY)
	$(BIN)/python -m tests.bench --write docs/bench.rst

servers: $(READY) packages
	$(BIN)/python -m tests.servers_table --write docs/servers.rst

faults: $(READY)
	$(BIN)/python -m tests.faults --write docs/faults.rst
	HOTRELOAD_SCHEDULES=10000 $(BIN)/python -m pytest -q tests/test_invariant.py
	HOTRELOAD_EXAMPLES=100000 $(BIN)/python -m pytest -q -n $(JOBS) tests/test_parsers.py \
	    tests/test_hostile_texts.py tests/test_hostile_text.py -k 'not real'

clean:
	rm -rf $(VENV) .venvs build dist *.egg-info
