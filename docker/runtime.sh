#!/bin/sh
# Say where the work named in $1 runs, and why: $RUNTIME is auto, local or docker.
# Exits 1 where the wished-for runtime cannot be had.
set -eu
case "${RUNTIME:-auto}" in
local) echo "Runtime for $1: local venv (as asked for)" ;;
docker)
  echo "Error: RUNTIME=docker: there is no image for $1 yet; use RUNTIME=local" >&2
  exit 1
  ;;
auto)
  if ! command -v docker >/dev/null 2>&1; then
    why="Docker is not installed"
  elif ! runtimes=$(docker info --format '{{json .Runtimes}}' 2>/dev/null); then
    why="no Docker engine answers"
  else
    case "$runtimes" in
    *nvidia*) why="Docker and the NVIDIA runtime answer, but there is no image yet" ;;
    *) why="Docker answers, but has no NVIDIA runtime" ;;
    esac
  fi
  echo "Runtime for $1: local venv ($why)"
  ;;
*)
  echo "Error: RUNTIME must be auto, local or docker, not $RUNTIME" >&2
  exit 2
  ;;
esac
