# Every target makes .venv by itself, from nothing but Python 3.11 or newer.

# The first of these that runs, is new enough and can make environments. To choose: make PYTHON=/path/to/python
PYTHON ?= python3.13 python3.12 python3.11 python3 python
BIN := .venv/bin
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test simulate strace chromium check format bench bench-peers clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 13

demo: $(STAMP)  ## Run the main job: a census of the standard library, killed half-way and continued
	@$(BIN)/python examples/demo.py

test: $(STAMP) strace chromium  ## Run the tests
	@$(BIN)/python -m pytest -q

# Debian's packages, as root; their lists may be missing, or old.
INSTALL := apt-get install -y -qq --no-install-recommends

strace:
	@command -v strace >/dev/null || { [ "$$(id -u)" = 0 ] && \
	{ $(INSTALL) strace || { apt-get update -qq && $(INSTALL) strace; }; } >/dev/null 2>&1; } || \
	echo "There is no strace: the tests that cut the power are skipped. Install it to run them."

chromium:
	@for each in chromium chromium-browser google-chrome; do command -v $$each >/dev/null && exit 0; done; \
	{ [ "$$(id -u)" = 0 ] && \
	{ $(INSTALL) chromium || { apt-get update -qq && $(INSTALL) chromium; }; } >/dev/null 2>&1; } || \
	echo "There is no Chromium: the tests of hostile pages in a browser are skipped. Install it to run them."

SEEDS ?= 1000

simulate: $(STAMP)  ## Simulate several processes while everything goes wrong; SEEDS=10000 for more
	@PYTHONPATH=tests $(BIN)/python -m simulation --seeds $(SEEDS)

check: $(STAMP)  ## Lint, format, types, import contracts and style
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check -q .
	@$(BIN)/mypy
	@$(BIN)/pyright
	@$(BIN)/lint-imports --no-cache --no-logo
	@$(BIN)/python -m pytest -q tests/test_tidy.py

format: $(STAMP)  ## Format the code
	@$(BIN)/ruff check --fix-only -q .
	@$(BIN)/ruff format -q .

bench: $(STAMP)  ## Measure every workload beside its yardstick; SHORT=1 for a minute, WRITE=1 into the documents
	@$(BIN)/python -m benchmarks $(if $(SHORT),--short) $(if $(WRITE),--write) $(ONLY)

bench-peers: $(STAMP)  ## Measure DBOS, in an environment of its own, and Flux in turn
	@$(BIN)/python -m benchmarks.peers $(if $(SHORT),--short)

clean:  ## Remove what the other targets made
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist build
	@find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	for python in $(PYTHON); do \
	    "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
	    echo "Making .venv with $$("$$python" --version)"; exec "$$python" -m venv .venv; \
	done; \
	echo "Flux needs Python 3.11 or newer with its venv module, and none of these is it: $(PYTHON)." >&2; \
	echo "Install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(STAMP)
