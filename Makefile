# `make demo` runs the whole way on phantoms, `make test` runs the tests; both set up everything they need.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
DEMO ?= demo
STUDIES ?= 400

# Spark's workers start this Python, and its launcher finds the right Java.
export PYSPARK_PYTHON := $(BIN)/python
export SPARK_LOCAL_IP ?= 127.0.0.1
# A log that leaves room for our own lines.
export SPARK_CONF_DIR ?= $(CURDIR)/conf/spark
# Homebrew keeps its Java off the path. Looked up when a recipe runs: .ci/ensure_java may just have installed it.
BREW_JAVA = $(firstword $(wildcard /opt/homebrew/opt/openjdk@17 /usr/local/opt/openjdk@17))
ifeq ($(JAVA_HOME),)
export JAVA_HOME = $(BREW_JAVA)
endif

.PHONY: help demo test test-petastorm lint format install java clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(VENV)/installed java ## .venv with the exact versions of constraints.txt; Java where it is missing

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Pleura needs Python 3.11 or later; $(PYTHON) is older. Install it, or call: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

java:
	@.ci/ensure_java

demo: install ## phantoms → ingest → extract → train → score, through spark-submit, into $(DEMO)/
	@.ci/demo $(BIN) $(DEMO) $(STUDIES)

# In two processes, each with one thread of arithmetic: with more, threads wait for each other most of the time.
test: install ## the tests (TESTS="-m real" for those on real data)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(TESTS)

test-petastorm: install $(VENV)-petastorm/installed ## the tests of reader=petastorm, in an environment of its own
	@.ci/test_petastorm $(BIN) $(CURDIR)/$(VENV)-petastorm/bin

$(VENV)-petastorm/installed: $(VENV)/installed .ci/petastorm.txt .ci/petastorm_environment
	@.ci/petastorm_environment $(VENV) $(VENV)-petastorm

lint: install ## ruff, format check, mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install ## rewrite the code in ruff's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove what demo, tests and builds made, environments excepted
	rm -rf $(DEMO) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
