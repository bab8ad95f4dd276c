# Every target that a person or CI needs. `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help install demo test check docs pictures format bench clean

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## make .venv with pinned versions, zsseg and the development tools in it

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "zsseg needs Python 3.11 or newer; run make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install ## the whole pipeline on a small drawn world: some minutes, no data or weights to download
	$(BIN)/zsseg demo --out demo

test: check ## everything that CI runs: lint, types, contracts, tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --durations 10 # one thread for each of two processes

check: install docs ## lint, formatting, types, import contracts and the documents' links
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install ## the documentation site in build/docs, links checked (its search needs a server: .venv/bin/mkdocs serve)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

pictures: install ## the pictures of README, in docs/pictures, from the drawn world (needs Chromium)
	$(BIN)/python -m benchmarks.pictures

format: install ## rewrite the code in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install ## every ratio of docs/performance.md (about 40 minutes on two cores; BENCH="--quick --only stage_one")
	$(BIN)/python -m benchmarks.run $(BENCH)

clean: ## remove .venv, caches and build products (never data_cache, runs or demo)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
