# shellcheck shell=bash
# The server in a container: start it, say how to ask it, ask it, stop it. Read in by runtime.sh.

# --- Start ------------------------------------------------------------------------------------------------------------

serve_in_docker() { # ARGUMENT...
  read_options "$@"
  if is_serving; then
    await_serving
    echo "Already serving in container $container (to restart it: make stop, then make serve)"
    say_served "$container"
    return
  fi
  choose_mounts
  build_serve
  "$docker" rm --force "$container" >/dev/null 2>&1 || true
  trap 'abandon 130' INT
  trap 'abandon 143' TERM
  (run_container lookalike-serve "${arguments[@]}") >/dev/null || {
    "$docker" rm "$container" >/dev/null 2>&1 || true # created, but not started
    fail 1 "the container did not start and is removed; Docker's reason is above (for a taken port, choose another: --port 9000)"
  }
  await_serving
  trap - INT TERM
  "$docker" logs "$container" 2>&1 >/dev/null | grep '^Warning:' >&2 || true
  say_how_to_ask
}

# Separates the options that mean something else outside the container, or nothing inside, from the server's arguments.
read_options() { # ARGUMENT...
  host=${LOOKALIKE_SERVE_HOST:-127.0.0.1} port=${LOOKALIKE_SERVE_PORT:-8080}
  metrics=${LOOKALIKE_SERVE_METRICS_PORT:-} token_file=${LOOKALIKE_SERVE_TOKEN_FILE:-}
  runs=${LOOKALIKE_SERVE_RUNS:-${LOOKALIKE_OUT:-runs}} model=${LOOKALIKE_SERVE_MODEL:-}
  arguments=()
  while [ $# != 0 ]; do
    case $1 in
    --host | --port | --metrics-port | --runs | --model | --token-file)
      [ $# != 1 ] || fail 2 "$1 needs a value"
      set -- "$1=$2" "${@:3}"
      continue
      ;;
    --host=*) host=${1#*=} ;;
    --port=*) port=${1#*=} ;;
    --metrics-port=*) metrics=${1#*=} ;;
    --runs=*) runs=${1#*=} ;;
    --model=*) model=${1#*=} ;;
    --token-file=*) token_file=${1#*=} ;;
    --foreground) ;;
    *) arguments+=("$1") ;;
    esac
    shift
  done
  arguments=(--port "$port" ${arguments[@]+"${arguments[@]}"}) # bash 3.2 takes an empty array for an unset variable
}

# Completes options and arguments: the model is mounted at /models for reading, the port is published on loopback by
# default, metrics only on request.
choose_mounts() {
  local source=${model:-$runs} target=/models secret=/run/secrets/lookalike-token
  case $model in models:/*) fail 2 "--model $model: the serving image does not contain MLflow; use RUNTIME=local" ;; esac
  [ -e "$source" ] || fail 2 "there is no $source; train a model first: make train"
  [ ! -f "$source" ] || target=/models/lookalike.mar
  options=(--detach --name "$container" --read-only --tmpfs /tmp:exec,mode=1777,size=1g --pids-limit 512
    --stop-timeout 55 --publish "$host:$port:$port")
  add_mount "$(from_here "$source")" "$target" ,readonly
  if [ -n "$token_file" ]; then
    [ -f "$token_file" ] || fail 2 "--token-file $token_file: there is no such file"
    add_mount "$(from_here "$token_file")" "$secret" ,readonly
    arguments+=(--token-file "$secret")
  fi
  if [ -n "$metrics" ]; then
    options+=(--publish "$host:$metrics:$metrics")
    arguments+=(--metrics-port "$metrics")
  fi
  # Not what is set by mounts and options, nor what is for the client, maybe of another server.
  pass_on '^LOOKALIKE_SERVE_' '_(RUNS|MODEL|HOST|SERVE_PORT|METRICS_PORT|TOKEN_FILE|TOKEN|ADDRESS)$'
}

# Removes a container whose start was interrupted. It has accepted no requests yet.
# shellcheck disable=SC2329  # traps call it
abandon() { # CODE
  "$docker" rm --force "$container" >/dev/null 2>&1 || true
  fail "$1" "interrupted; the container that was starting is removed"
}

# Waits until the server answers, which its log then says. One that does not answer within --wait-seconds ends by itself.
await_serving() {
  while is_serving; do
    if "$docker" logs "$container" 2>/dev/null | grep -q '^address'; then return; fi
    sleep 1
  done
  quote_ended
}

is_serving() {
  [ "$("$docker" inspect --format '{{.State.Running}}' "$container" 2>/dev/null)" = true ]
}

# Says why the server ended, and exits.
quote_ended() {
  local code
  code=$("$docker" inspect --format '{{.State.ExitCode}}' "$container" 2>/dev/null) || fail 1 "the server was stopped"
  case $code in
  0 | 2) "$docker" logs "$container" ;; # help, or what is wrong with an option
  *) "$docker" logs --tail 20 "$container" >&2 ;;
  esac
  "$docker" rm "$container" >/dev/null
  case $code in 0 | 2) exit "$code" ;; esac
  fail 1 "the server exited unexpectedly; its last lines are above"
}

say_how_to_ask() {
  local before='' header=''
  if "$docker" exec "$container" python -m serve token >/dev/null 2>&1; then
    before="$docker exec $container python -m serve token --header | " header=" -H @-"
  fi
  echo "address  http://$host:$port/predictions/lookalike"
  echo "try      ${before}curl -X POST http://$host:$port/predictions/lookalike -d '{\"n\": 5, \"seed\": 1}' -H 'Content-Type: application/json'$header"
}

# Says which version a container serves, and how to switch where another run is the newest in the folder mounted there.
say_served() { # CONTAINER
  local version folder archive newest
  version=$("$docker" exec "$1" python -m serve status 2>/dev/null | sed -n 's/^\* version \([^,]*\),.*/\1/p') || true
  [ -n "$version" ] || return 0
  echo "it serves version $version"
  folder=$("$docker" inspect --format '{{range .Mounts}}{{if eq .Destination "/models"}}{{.Source}}{{end}}{{end}}' "$1")
  archive=$(newest_archive "$folder")
  [ -n "$archive" ] && [ "$archive" != "$folder/lookalike.mar" ] || return 0
  newest=$(basename "$(dirname "$archive")")
  [ "${newest%%-*}" != "$(printf %05d "$version" 2>/dev/null)" ] || return 0
  echo "the newest run is $newest; to switch to it: $docker exec $1 python -m serve use /models/$newest"
}

# Prints the archive that is served by default from a folder: lookalike.mar in it, or else the newest run's; or nothing.
newest_archive() { # FOLDER
  local archive found=''
  for archive in "$1"/[0-9][0-9][0-9][0-9][0-9]-*/lookalike.mar "$1"/lookalike.mar; do
    [ ! -f "$archive" ] || found=$archive
  done
  echo "$found"
}

# --- Ask and stop -----------------------------------------------------------------------------------------------------

# request, status and stop are for the container of `make serve`, else for that of `make up`, else, unless RUNTIME=docker,
# for the local server.
ask() { # COMMAND ARGUMENT...
  local serving=''
  if [ "$runtime" != local ]; then
    if is_serving; then serving=$container; else serving=$(composed); fi
  fi
  if [ -z "$serving" ]; then
    ask_locally "$@"
  elif [ "$1" = stop ]; then
    [ "$serving" = "$container" ] ||
      fail 1 "make up started this server, and make down stops it; to stop one outside containers: make stop RUNTIME=local"
    "$docker" stop -t 55 "$container" >/dev/null
    "$docker" rm "$container" >/dev/null
    echo "stopped"
  elif [ "$1" = status ]; then
    "$docker" exec "$serving" python -m serve "$@"
    echo "These are addresses inside the container; here: $(published "$serving")" >&2
  else
    exec "$docker" exec "$serving" python -m serve "$@"
  fi
}

ask_locally() { # COMMAND ARGUMENT...
  if [ "$runtime" != docker ] && may_be_local "$@"; then run_locally serve "$@"; fi
  if [ "$1" = stop ]; then
    echo "no server is running here"
  elif [ "$runtime" = docker ]; then
    fail 1 "no container is serving here; start one with: make serve RUNTIME=docker"
  else
    fail 1 "no server is running here; start one with: make serve"
  fi
}

# Whether the command can be meant for a local or remote server: it names one, or there is an environment or a state file.
# Otherwise an environment would be made, which takes minutes, only to find nothing.
may_be_local() { # COMMAND ARGUMENT...
  case "${LOOKALIKE_SERVE_ADDRESS:+--address} $*" in *--address* | *--runs* | *--help*) return 0 ;; esac
  [ -x "$bin/python" ] || [ -e "${LOOKALIKE_SERVE_RUNS:-${LOOKALIKE_OUT:-runs}}/serve/state.json" ]
}

# Prints the addresses at which a container can be reached.
published() { # CONTAINER
  "$docker" port "$1" | sed 's/.*-> /http:\/\//' | tr '\n' ' '
}
