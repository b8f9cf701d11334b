# shellcheck shell=bash
# Training in a container. Read in by runtime.sh.
#
# Everything is mounted at its own path, so that paths mean the same inside as outside: this folder and other paths that
# the arguments or the resumed run name for reading, the folder of runs for writing. Only MLflow may need a network.

train_in_docker() { # ARGUMENT...
  local out=${LOOKALIKE_OUT:-runs} dry=no resume=no runs path word before=''
  local named=("$@" "${LOOKALIKE_DATA-}" "${LOOKALIKE_GATE-}")
  for word; do
    case $word in --dry-run) dry=yes ;; --resume) resume=yes ;; --out=*) out=${word#--out=} ;; esac
    [ "$before" != --out ] || out=$word
    before=$word
  done
  [ $resume = no ] || named+=("$(of_run data "$out")" "$(of_run gate "$out")")
  runs=$(absolute "$out")
  [ ! -f "$runs/config.json" ] || runs=$(dirname "$runs") # a run to resume: MLflow's store is beside it
  check_store "$runs"

  options=(--rm --shm-size 1g --stop-timeout 60 --network "$(mlflow_network)" --workdir "$PWD"
    --env "USER=$(id -un 2>/dev/null || id -u)")
  add_mount "$PWD" "$PWD" ,readonly
  mounted=("$PWD")
  if [ $dry = no ]; then
    add_mount "$runs" "$runs"
    mounted+=("$runs")
    make_runs "$runs"
  fi
  for word in "${named[@]}"; do
    path=${word#--*=}
    case $path in -*) continue ;; esac
    [ ! -e "$path" ] || make_visible "$path"
  done
  pass_on '^(MLFLOW_|LOOKALIKE_|OMP_NUM_THREADS$)' '^LOOKALIKE_(CACHE$|SERVE_)'
  case $nvidia:$gpus in
  *:none) ;;
  cdi:*) for word in ${gpus//,/ }; do options+=(--device "nvidia.com/gpu=$word"); done ;;
  *:all) options+=(--gpus all) ;;
  *) options+=(--gpus "\"device=$gpus\"") ;; # quoted, because Docker splits it at commas
  esac
  [ ! -t 1 ] || options+=(--tty)
  build_train
  run_container "$image" fit "$@"
}

# Prints the absolute path without following links, because paths are mounted as written. It need not exist.
absolute() { # PATH
  realpath -ms "$(from_here "$1")"
}

# Prints an option of the run that is resumed: the one at OUT, or else the newest in that folder. Needs no JSON parser,
# since train/config.py writes an option a line.
of_run() { # OPTION OUT
  local config=$2/config.json
  [ -f "$config" ] || for config in "$2"/[0-9]*/config.json; do :; done
  sed -n 's/^ *"'"$1"'": "\(.*\)",*$/\1/p' "$config" 2>/dev/null | sed 's/\\\(["\\]\)/\1/g'
}

# Fails if MLFLOW_TRACKING_URI names a file that would be lost with the container: one outside the folder of runs and
# whatever DOCKER_ARGS mounts.
check_store() { # FOLDER
  local place file=${MLFLOW_TRACKING_URI-}
  case $file in
  sqlite*:///*) file=${file#*:///} ;;
  file:*) file=${file#file:} ;;
  '' | *:*) return 0 ;; # not a file
  esac
  file=$(absolute "$(printf '%s\n' "$file" | sed 's/?.*//; s/%20/ /g; s/%3F/?/g; s/%25/%/g')")
  for place in "$1" $(printf '%s\n' "${DOCKER_ARGS:-}" | tr ',=:' '   '); do
    case $place in /*) case $file in "$place" | "${place%/}"/*) return 0 ;; esac ;; esac
  done
  fail 2 "MLFLOW_TRACKING_URI names $file, which would be lost with the container: name a file under $1 or a server, or use RUNTIME=local"
}

# Mounts a path for reading, with the files elsewhere to which links in that folder lead.
make_visible() { # PATH
  local path link target
  path=$(absolute "$1")
  if is_mounted "$path"; then path=$(readlink -f "$path"); fi # it may be a link that leads elsewhere
  mount_once "$path" "$path"
  for link in "$path"/*; do
    if [ -L "$link" ] && [ -f "$link" ]; then
      target=$(cd "$path" && absolute "$(readlink "$link")") # where the file is looked for
      mount_once "$(readlink -f "$link")" "$target"
    fi
  done
}

mount_once() { # SOURCE TARGET
  is_mounted "$2" || add_mount "$1" "$2" ,readonly
  mounted+=("$2")
}

# Whether a path is, or is in, one of the paths that are mounted.
is_mounted() { # PATH
  local target
  for target in "${mounted[@]}"; do
    case $1/ in "$target"/*) return 0 ;; esac
  done
  return 1
}
