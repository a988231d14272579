# make demo     meta-train a small optimizer and show what it does
# make test     the fast tests; more options in PYTEST_ARGS
# make docs     the guides and the reference as a site: docs/_build/index.html
# make lint     style; make types: static types; make bench: measurements
# make clean    remove the environment and every cache
#
# Needs Python >= 3.11 and make, nothing else: everything is installed into .venv.
# Another interpreter: make demo PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?= -n 2 --dist loadfile
DEMO_ARGS ?=
BENCH_ARGS ?=
# What the tests are installed with; `make test EXTRAS=test+plot+data` adds data sets.
EXTRAS ?= test+plot

BIN := $(VENV)/bin
DEV := $(VENV)/.installed-$(EXTRAS)
comma := ,

.PHONY: demo test docs lint types bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed-plot
	$(BIN)/learned-opt demo $(DEMO_ARGS)

test: $(DEV)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -q -W --keep-going docs docs/_build

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV)
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(DEV)
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

clean:
	rm -rf $(VENV) build dist docs/_build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per set of extras (joined by +), so that nothing is installed twice.
$(VENV)/.installed-%: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or newer is needed, and '$(PYTHON)' is not that" \
	       "($$($(PYTHON) -V 2>&1)). Name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; \
	  exit 1; } >&2
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
	  --editable '.[$(subst +,$(comma),$*)]'
	@touch $@
