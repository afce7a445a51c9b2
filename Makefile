# Everything runs from a virtual environment that the first command makes: `python3` and `make` are
# all a fresh machine needs. A stamp inside it makes later runs start at once.

PYTHON ?= python3
SECONDS ?= 60
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test lint format docs slow fuzz durations bench clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.stamp-lab  ## ordinary and convex network on real digits: table, certificates, report
	@$(BIN)/convexnet demo

# The types are checked beside the tests, and reported after them: alone, they would leave one of two cores idle.
test: $(VENV)/.stamp-dev  ## style, types, tests, doctests and the documentation's examples
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/pyright > $(VENV)/types.log 2>&1 & types=$$!; \
	$(PYTEST); tests=$$?; \
	wait $$types; types=$$?; \
	cat $(VENV)/types.log; \
	exit $$(( tests ? tests : types ))

lint: $(VENV)/.stamp-dev  ## style and types only
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/pyright

format: $(VENV)/.stamp-dev  ## rewrite the sources in the project's style
	@$(BIN)/ruff check --fix --quiet || true
	@$(BIN)/ruff format

docs: $(VENV)/.stamp-dev  ## write the documentation to site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict  # with --quiet, strict does not see warnings
	@echo "site/index.html; with its search: python3 -m http.server -d site"

slow: $(VENV)/.stamp-dev  ## the tests that `make test` leaves out for their length
	@$(PYTEST) -m slow

fuzz: $(VENV)/.stamp-dev  ## look for a wrong certificate, minimum, rule or form (SECONDS=60, SEED=)
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

durations: $(VENV)/.stamp-dev  ## the processor time of the tests, by room, file and test
	@$(PYTEST) -p tests.durations

bench: $(VENV)/.stamp-dev  ## run every benchmark
	@set -e; for file in benchmarks/*.py; do \
	  test "$$file" != benchmarks/paired.py || continue; \
	  test -e "$$file" || { echo "there are no benchmarks yet"; break; }; \
	  echo "== $$file"; $(BIN)/python "$$file"; \
	done

clean:  ## remove the environment and everything that was built or cached
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# One thread for each of the two pytest workers, and pyright need not ask whether it is the newest.
test slow fuzz durations: export OMP_NUM_THREADS := 1
test slow fuzz durations: export MKL_NUM_THREADS := 1
test slow fuzz durations: export OPENBLAS_NUM_THREADS := 1
test lint: export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
# Where this is set, as in many containers, each worker and process would compile every module and test anew.
test slow fuzz durations: export PYTHONDONTWRITEBYTECODE :=

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "convexnet needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12 ...")'
	@echo "making $(VENV) (once) ..."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.stamp-lab: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "installing convexnet and what the demo needs (once; torch is a large download) ..."
	@$(PIP) install -c constraints.txt -e '.[lab]'
	@touch $@

$(VENV)/.stamp-dev: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "installing convexnet and what its tests need (once; torch is a large download) ..."
	@$(PIP) install -c constraints.txt -e '.[lab,solve,rl,cluster,dev]'
	@touch $@ $(VENV)/.stamp-lab
