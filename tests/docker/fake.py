"""A fake Docker client that only records its calls, so that a machine with GPUs can be simulated anywhere."""

import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.docker.conftest import ROOT

WAIT = """
[ -z "$STAYS" ] || {
  trap 'echo stopped; exit 143' TERM
  echo waiting >> "$NOTES"
  for _ in $(seq 100); do sleep 0.1; done
}
"""

# Each call becomes one line of $NOTES, with tabs between its words. Its answers come from the environment:
# $RUNTIMES: the engine's runtimes; if empty, there is no engine. $SECURITY: the engine's security options.
# $DEVICES: what else the engine says of itself.
# $SERVING: whether the serving container already runs. $COMPOSED: the id of the serving container of `make up`.
# $TOKENS: not empty if the server requires tokens. $VERSION: what it serves.
# $MOUNTED: the folder that is mounted at its /models. $SILENT: not empty if it does not answer.
# $ENDED: the code with which the serving container exits at once. $REFUSED: not empty if it cannot be started.
# $STAYS: not empty if jobs wait for SIGTERM.
CLIENT = """#!/bin/sh
printf '%s\\t' "${0##*/}" "$@" >> "$NOTES"
printf '\\n' >> "$NOTES"
case "$1 $*" in
info*Runtimes*) [ -n "$RUNTIMES" ] && echo "$RUNTIMES" ;;
info*Security*) echo "$SECURITY" ;;
info*) echo "$DEVICES" ;;
inspect*ExitCode*) echo "$ENDED" ;;
inspect*Running*)
  if [ -n "$ENDED" ]; then echo false
  elif grep -q "^docker.run.--detach" "$NOTES"; then echo true
  else echo "${SERVING:-false}"; fi
  ;;
inspect*Mounts*) echo "$MOUNTED" ;;
inspect*Health*) echo "running healthy" ;;
logs*)
  [ -z "$ENDED" ] || exec echo 'Usage: …'
  echo 'Warning: version 7 missed' >&2
  [ -n "$SILENT" ] || echo 'address  http://0.0.0.0:8080'
  ;;
compose*) exit 1 ;;
ps*) [ -z "$COMPOSED" ] || echo "$COMPOSED" ;;
*"profile serve"*config*--services) echo mlflow; echo serve ;;
*config*--services) echo mlflow ;;
*ps*--quiet*) echo 0123456789ab ;;
*up*--detach*) echo "RUNS=$RUNS DATA=$DATA user=$LOOKALIKE_UID:$LOOKALIKE_GID store=${MLFLOW_TRACKING_URI-its own}" ;;
port*) echo '5000/tcp -> 127.0.0.1:5000' ;;
"exec "*"serve token"*) [ -n "$TOKENS" ] ;;
"exec "*"serve status"*) echo "* version ${VERSION:-1}, MLflow run unknown, workers: 9 READY" ;;
run*--detach*) [ -z "$REFUSED" ] || exit 125 ;;
run*--rm*) WAIT ;;
esac
""".replace("WAIT", WAIT)
PYTHON = f"""#!/bin/sh
echo "local: $*"
echo "CUDA_VISIBLE_DEVICES=${{CUDA_VISIBLE_DEVICES-unset}}"
echo "CUDA_DEVICE_ORDER=${{CUDA_DEVICE_ORDER-unset}}"
{WAIT}"""
PLAIN = '{"runc":{"path":"runc"}}'
FOUND = '{"DiscoveredDevices":[{"Source":"cdi","ID":"nvidia.com/gpu=0"},{"Source":"cdi","ID":"nvidia.com/gpu=all"}]}'
NVIDIA = '{"nvidia":{"path":"nvidia-container-runtime"},"runc":{"path":"runc"}}'


@dataclass(frozen=True)
class Done:
    """What a target of the Makefile did: its exit code, its output, and the client's calls."""

    code: int
    output: str
    errors: str
    calls: list[list[str]]

    def call(self, *start: str) -> list[str]:
        """The only call that starts with these words."""
        (found,) = (call for call in self.calls if call[: len(start)] == list(start))
        return found


def after(call: list[str], option: str) -> list[str]:
    """All values that the call gives to an option, in order."""
    return [value for name, value in pairwise(call) if name == option]


@dataclass(frozen=True)
class Machine:
    """A folder with the fake client and a fake virtual environment."""

    folder: Path

    def make(self, *arguments: str, runtimes: str = "", until: str = "", **settings: str) -> Done:
        """Run a target of the Makefile.

        Args:
            runtimes: the engine's runtimes as JSON; if empty, there is no engine.
            until: a part of a note, upon which make receives SIGTERM.
        """
        notes = self.folder / "notes"
        notes.write_text("")
        venv = self.folder / "venv"
        environment: Mapping[str, str] = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "NOTES": str(notes),
            "RUNTIMES": runtimes,
            **settings,
        }
        with subprocess.Popen(
            ["make", *arguments, f"VENV={venv}"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as job:
            if until:
                while until not in notes.read_text() and job.poll() is None:
                    time.sleep(0.05)
                job.terminate()
            output, errors = job.communicate(timeout=60)
        calls = [line.rstrip("\t").split("\t") for line in notes.read_text().splitlines()]
        return Done(job.returncode, output, errors, calls)


def machine(folder: Path, *, docker: bool = True) -> Machine:
    """Make a machine, with or without a Docker client."""
    programs = {"venv/bin/python": PYTHON}
    if docker:
        programs |= {"bin/docker": CLIENT, "bin/docker-compose": CLIENT}
    for name, script in programs.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script)
        path.chmod(0o755)
    ready = folder / "venv" / ".ready"
    ready.touch()
    future = time.time() + 3600  # so that make finds the environment up to date
    os.utime(ready, (future, future))
    return Machine(folder)
