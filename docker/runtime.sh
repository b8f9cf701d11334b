#!/bin/sh
# Run a job of Lookalike in a container or in the local virtual environment.
#
#   docker/runtime.sh train|serve|request|status|stop [ARGUMENT...]    the Makefile's targets of these names
#   docker/runtime.sh images | up | down                               build the images; start or stop the services
#   docker/runtime.sh compose [ARGUMENT...]                            run Compose on these services
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

docker=${DOCKER:-docker}
bin=${BIN:-.venv/bin}
torch=${TORCH:-2.13.0}
cpu_index=${TORCH_INDEX-}
container=${CONTAINER:-lookalike-serve}
project=${PROJECT:-lookalike}
export DOCKER_BUILDKIT=1

fail() { # CODE MESSAGE
  echo "Error: $2" >&2
  exit "$1"
}

# --- Where ------------------------------------------------------------------------------------------------------------

# Sets engine (yes, or the reason why there is none) and nvidia: whether Docker knows NVIDIA's GPUs by their runtime (yes),
# only by the Container Device Interface (cdi), or not at all (no).
examine() {
  nvidia=no
  if ! command -v "$docker" >/dev/null 2>&1; then
    engine="Docker is not installed"
  elif ! runtimes=$("$docker" info --format '{{json .Runtimes}}' 2>/dev/null); then
    engine="no Docker engine answers"
  else
    engine=yes
    case $runtimes in
    *nvidia*) nvidia=yes ;;
    *) case $("$docker" info --format '{{json .}}' 2>/dev/null) in *'"nvidia.com/gpu='*) nvidia=cdi ;; esac ;;
    esac
  fi
}

# Sets where (local or docker) and gpus (all, none or numbers) for the job named in $1, and prints where and why.
choose() {
  examine
  case ${RUNTIME:-auto} in
  local) where=local why="as requested" ;;
  docker)
    [ "$engine" = yes ] || fail 1 "RUNTIME=docker: $engine; RUNTIME=local works without it"
    where=docker why="as requested"
    ;;
  auto)
    if [ "$engine" != yes ]; then
      where=local why=$engine
    elif [ $nvidia = yes ]; then
      where=docker why="Docker and the NVIDIA runtime answer"
    elif [ $nvidia = cdi ]; then
      where=docker why="Docker answers and has found NVIDIA's GPUs"
    else
      where=local why="Docker answers, but has no NVIDIA runtime; RUNTIME=docker uses it anyway"
    fi
    ;;
  *) fail 2 "RUNTIME must be auto, local or docker, not $RUNTIME" ;;
  esac
  case ${GPUS:-} in
  '') if [ $nvidia = no ]; then gpus=none; else gpus=all; fi ;;
  none | all) gpus=$GPUS ;;
  *[!0-9,]* | ,* | *, | *,,*) fail 2 "GPUS must be all, none or numbers such as 0,1, not $GPUS" ;;
  *) gpus=$GPUS ;;
  esac
  if [ $where = docker ]; then
    [ "$gpus" = none ] || [ $nvidia != no ] ||
      fail 1 "GPUS=$gpus: Docker has no NVIDIA runtime here; install nvidia-container-toolkit, or GPUS=none"
    echo "Runtime for $1: Docker ($why)"
  else
    echo "Runtime for $1: local venv ($why)"
  fi
}

# Fails if there is no engine; for commands that need one whatever RUNTIME says.
need_engine() {
  examine
  [ "$engine" = yes ] || fail 1 "this needs containers, and $engine; make train, make serve and make mlflow work without it"
}

# Runs a module in the local environment, which is created first if it is missing.
local_python() { # MODULE ARGUMENT...
  MAKEFLAGS='' make --silent --no-print-directory setup
  case ${GPUS:-all} in
  all) ;;
  none) export CUDA_VISIBLE_DEVICES= ;;
  *) export CUDA_VISIBLE_DEVICES="$GPUS" CUDA_DEVICE_ORDER=PCI_BUS_ID ;; # nvidia-smi's and Docker's; CUDA's own is by speed
  esac
  exec "$bin/python" -m "$@"
}

# --- Images -----------------------------------------------------------------------------------------------------------

revision() {
  git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null || echo unknown
}

build() { # FILE TAG OPTION...
  file=$1 tag=$2
  shift 2
  set -- --build-arg "REVISION=$(revision)" "$@"
  [ -z "${BASE:-}" ] || set -- --build-arg "BASE=$BASE" "$@"
  "$docker" build --file "docker/$file.Dockerfile" --tag "$tag" "$@" . || fail 1 "the image $tag could not be built"
}

# Sets image, the training image, and index: for a GPU torch's CUDA build, otherwise what TORCH_INDEX provides.
choose_image() {
  if [ "$gpus" = none ]; then image=lookalike-train:cpu index=$cpu_index; else image=lookalike-train:cuda index=${CUDA_INDEX-}; fi
}

build_train() {
  choose_image
  build train "$image" --target train --build-arg "TORCH=$torch" --build-arg "TORCH_INDEX=$index"
}

build_mlflow() {
  build train lookalike-mlflow --target tracking
}

build_serve() { # TAG OPTION...
  [ -n "$cpu_index" ] || [ "$(uname -m)" != x86_64 ] ||
    echo "TORCH_INDEX is not set: unless pip finds a CPU build, torch brings gigabytes of CUDA that serving does not use" >&2
  tag=$1
  shift
  build serve "$tag" --build-arg "TORCH=$torch" --build-arg "TORCH_INDEX=$cpu_index" "$@"
}

# Fails if MODEL is outside the build context (.dockerignore) or missing.
check_model() {
  case ${MODEL:-} in
  '') ;;
  runs/*/*/* | */../*) fail 2 "MODEL=$MODEL: only an archive at runs/…/lookalike.mar in this folder can be baked in" ;;
  runs/*/lookalike.mar) [ -f "$MODEL" ] || fail 2 "MODEL=$MODEL: there is no such file" ;;
  *) fail 2 "MODEL=$MODEL: only an archive at runs/…/lookalike.mar in this folder can be baked in" ;;
  esac
}

images() {
  check_model
  RUNTIME=docker choose images
  build_train
  build_mlflow
  build_serve lookalike-serve --target serve
  [ -z "${MODEL:-}" ] || build_serve lookalike-serve:baked --target baked --build-arg "MODEL=$MODEL"
  "$docker" image ls --filter 'reference=lookalike-*' --format '{{.Repository}}:{{.Tag}}  {{.Size}}'
}

# --- Jobs in containers -----------------------------------------------------------------------------------------------

# The caller's uid and gid, so that a job's files belong to the caller; a rootless engine maps its root to the caller.
identity() {
  case $("$docker" info --format '{{json .SecurityOptions}}' 2>/dev/null) in
  *rootless*) echo 0:0 ;;
  *) echo "$(id -u):$(id -g)" ;;
  esac
}

from_here() { # PATH, which is relative to the project's folder
  case $1 in /*) echo "$1" ;; *) echo "$(pwd)/$1" ;; esac
}

absolute() { # PATH, whose folder must exist
  echo "$(cd "$(dirname "$1")" && pwd)/$(basename "$1")"
}

# Fails if `docker run --mount` cannot name the path: its value is a line of CSV.
mountable() { # PATH
  case $1 in *[,\"]*) fail 2 "$1: Docker cannot mount a path with a comma or a double quote; use RUNTIME=local, or rename it" ;; esac
}

# Whether MLFLOW_TRACKING_URI names a server.
is_server() {
  case ${MLFLOW_TRACKING_URI:-} in http*://* | databricks* | postgresql* | mysql*) ;; *) return 1 ;; esac
}

# Whether that server is on this machine.
is_here() {
  case ${MLFLOW_TRACKING_URI:-} in *[/@]localhost* | *[/@]127.* | *[/@]0.0.0.0* | *[/@]"[::1]"*) ;; *) return 1 ;; esac
}

# Fails if MLFLOW_TRACKING_URI names a file that would be lost with the container: one outside the folder of runs and
# whatever DOCKER_ARGS mounts. Paths are compared as written, because they are mounted as written.
check_store() { # FOLDER
  case ${MLFLOW_TRACKING_URI:-} in
  sqlite*:///*) file=${MLFLOW_TRACKING_URI#*:///} ;;
  file:*) file=${MLFLOW_TRACKING_URI#file:} ;;
  '' | *:*) return 0 ;; # not a file
  *) file=$MLFLOW_TRACKING_URI ;;
  esac
  file=$(printf '%s\n' "$file" | sed 's/?.*//; s/%20/ /g; s/%3F/?/g; s/%25/%/g')
  file=$(realpath -ms "$(from_here "$file")")
  case $file in "$1"/*) return 0 ;; esac
  for place in $(printf '%s\n' "${DOCKER_ARGS:-}" | tr ',=:' '   '); do
    case $place in /*) case $file in "$place" | "${place%/}"/*) return 0 ;; esac ;; esac
  done
  fail 2 "MLFLOW_TRACKING_URI names $file, which would be lost with the container: name a file under $1 or a server, or use RUNTIME=local"
}

# Prints a command and replaces this process with it.
become() {
  printf '+' >&2
  for word; do
    case $word in
    '' | *[!A-Za-z0-9_=:,./@%+-]*) printf " '%s'" "$(printf '%s' "$word" | sed "s/'/'\\\\''/g")" >&2 ;;
    *) printf ' %s' "$word" >&2 ;;
    esac
  done
  echo >&2
  exec "$@"
}

# Prints the value of an option in the run that is resumed: the one that --out names, or the newest.
of_run() { # OPTION
  config=$out/config.json
  [ -f "$config" ] || for config in "$out"/[0-9]*/config.json; do :; done
  sed -n 's/^ *"'"$1"'": "\(.*\)",*$/\1/p' "$config" 2>/dev/null | sed 's/\\\(["\\]\)/\1/g' || true
}

# Everything is mounted at its own path, so that paths mean the same inside as outside: this folder and other paths that
# the arguments or the resumed run name for reading, the folder of runs for writing. Only MLflow may need a network.
train_in_docker() { # ARGUMENT...
  here=$(pwd) out=${LOOKALIKE_OUT:-runs} dry=no resume=no before=
  for word; do
    case $word in --dry-run) dry=yes ;; --resume) resume=yes ;; --out=*) out=${word#--out=} ;; esac
    [ "$before" != --out ] || out=$word
    before=$word
  done
  runs=$(realpath -ms "$(from_here "$out")")
  [ ! -f "$runs/config.json" ] || runs=$(dirname "$runs") # a run to resume: MLflow's store is beside it
  check_store "$runs"
  mountable "$here"
  data='' gate=''
  [ $resume = no ] || data=$(of_run data) gate=$(of_run gate)
  choose_image
  set -- "$image" fit "$@"
  if [ $dry = no ]; then
    mountable "$runs"
    mkdir -p -m 700 "$out" # runs are as private as the data
    out=$runs
    set -- --mount "type=bind,source=$out,target=$out" "$@"
  fi
  for word in "$@" "${LOOKALIKE_DATA-}" "${LOOKALIKE_GATE-}" "$data" "$gate"; do
    path=${word#--*=}
    case $path in -*) continue ;; esac
    [ -e "$path" ] || continue
    path=$(absolute "$path")
    case $path/ in "$here"/* | "$out"/*) path=$(readlink -f "$path") ;; esac # mounted already, unless it is a link
    case "$path/ $*" in
    "$here"/* | "$out"/* | *"target=$path "* | *"target=$path,"*) ;;
    *)
      mountable "$path"
      set -- --mount "type=bind,source=$path,target=$path,readonly" "$@"
      ;;
    esac
    for link in "$path"/*; do # to files elsewhere, which are mounted where they are looked for
      if [ ! -L "$link" ] || [ ! -f "$link" ]; then continue; fi
      case $(readlink "$link") in /*) file=$(readlink "$link") ;; *) file=$path/$(readlink "$link") ;; esac
      file=$(realpath -ms "$file")
      case "$file $*" in
      "$here"/* | "$out"/* | "$path"/* | *"target=$file "* | *"target=$file,"*) ;;
      *)
        source=$(readlink -f "$link")
        mountable "$source"
        mountable "$file"
        set -- --mount "type=bind,source=$source,target=$file,readonly" "$@"
        ;;
      esac
    done
  done
  for name in $(env | sed -n 's/^\(MLFLOW_[A-Z0-9_]*\|LOOKALIKE_[A-Z0-9_]*\|OMP_NUM_THREADS\)=.*/\1/p'); do
    case $name in LOOKALIKE_CACHE | LOOKALIKE_SERVE_*) ;; *) set -- --env "$name" "$@" ;; esac
  done
  case $nvidia:$gpus in
  *:none) ;;
  cdi:*) for gpu in $(echo "$gpus" | tr , ' '); do set -- --device "nvidia.com/gpu=$gpu" "$@"; done ;;
  *:all) set -- --gpus all "$@" ;;
  *) set -- --gpus "\"device=$gpus\"" "$@" ;;
  esac
  network=none
  if is_server; then network=bridge; fi
  if is_server && is_here; then network=host; fi
  [ ! -t 1 ] || set -- --tty "$@"
  build_train
  # shellcheck disable=SC2086
  become "$docker" run --rm --network $network --shm-size 1g --cap-drop ALL --security-opt no-new-privileges \
    --stop-timeout 60 --user "$(identity)" --env "USER=$(id -un 2>/dev/null || id -u)" --workdir "$here" \
    --mount "type=bind,source=$here,target=$here,readonly" ${DOCKER_ARGS:-} "$@"
}

# The runs are mounted at /models for reading. The port is published on loopback by default; metrics only on request.
serve_in_docker() { # ARGUMENT...
  host=${LOOKALIKE_SERVE_HOST:-127.0.0.1} port=${LOOKALIKE_SERVE_PORT:-8080}
  metrics=${LOOKALIKE_SERVE_METRICS_PORT:-} token=${LOOKALIKE_SERVE_TOKEN_FILE:-}
  runs=${LOOKALIKE_SERVE_RUNS:-${LOOKALIKE_OUT:-runs}} model=${LOOKALIKE_SERVE_MODEL:-}
  left=$#
  while [ "$left" -gt 0 ]; do
    word=$1
    shift
    left=$((left - 1))
    case $word in
    --host | --port | --metrics-port | --runs | --model | --token-file)
      [ "$left" -gt 0 ] || fail 2 "$word needs a value"
      word=$word=$1
      shift
      left=$((left - 1))
      ;;
    esac
    case $word in
    --host=*) host=${word#*=} ;;
    --port=*) port=${word#*=} ;;
    --metrics-port=*) metrics=${word#*=} ;;
    --runs=*) runs=${word#*=} ;;
    --model=*) model=${word#*=} ;;
    --token-file=*) token=${word#*=} ;;
    --foreground) ;;
    *) set -- "$@" "$word" ;;
    esac
  done
  if is_serving; then
    await_serving
    echo "Already serving in container $container (to restart it: make stop, then make serve)"
    say_served "$container"
    return
  fi
  case $model in models:/*) fail 2 "--model $model: the serving image does not contain MLflow; use RUNTIME=local" ;; esac
  source=${model:-$runs}
  [ -e "$source" ] || fail 2 "there is no $source; train a model first: make train"
  source=$(absolute "$source")
  mountable "$source"
  target=/models
  [ ! -f "$source" ] || target=/models/lookalike.mar
  if [ -n "$token" ]; then
    [ -f "$token" ] || fail 2 "--token-file $token: there is no such file"
    token=$(absolute "$token")
    mountable "$token"
  fi
  build_serve lookalike-serve --target serve
  "$docker" rm --force "$container" >/dev/null 2>&1 || true
  set -- lookalike-serve --port "$port" "$@"
  if [ -n "$token" ]; then
    secret=/run/secrets/lookalike-token
    set -- --mount "type=bind,source=$token,target=$secret,readonly" "$@" --token-file "$secret"
  fi
  [ -z "$metrics" ] || set -- --publish "$host:$metrics:$metrics" "$@" --metrics-port "$metrics"
  for name in $(env | sed -n 's/^\(LOOKALIKE_SERVE_[A-Z_]*\)=.*/\1/p'); do
    case $name in
    *_RUNS | *_MODEL | *_HOST | *_SERVE_PORT | *_METRICS_PORT | *_TOKEN_FILE) ;; # set by mounts and options
    *_TOKEN | *_ADDRESS) ;; # for the client, maybe of another server
    *) set -- --env "$name" "$@" ;;
    esac
  done
  trap 'abandon 130' INT
  trap 'abandon 143' TERM
  # shellcheck disable=SC2086
  (become "$docker" run --detach --name "$container" --read-only --tmpfs /tmp:exec,mode=1777,size=1g \
    --cap-drop ALL --security-opt no-new-privileges --pids-limit 512 --stop-timeout 55 --user "$(identity)" \
    --publish "$host:$port:$port" --mount "type=bind,source=$source,target=$target,readonly" ${DOCKER_ARGS:-} "$@") >/dev/null || {
    "$docker" rm "$container" >/dev/null 2>&1 || true # created, but not started
    fail 1 "the container did not start and is removed; Docker's reason is above (for a taken port, choose another: --port 9000)"
  }
  await_serving
  trap - INT TERM
  "$docker" logs "$container" 2>&1 >/dev/null | grep '^Warning:' >&2 || true
  echo "address  http://$host:$port/predictions/lookalike"
  before='' token=''
  if "$docker" exec "$container" python -m serve token >/dev/null 2>&1; then
    before="$docker exec $container python -m serve token --header | " token=" -H @-"
  fi
  echo "try      ${before}curl -X POST http://$host:$port/predictions/lookalike -d '{\"n\": 5, \"seed\": 1}' -H 'Content-Type: application/json'$token"
}

# Removes a container whose start was interrupted. It has accepted no requests yet.
abandon() { # CODE
  "$docker" rm --force "$container" >/dev/null 2>&1 || true
  fail "$1" "interrupted; the container that was starting is removed"
}

# Waits longer than any --wait-seconds: a server that does not answer in time ends by itself.
await_serving() {
  for _ in $(seq 900); do
    if ! is_serving; then
      code=$("$docker" inspect --format '{{.State.ExitCode}}' "$container" 2>/dev/null) || fail 1 "the server was stopped"
      case $code in
      0 | 2) "$docker" logs "$container" ;; # help, or what is wrong with an option
      *) "$docker" logs --tail 20 "$container" >&2 ;;
      esac
      "$docker" rm "$container" >/dev/null
      case $code in 0 | 2) exit "$code" ;; esac
      fail 1 "the server exited unexpectedly; its last lines are above"
    fi
    if "$docker" logs "$container" 2>/dev/null | grep -q '^address'; then return; fi # printed once it answers
    sleep 1
  done
  fail 1 "the server does not answer; see: $docker logs $container"
}

is_serving() {
  [ "$("$docker" inspect --format '{{.State.Running}}' "$container" 2>/dev/null)" = true ]
}

# Prints the addresses at which a container can be reached.
published() { # CONTAINER
  "$docker" port "$1" | sed 's/.*-> /http:\/\//' | tr '\n' ' '
}

# Says which version a container serves, and how to switch where another run is the newest in the folder mounted there.
say_served() { # CONTAINER
  version=$("$docker" exec "$1" python -m serve status 2>/dev/null | sed -n 's/^\* version \([^,]*\),.*/\1/p') || true
  [ -n "$version" ] || return 0
  echo "it serves version $version"
  folder=$("$docker" inspect --format '{{range .Mounts}}{{if eq .Destination "/models"}}{{.Source}}{{end}}{{end}}' "$1")
  for archive in "$folder"/[0-9][0-9][0-9][0-9][0-9]-*/lookalike.mar; do :; done # the last is the newest
  [ -f "$archive" ] && [ ! -f "$folder/lookalike.mar" ] || return 0
  newest=$(basename "$(dirname "$archive")")
  [ "${newest%%-*}" != "$(printf %05d "$version" 2>/dev/null)" ] || return 0
  echo "the newest run is $newest; to switch to it: $docker exec $1 python -m serve use /models/$newest"
}

# Prints the id of the serving container of `make up`, found by Compose's labels; nothing if there is none.
composed() {
  "$docker" ps --quiet --filter "label=com.docker.compose.project=$project" \
    --filter label=com.docker.compose.service=serve --filter label=com.docker.compose.oneoff=False 2>/dev/null || true
}

# Whether the command can be meant for a local or remote server: it names one, or there is an environment or a state file.
may_be_local() { # COMMAND ARGUMENT...
  case "${LOOKALIKE_SERVE_ADDRESS:+--address} $*" in *--address* | *--runs* | *--help*) return 0 ;; esac
  [ -x "$bin/python" ] || [ -e "${LOOKALIKE_SERVE_RUNS:-${LOOKALIKE_OUT:-runs}}/serve/state.json" ]
}

# request, status and stop use the container of `make serve`, else that of `make up`, else, unless RUNTIME=docker, the local
# server.
ask() { # COMMAND ARGUMENT...
  serving=''
  if [ "${RUNTIME:-auto}" != local ]; then
    if is_serving; then serving=$container; else serving=$(composed); fi
  fi
  if [ -n "$serving" ] && [ "$1" = status ]; then
    "$docker" exec "$serving" python -m serve "$@"
    echo "These are addresses inside the container; here: $(published "$serving")" >&2
  elif [ -n "$serving" ] && [ "$1" != stop ]; then
    exec "$docker" exec "$serving" python -m serve "$@"
  elif [ "$serving" = "$container" ]; then
    "$docker" stop -t 55 "$container" >/dev/null
    "$docker" rm "$container" >/dev/null
    echo "stopped"
  elif [ -n "$serving" ]; then
    fail 1 "make up started this server, and make down stops it; to stop one outside containers: make stop RUNTIME=local"
  elif [ "${RUNTIME:-auto}" != docker ] && may_be_local "$@"; then
    local_python serve "$@"
  elif [ "$1" = stop ]; then
    echo "no server is running here"
  elif [ "${RUNTIME:-auto}" = docker ]; then
    fail 1 "no container is serving here; start one with: make serve RUNTIME=docker"
  else # without creating an environment first, which takes minutes
    fail 1 "no server is running here; start one with: make serve"
  fi
}

# --- Services ---------------------------------------------------------------------------------------------------------

compose() {
  user=$(identity)
  LOOKALIKE_UID=${LOOKALIKE_UID:-${user%:*}} LOOKALIKE_GID=${LOOKALIKE_GID:-${user#*:}}
  # Compose would take a plain name for a volume, and resolve other relative paths from its file.
  RUNS=$(from_here "${RUNS:-runs}") DATA=$(from_here "${DATA:-$(pwd)}")
  REVISION=$(revision) TORCH=$torch TORCH_INDEX=$cpu_index
  export LOOKALIKE_UID LOOKALIKE_GID RUNS DATA REVISION TORCH TORCH_INDEX
  # A file or localhost would be inside the container; the MLflow of these services is used instead.
  if ! is_server || is_here; then unset MLFLOW_TRACKING_URI; fi
  # Otherwise the engine would create it as its own user.
  mkdir -p -m 700 "$RUNS" || fail 1 "$RUNS cannot be used as the folder for runs"
  if "$docker" compose version >/dev/null 2>&1; then
    "$docker" compose --project-name "$project" --file docker/compose.yaml "$@"
  else
    "${DOCKER_COMPOSE:-docker-compose}" --project-name "$project" --file docker/compose.yaml "$@"
  fi
}

# Whether the serving container would find a model in this folder: lookalike.mar, or a run's archive.
holds_model() { # FOLDER
  for archive in "$1"/lookalike.mar "$1"/[0-9][0-9][0-9][0-9][0-9]-*/lookalike.mar; do
    [ ! -f "$archive" ] || return 0
  done
  return 1
}

up() {
  RUNTIME=docker choose services
  set -- --profile tracking
  build_mlflow
  if holds_model "${RUNS:-runs}"; then
    set -- "$@" --profile serve
    build_serve lookalike-serve --target serve
  else
    echo "There is no trained model under ${RUNS:-runs}, so only MLflow starts; to add serving: make train, then make up again"
  fi
  compose "$@" up --detach --no-build || fail 1 "the services did not start"
  for service in $(compose "$@" config --services); do
    id=$(compose "$@" ps --quiet "$service" | cut -c 1-12)
    await_healthy "$id" "$service"
    [ "$service" != serve ] || say_served "$id"
  done
}

await_healthy() { # CONTAINER SERVICE
  [ -n "$1" ] || return 0
  for _ in $(seq 120); do
    case $("$docker" inspect --format '{{.State.Status}} {{if .State.Health}}{{.State.Health.Status}}{{end}}' "$1") in
    *\ healthy)
      echo "$2 is healthy: $(published "$1")"
      return
      ;;
    running*) sleep 1 ;;
    *) break ;;
    esac
  done
  "$docker" logs --tail 20 "$1" >&2
  fail 1 "$2 is not healthy; its last lines are above"
}

down() {
  compose --profile tracking --profile serve --profile train --profile train-gpu down
}

# ----------------------------------------------------------------------------------------------------------------------

# The shell reads a script while running it. main is called at the end, when all is read, so that the file may be edited.
main() {
  command=${1-}
  [ $# = 0 ] || shift
  case $command in images | up | down | compose) need_engine ;; esac
  case $command in
  train)
    choose training
    if [ $where = docker ]; then train_in_docker "$@"; else local_python train fit "$@"; fi
    ;;
  serve)
    choose serving
    if [ $where = docker ]; then serve_in_docker "$@"; else local_python serve start "$@"; fi
    ;;
  request | status | stop) ask "$command" "$@" ;;
  images) images ;;
  up) up ;;
  down) down ;;
  compose) compose "$@" ;;
  *) fail 2 "usage: docker/runtime.sh train|serve|request|status|stop|images|up|down|compose [ARGUMENT...]" ;;
  esac
}

{
  main "$@"
  exit
}
