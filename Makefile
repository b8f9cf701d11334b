# Lookalike. `make` alone explains the targets; every target does its own set-up, once.

# Which Python makes the environment; by default the first of these that is 3.11 or 3.12.
PYTHON ?=
PYTHONS := $(or $(PYTHON),python3 python3.12 python3.11)
TORCH ?= 2.13.0
VENV ?= .venv
ARGS ?=
RUNTIME ?= auto

BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup train serve request status stop mlflow doctor test test-unit lint format readme bench-quality clean clean-venv

help: ## Explain the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  ARGS="…" is passed on: make train ARGS="--data digits --max-minutes 1"'

setup: $(READY) ## Make the virtual environment (all other targets do it by themselves)

# torch first and by pip: a bare requirement could bring a newer build than the one named here.
$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || for python in $(PYTHONS); do \
	  $$python -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && \
	  echo "Setting up $(VENV) with $$python (a few minutes, once)" && $$python -m venv $(VENV) && exit; \
	  done; test -x $(BIN)/python || { echo "Error: Lookalike needs Python 3.11 or 3.12, and none of these is: $(PYTHONS)." \
	  "Name yours: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet torch==$(TORCH)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[serve,dev]"
	@touch $@

train: $(READY) ## Train on the movie reviews, or on your data: ARGS="--data reviews.csv"
	@RUNTIME=$(RUNTIME) docker/runtime.sh "training"
	@$(BIN)/python -m train fit $(ARGS)

serve: $(READY) ## Serve the newest trained generator with TorchServe
	@RUNTIME=$(RUNTIME) docker/runtime.sh "serving"
	@$(BIN)/python -m serve start $(ARGS)

request: $(READY) ## Ask the server for five sequences
	@$(BIN)/python -m serve request $(or $(ARGS),-n 5)

status: $(READY) ## Say what is being served
	@$(BIN)/python -m serve status $(ARGS)

stop: $(READY) ## Stop the server
	@$(BIN)/python -m serve stop $(ARGS)

mlflow: $(READY) ## Open MLflow on the runs: http://127.0.0.1:5000
	@$(BIN)/mlflow ui --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///$(CURDIR)/runs/mlflow.db}" $(ARGS)

doctor: $(READY) ## Check this machine and say what it lacks
	@$(BIN)/python -m train doctor $(ARGS)

test: lint ## Lint, check types, and run all tests
	@$(BIN)/python -m pytest $(ARGS)

test-unit: $(READY) ## Run the tests that need neither network nor services
	@$(BIN)/python -m pytest tests/unit $(ARGS)

lint: $(READY) ## Lint and check types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy train serve

format: $(READY) ## Put the code into its form
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

readme: $(READY) ## Bring the options in the README up to date
	@PYTHONPATH=. $(BIN)/python tests/unit/test_readme.py

bench-quality: $(READY) ## GAN, baselines and floor on four data sets, three seeds (about an hour)
	@$(BIN)/python tests/bench/quality.py $(ARGS)

clean: ## Remove caches; runs/ stays
	@find train serve tests -name __pycache__ -type d -prune -exec rm -r {} +
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis

clean-venv: ## Remove the virtual environment
	@rm -rf $(VENV)
