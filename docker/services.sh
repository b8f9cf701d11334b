# shellcheck shell=bash
# The services of compose.yaml: MLflow and a server, side by side. Read in by runtime.sh.

up() {
  local service id profiles=(--profile tracking)
  build_mlflow
  if [ -n "$(newest_archive "${RUNS:-runs}")" ]; then
    profiles+=(--profile serve)
    build_serve
  else
    echo "There is no trained model under ${RUNS:-runs}, so only MLflow starts; to add serving: make train, then make up again"
  fi
  compose "${profiles[@]}" up --detach --no-build || fail 1 "the services did not start"
  for service in $(compose "${profiles[@]}" config --services); do
    id=$(compose "${profiles[@]}" ps --quiet "$service" | cut -c 1-12)
    await_healthy "$id" "$service"
    [ "$service" != serve ] || say_served "$id"
  done
}

down() {
  compose --profile tracking --profile serve --profile train --profile train-gpu down
}

compose() { # ARGUMENT...
  local user
  user=$(identity)
  LOOKALIKE_UID=${LOOKALIKE_UID:-${user%:*}} LOOKALIKE_GID=${LOOKALIKE_GID:-${user#*:}}
  # Compose would take a plain name for a volume, and resolve other relative paths from its file.
  RUNS=$(from_here "${RUNS:-runs}") DATA=$(from_here "${DATA:-$PWD}")
  REVISION=$(revision) TORCH=$torch TORCH_INDEX=$cpu_index
  export LOOKALIKE_UID LOOKALIKE_GID RUNS DATA REVISION TORCH TORCH_INDEX
  # A file or localhost would be inside the container; the MLflow of these services is used instead.
  [ "$(mlflow_network)" = bridge ] || unset MLFLOW_TRACKING_URI
  # Otherwise the engine would create it as its own user.
  make_runs "$RUNS" || fail 1 "$RUNS cannot be used as the folder for runs"
  local client=("${DOCKER_COMPOSE:-docker-compose}")
  if "$docker" compose version >/dev/null 2>&1; then client=("$docker" compose); fi
  "${client[@]}" --project-name "$project" --file docker/compose.yaml "$@"
}

# Prints the id of the serving container of `make up`, found by Compose's labels; nothing if there is none.
composed() {
  "$docker" ps --quiet --filter "label=com.docker.compose.project=$project" \
    --filter label=com.docker.compose.service=serve --filter label=com.docker.compose.oneoff=False 2>/dev/null || true
}

await_healthy() { # CONTAINER SERVICE
  [ -n "$1" ] || return 0 # docker-compose 1.29 names the services of all profiles
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
