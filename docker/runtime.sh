#!/usr/bin/env bash
# Run a job of Lookalike where it belongs: in a container or in the local virtual environment.
#
#   docker/runtime.sh train|serve|request|status|stop [ARGUMENT...]    the Makefile's targets of these names
#   docker/runtime.sh images | up | down                               build the images; start or stop the services
#   docker/runtime.sh compose [ARGUMENT...]                            run Compose on these services
#
# This file decides where, and runs what is local. The files that it reads in do the rest:
#
#   containers.sh  builds the images, and knows what all containers have in common
#   train.sh       trains in a container, which sees the paths that the job names
#   serve.sh       serves in a container, and asks or stops that server
#   services.sh    MLflow and a server side by side, with Compose
#
# Environment:
#   RUNTIME      auto (default), local or docker. auto: Docker where an engine answers that knows NVIDIA's GPUs, else local
#   GPUS         which GPUs: all (default where Docker knows them), none, or numbers such as 0,1, as nvidia-smi numbers them
#   DOCKER       the client (default docker);  DOCKER_ARGS  more options for `docker run`
#   DOCKER_COMPOSE   docker-compose 1.29 (default docker-compose), used if there is no `docker compose`
#   CONTAINER    the name of make serve's container (default lookalike-serve);  PROJECT  of make up's (default lookalike)
#   TORCH_INDEX  the pip index of torch's CPU build (PyTorch's installation page names it); empty: pip's default index
#   CUDA_INDEX   the same of torch's build for an older CUDA, where the NVIDIA driver is too old for the usual one
#   BASE         the base image, to pin it by its digest
#   MODEL        for images: an archive to bake into lookalike-serve:baked, runs/…/lookalike.mar
#   PORT, MLFLOW_PORT, RUNS, DATA and others   for the Compose services: see Compose in README.md
#   MLFLOW_*, LOOKALIKE_*, OMP_NUM_THREADS   passed on to the job
#
# Exits 1 if the runtime, an image or a service is not available, 2 for wrong usage, else with the job's own code.
set -eu
cd "$(dirname "$0")/.."

runtime=${RUNTIME:-auto}
docker=${DOCKER:-docker}
bin=${BIN:-.venv/bin}
torch=${TORCH:-2.13.0}
cpu_index=${TORCH_INDEX-}
container=${CONTAINER:-lookalike-serve}
project=${PROJECT:-lookalike}
export DOCKER_BUILDKIT=1

source docker/containers.sh
source docker/train.sh
source docker/serve.sh
source docker/services.sh

fail() { # CODE MESSAGE
  echo "Error: $2" >&2
  exit "$1"
}

# Sets no_engine (why there is none, or empty) and nvidia: whether Docker knows NVIDIA's GPUs by their runtime (yes), only by
# the Container Device Interface (cdi), or not at all (no).
examine() {
  no_engine='' nvidia=no
  local runtimes
  if ! command -v "$docker" >/dev/null 2>&1; then
    no_engine="Docker is not installed"
  elif ! runtimes=$("$docker" info --format '{{json .Runtimes}}' 2>/dev/null); then
    no_engine="no Docker engine answers"
  elif [[ $runtimes == *nvidia* ]]; then
    nvidia=yes
  elif [[ $("$docker" info --format '{{json .}}' 2>/dev/null) == *'"nvidia.com/gpu='* ]]; then
    nvidia=cdi
  fi
}

# Sets gpus: all, none or numbers.
choose_gpus() {
  gpus=${GPUS:-none}
  [ -n "${GPUS:-}" ] || [ "$nvidia" = no ] || gpus=all
  [[ $gpus =~ ^(all|none|[0-9]+(,[0-9]+)*)$ ]] || fail 2 "GPUS must be all, none or numbers such as 0,1, not $gpus"
  [ "$gpus" = none ] || [ "$nvidia" != no ] || [ "$runtime" = local ] ||
    fail 1 "GPUS=$gpus: Docker has no NVIDIA runtime here; install nvidia-container-toolkit, or GPUS=none"
}

# Settles runtime (local or docker) and gpus for the job named in $1, and prints where it runs and why.
choose() {
  local why="as requested"
  examine
  case $runtime in
  local) ;;
  docker) [ -z "$no_engine" ] || fail 1 "RUNTIME=docker: $no_engine; RUNTIME=local works without it" ;;
  auto)
    if [ -n "$no_engine" ]; then
      runtime=local why=$no_engine
    elif [ "$nvidia" = yes ]; then
      runtime=docker why="Docker and the NVIDIA runtime answer"
    elif [ "$nvidia" = cdi ]; then
      runtime=docker why="Docker answers and has found NVIDIA's GPUs"
    else
      runtime=local why="Docker answers, but has no NVIDIA runtime; RUNTIME=docker uses it anyway"
    fi
    ;;
  *) fail 2 "RUNTIME must be auto, local or docker, not $runtime" ;;
  esac
  choose_gpus
  case $runtime in
  docker) echo "Runtime for $1: Docker ($why)" ;;
  local) echo "Runtime for $1: local venv ($why)" ;;
  esac
}

# For commands that need an engine whatever RUNTIME says.
need_engine() {
  runtime=docker
  examine
  [ -z "$no_engine" ] || fail 1 "this needs containers, and $no_engine; make train, make serve and make mlflow work without it"
}

# Runs a module in the local environment, which is created first if it is missing.
run_locally() { # MODULE ARGUMENT...
  MAKEFLAGS='' make --silent --no-print-directory setup
  if [ "${GPUS:-all}" != all ]; then # numbered as nvidia-smi and Docker do; CUDA's own order is by speed
    export CUDA_VISIBLE_DEVICES="${GPUS#none}" CUDA_DEVICE_ORDER=PCI_BUS_ID
  fi
  exec "$bin/python" -m "$@"
}

main() {
  local command=${1-}
  [ $# = 0 ] || shift
  case $command in images | up | down | compose) need_engine ;; esac
  case $command in
  train)
    choose training
    if [ "$runtime" = docker ]; then train_in_docker "$@"; else run_locally train fit "$@"; fi
    ;;
  serve)
    choose serving
    if [ "$runtime" = docker ]; then serve_in_docker "$@"; else run_locally serve start "$@"; fi
    ;;
  request | status | stop) ask "$command" "$@" ;;
  images) build_images ;;
  up | down | compose) "$command" "$@" ;;
  *) fail 2 "usage: docker/runtime.sh train|serve|request|status|stop|images|up|down|compose [ARGUMENT...]" ;;
  esac
}

# The shell reads a script while running it; the braces make it read all of this file first, so that it may be edited.
{
  main "$@"
  exit
}
