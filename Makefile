# Lookalike. `make` alone explains the targets; every target does its own set-up, once.

# Which Python makes the environment; by default the first of these that is 3.11 or 3.12.
PYTHON ?=
PYTHONS := $(or $(PYTHON),python3 python3.12 python3.11)
TORCH ?= 2.13.0
# The pip index of torch's CPU build, for boxes without an NVIDIA driver, and that of a build for an older CUDA, for boxes with
# one that is too old for the usual build; empty: wherever pip looks.
TORCH_INDEX ?=
CUDA_INDEX ?=
VENV ?= .venv
ARGS ?=
TEST_PROCESSES ?= 2
RUNTIME ?= auto
GPUS ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready
INDEX = $(if $(TORCH_INDEX)$(CUDA_INDEX),$(shell nvidia-smi --list-gpus >/dev/null 2>&1 && echo $(CUDA_INDEX) || echo $(TORCH_INDEX)))
FROM_INDEX = $(addprefix --extra-index-url ,$(INDEX))
HAS_PIP := $(BIN)/python -c 'import pip' 2>/dev/null
# exec, because make passes SIGTERM on only to its own child, which would be a shell that keeps it to itself.
RUN := exec env RUNTIME=$(RUNTIME) GPUS=$(GPUS) BIN=$(BIN) TORCH=$(TORCH) docker/runtime.sh

.DEFAULT_GOAL := help
.PHONY: help setup train serve request status stop up down build-images mlflow doctor test test-unit test-docker lint format readme bench bench-quality bench-text bench-kill bench-peers clean clean-venv

help: ## Explain the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  ARGS="…" is passed on: make train ARGS="--data digits --max-minutes 1"'

setup: $(READY) ## Create the virtual environment (all other targets do so when needed)

# torch first and by pip: a bare requirement could bring a newer build than the one named here. An environment without pip
# was not made to the end, and Debian's Python without python3-venv, which lacks ensurepip, would make such a one.
$(READY): pyproject.toml constraints.txt
	@$(HAS_PIP) || for python in $(PYTHONS); do \
	  $$python -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && \
	  echo "Setting up $(VENV) with $$python (a few minutes, once)" && $$python -m venv $(VENV) && exit; \
	  done; $(HAS_PIP) || { echo "Error: Lookalike needs Python 3.11 or 3.12 with its venv module (Debian: apt install python3-venv)," \
	  "and none of these qualifies: $(PYTHONS). Name yours: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet $(FROM_INDEX) --constraint constraints.txt torch==$(TORCH)
	@$(BIN)/python -m pip install --quiet $(FROM_INDEX) --constraint constraints.txt torch==$(TORCH) --editable ".[serve,dev]"
	@touch $@

# Where these run (RUNTIME=auto|local|docker, GPUS=all|none|0,1) is decided, and said, by docker/runtime.sh.
train: ## Train on the movie reviews, or on your data: ARGS="--data reviews.csv"
	@$(RUN) train $(ARGS)

serve: ## Serve the newest trained generator with TorchServe
	@$(RUN) serve $(ARGS)

request: ## Ask the server for five sequences
	@$(RUN) request $(or $(ARGS),-n 5)

status: ## Say what is being served
	@$(RUN) status $(ARGS)

stop: ## Stop the server
	@$(RUN) stop $(ARGS)

up: ## Start MLflow and the server in containers
	@$(RUN) up

down: ## Stop the containers of `make up`; their data stays
	@$(RUN) down

build-images: ## Build the container images; MODEL=runs/…/lookalike.mar bakes one in
	@$(RUN) images

mlflow: $(READY) ## Open MLflow on the runs: http://127.0.0.1:5000
	@out="$${LOOKALIKE_OUT:-runs}"; \
	test -n "$$MLFLOW_TRACKING_URI" -o -e "$$out/mlflow.db" || \
	  { echo "Error: there is no $$out/mlflow.db yet; train first: make train" >&2; exit 1; }; \
	case "$$MLFLOW_TRACKING_URI" in \
	  http*) echo "MLFLOW_TRACKING_URI names a server; no need to start one: open $$MLFLOW_TRACKING_URI" | sed 's|://.*@|://|' ;; \
	  ?*) MLFLOW_BACKEND_STORE_URI="$$MLFLOW_TRACKING_URI" exec $(BIN)/mlflow ui $(ARGS) ;; \
	  *) MLFLOW_BACKEND_STORE_URI="sqlite:///$$(cd "$$out" && pwd)/mlflow.db" exec $(BIN)/mlflow ui $(ARGS) ;; \
	esac

doctor: $(READY) ## Check this machine and say what it lacks
	@$(BIN)/python -m train doctor $(ARGS)

# In the order of their names the long files come first; xdist by itself would begin with those of many short tests.
test: lint ## Lint, check types, and run all tests
	@$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

test-unit: $(READY) ## Run the tests that need neither network nor services
	@$(BIN)/python -m pytest tests/unit $(ARGS)

test-docker: $(READY) ## Build and run the containers for real (about ten minutes the first time)
	@$(BIN)/python -m pytest tests/docker $(ARGS)

lint: $(READY) ## Lint and check types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy train serve

format: $(READY) ## Format the code
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

readme: $(READY) ## Bring the options in the README up to date
	@PYTHONPATH=. $(BIN)/python tests/unit/test_readme.py

bench: $(READY) ## Speed of training: beside a plain loop, part by part, and to quality (about ten minutes)
	@PYTHONPATH=. $(BIN)/python tests/bench/speed.py $(ARGS)

bench-quality: $(READY) ## GAN, baselines and floor on four data sets, three seeds (three minutes of training for each)
	@PYTHONPATH=. $(BIN)/python tests/bench/quality.py $(ARGS)

bench-text: $(READY) ## GAN, RNN and floor on whole texts; ARGS="file.txt …" for your own (about an hour)
	@PYTHONPATH=. $(BIN)/python tests/bench/text.py $(ARGS)

bench-kill: $(READY) ## Kill a small job 40 times and check that nothing was lost (about ten minutes)
	@PYTHONPATH=. $(BIN)/python tests/bench/kills.py $(ARGS)

bench-peers: $(READY) ## Other generators beside ours, at their defaults (installs them under runs/bench/peers; hours)
	@PYTHONPATH=. $(BIN)/python tests/bench/peers.py $(ARGS)

clean: ## Remove caches; runs/ stays
	@find train serve tests -name __pycache__ -type d -prune -exec rm -r {} +
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis

clean-venv: ## Remove the virtual environment
	@rm -rf $(VENV)
