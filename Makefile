# Set-up, demo, tests, benchmarks. Needs make and Python 3.11 to 3.13; everything else goes into .venv from uv.lock.

.PHONY: help setup demo test lint bench docs
.DEFAULT_GOAL := help

VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin
TEST_JOBS ?= 2

export UV_PROJECT_ENVIRONMENT := $(CURDIR)/$(VENV)
export UV_PYTHON_DOWNLOADS := never
export MLFLOW_DISABLE_TELEMETRY := true
# Programs start twice as fast when Python may keep what it compiled.
unexport PYTHONDONTWRITEBYTECODE

help:
	@echo "make demo    search on built-in images, then an ensemble: the whole way in a few minutes"
	@echo "make test    linters, types and tests"
	@echo "make lint    linters and types only"
	@echo "make docs    the documentation as pages, in site/"
	@echo "make bench   every benchmark, each with its goal"
	@echo "make setup   only create $(VENV)"

setup: $(STAMP)

# Installed once; again only when the project's requirements or its lock change.
$(STAMP): pyproject.toml uv.lock
	@set -e; \
	python="$(PYTHON)"; \
	for each in python3.13 python3.12 python3.11 python3 python; do \
	  [ -z "$$python" ] || break; \
	  if "$$each" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; \
	  then python="$$each"; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "error: no Python 3.11, 3.12 or 3.13 was found. Install one, or type: make setup PYTHON=/path/to/python3.12" >&2; \
	  exit 2; \
	fi; \
	if command -v uv >/dev/null 2>&1; then uv=uv; \
	elif [ -x $(BIN)/uv ]; then uv=$(BIN)/uv; \
	else \
	  "$$python" -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "error: $$python cannot create environments. On Debian and Ubuntu type: sudo apt-get install python3-venv" >&2; \
	    exit 2; }; \
	  [ -x $(BIN)/python ] || "$$python" -m venv $(VENV); \
	  echo "installing uv into $(VENV)"; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check uv; \
	  uv=$(BIN)/uv; \
	fi; \
	if [ -x $(BIN)/python ]; then python=$(BIN)/python; fi; \
	"$$uv" sync --frozen --inexact --python "$$python"
	@touch $@

demo: $(STAMP)
	$(BIN)/harness study run lr_aug_sweep
	$(BIN)/harness ensemble build --method stacking --study lr_aug_sweep

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(TEST_JOBS) --dist loadfile

docs: $(STAMP)
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -b html -d .sphinx docs site
	@echo "open site/index.html"

# What starts with an underscore is no benchmark; the others that are left out ask for a study or a folder.
bench: $(STAMP)
	@set -e; for file in benchmarks/[!_]*.py; do \
	  name=$$(basename "$$file" .py); \
	  case $$name in racing_table | results_table | ensemble_results | shortcuts | ignored_polarity) continue ;; esac; \
	  echo "$$name"; $(BIN)/python -m "benchmarks.$$name" --json; \
	done
