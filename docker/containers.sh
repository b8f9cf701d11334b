# shellcheck shell=bash
# The images, and what all containers have in common. Read in by runtime.sh.

# --- Images -----------------------------------------------------------------------------------------------------------

revision() {
  git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null || echo unknown
}

build() { # FILE TAG OPTION...
  local file=$1 tag=$2
  shift 2
  [ -z "${BASE:-}" ] || set -- --build-arg "BASE=$BASE" "$@"
  "$docker" build --file "docker/$file.Dockerfile" --tag "$tag" --build-arg "REVISION=$(revision)" "$@" . ||
    fail 1 "the image $tag could not be built"
}

# Builds the training image, and sets image to its name. For GPUs it has torch's CUDA build, which pip's default index provides.
build_train() {
  local index=$cpu_index
  image=lookalike-train:cpu
  [ "$gpus" = none ] || image=lookalike-train:cuda index=${CUDA_INDEX-}
  build train "$image" --target train --build-arg "TORCH=$torch" --build-arg "TORCH_INDEX=$index"
}

build_mlflow() {
  build train lookalike-mlflow --target tracking
}

build_serve() { # [TAG OPTION...]
  [ -n "$cpu_index" ] || [ "$(uname -m)" != x86_64 ] ||
    echo "TORCH_INDEX is not set: unless pip finds a CPU build, torch brings gigabytes of CUDA that serving does not use" >&2
  [ $# != 0 ] || set -- lookalike-serve --target serve
  build serve "$@" --build-arg "TORCH=$torch" --build-arg "TORCH_INDEX=$cpu_index"
}

build_images() {
  if [ -n "${MODEL:-}" ]; then # .dockerignore keeps all others from the engine
    [[ $MODEL =~ ^runs/[^/.][^/]*/lookalike\.mar$ ]] ||
      fail 2 "MODEL=$MODEL: only an archive at runs/…/lookalike.mar in this folder can be baked in"
    [ -f "$MODEL" ] || fail 2 "MODEL=$MODEL: there is no such file"
  fi
  choose_gpus
  build_train
  build_mlflow
  build_serve
  [ -z "${MODEL:-}" ] || build_serve lookalike-serve:baked --target baked --build-arg "MODEL=$MODEL"
  "$docker" image ls --filter 'reference=lookalike-*' --format '{{.Repository}}:{{.Tag}}  {{.Size}}'
}

# --- Containers -------------------------------------------------------------------------------------------------------

# The options of `docker run`, to which the functions below add.
options=()

from_here() { # PATH, which is relative to the project's folder
  case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac
}

# Makes a folder for runs, which are as private as the data.
make_runs() { # FOLDER
  # shellcheck disable=SC2174  # the folders around it are as usual
  mkdir -p -m 700 "$1"
}

add_mount() { # SOURCE TARGET [,readonly]
  local path
  for path in "$1" "$2"; do
    case $path in # for Docker this is a line of CSV
    *[,\"]*) fail 2 "$path: Docker cannot mount a path with a comma or a double quote; use RUNTIME=local, or rename it" ;;
    esac
  done
  options+=(--mount "type=bind,source=$1,target=$2${3-}")
}

# Passes on the variables that match a pattern, by name only, so that their values are not on the command line.
pass_on() { # PATTERN EXCEPT
  local name
  for name in $(compgen -e | grep -E "$1" | grep -Ev "$2"); do options+=(--env "$name"); done
}

# The caller's uid and gid, so that a job's files belong to the caller; a rootless engine maps its root to the caller.
identity() {
  case $("$docker" info --format '{{json .SecurityOptions}}' 2>/dev/null) in
  *rootless*) echo 0:0 ;;
  *) echo "$(id -u):$(id -g)" ;;
  esac
}

# Prints the `docker run` command, so that it can be pasted, and replaces this process with it.
run_container() { # IMAGE ARGUMENT...
  local word words apostrophe="'\\''"
  # shellcheck disable=SC2206  # DOCKER_ARGS are words
  words=("$docker" run "${options[@]}" --user "$(identity)" --cap-drop ALL --security-opt no-new-privileges
    ${DOCKER_ARGS-} "$@")
  printf + >&2
  for word in "${words[@]}"; do
    case $word in '' | *[!A-Za-z0-9_=:,./@%+-]*) word="'${word//\'/$apostrophe}'" ;; esac
    printf ' %s' "$word" >&2
  done
  echo >&2
  exec "${words[@]}"
}

# Prints the network that MLFLOW_TRACKING_URI needs: host for a server on this machine, bridge for another, else none.
mlflow_network() {
  if [[ ! ${MLFLOW_TRACKING_URI-} =~ ^(http.*://|databricks|postgresql|mysql) ]]; then
    echo none
  elif [[ $MLFLOW_TRACKING_URI =~ [/@](localhost|127\.|0\.0\.0\.0|\[::1\]) ]]; then
    echo host
  else
    echo bridge
  fi
}
