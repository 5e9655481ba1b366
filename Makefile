# Every target makes what it needs: .venv holds the package and its test tools.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
# most of a test is waiting: more of them at once than there are cores
JOBS ?= 8
# how often make test-busy runs the tests
RUNS ?= 5
DEMO := $(VENV)/demo
DOCS := $(VENV)/docs
PACKAGES := nginx haproxy unicorn puma tini busybox

PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

.PHONY: demo packages test test-slow test-busy hups lint docs transcripts matrix bench servers \
    faults siege clean

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

# Programs that pip does not have; none of them is to start by itself (RUNLEVEL). Without root
# or apt the tests go on without them, and say so at their end; not where CI is set.
packages:
	@missing=; for name in $(PACKAGES); do \
	    PATH="$$PATH:/usr/sbin" command -v $$name >/dev/null || missing="$$missing $$name"; done; \
	if [ -n "$$missing" ]; then \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	        echo "installing$$missing"; apt-get -qq update && RUNLEVEL=1 \
	        DEBIAN_FRONTEND=noninteractive \
	        apt-get -qq install --no-install-recommends $$missing >/dev/null; \
	    else echo "not root, or no apt-get: install$$missing"; false; fi \
	    || { echo "going on without$$missing"; test -z "$$CI"; }; fi

test: $(READY) packages
	$(PYTEST) -m 'not slow' tests

# the products of faults, operators and layouts, the tables in short form, what has to take long
test-slow: $(READY) packages
	$(PYTEST) -m slow tests

# make test, again and again, while two other processes keep the cores busy
test-busy: $(READY) packages
	$(BIN)/python -m tests.busy --runs $(RUNS) -- $(PYTEST) -q -m 'not slow' tests

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

# The transcripts of the README, from a run of the demo.
transcripts: $(DEMO)
	$(BIN)/python docs/transcripts.py

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

# what supervisord's loop costs while two local users attack it; needs root
siege: $(READY)
	$(BIN)/python -m tests.siege

clean:
	rm -rf $(VENV) .venvs build dist *.egg-info
