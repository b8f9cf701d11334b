"""What this machine has for training and serving, and what to do about what is missing."""

import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from train import JAVA

VERSION = re.compile(r'version "(\d+)')
SERVING_PORTS = (8080, 8082)  # predictions and metrics
FREE_GIB = 2
SECONDS = 20  # for one program to answer


@dataclass(frozen=True)
class Check:
    """One finding. "lacking" stops the main job, "optional" only a part of it."""

    name: str
    state: Literal["ok", "optional", "lacking"]
    finding: str
    advice: str = ""


def examine(out: Path) -> list[Check]:
    """All checks, in the order in which a newcomer meets them."""
    machine = [_python(), _torch(), _numba(), _gpu(), _docker(), _gpu_runtime(), _java(), _torchserve()]
    return [*machine, _disk(out), _mlflow(out), _ports()]


def text(checks: list[Check]) -> str:
    """The findings as aligned lines, the advice below those that need it."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.state:8}  {check.name:{width}}  {check.finding}")
        if check.advice:
            lines.append(f"{'':8}  {'':{width}}  -> {check.advice}")
    return "\n".join(lines)


def _python() -> Check:
    found = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] <= (3, 12):
        return Check("Python", "ok", found)
    return Check(
        "Python", "lacking", found, "install Python 3.11 or 3.12 and run `make clean-venv setup PYTHON=python3.12`"
    )


def _torch() -> Check:
    try:
        import torch
    except ImportError:
        return Check("torch", "lacking", "not installed", "run `make setup`")
    return Check("torch", "ok", f"{torch.__version__} (CUDA {torch.version.cuda or 'not built in'})")


def _numba() -> Check:
    try:
        import numba
    except ImportError as problem:
        return Check("numba", "lacking", str(problem), "run `make setup`")
    return Check("numba", "ok", numba.__version__)


def _gpu() -> Check:
    driver = _first_line(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"])
    try:
        import torch

        from train.device import NO_GPU, gpu_problem
    except ImportError:
        return Check("GPU", "optional", driver or "no NVIDIA driver answers")
    problem = gpu_problem()
    if problem is None:
        return Check("GPU", "ok", driver or torch.cuda.get_device_name())
    if driver is None and problem == NO_GPU:
        return Check("GPU", "optional", "no NVIDIA driver answers; training uses the CPU")
    advice = "install torch with CUDA: `make clean-venv setup`"
    if torch.version.cuda is not None:
        advice = (
            f"check that driver and GPU are new enough for CUDA {torch.version.cuda} (else: CUDA_INDEX in "
            "docker/README.md) and that nothing else uses the GPU"
        )
    found = driver or "nvidia-smi does not answer"
    return Check("GPU", "optional", f"{found}; training uses the CPU: {problem}", advice)


def _docker() -> Check:
    if shutil.which("docker") is None:
        return Check(
            "Docker",
            "optional",
            "not installed",
            "needed only for RUNTIME=docker: https://docs.docker.com/engine/install",
        )
    found = _first_line(["docker", "version", "--format", "{{.Server.Version}}"])
    if found is None:
        return Check(
            "Docker", "optional", "installed, but no engine answers", "start it, or add yourself to the group docker"
        )
    return Check("Docker", "ok", f"engine {found}")


def _gpu_runtime() -> Check:
    if "nvidia" in (_first_line(["docker", "info", "--format", "{{json .Runtimes}}"]) or ""):
        return Check("GPU in Docker", "ok", "the NVIDIA runtime is registered")
    if '"nvidia.com/gpu=' in (_first_line(["docker", "info", "--format", "{{json .}}"]) or ""):
        return Check("GPU in Docker", "ok", "NVIDIA's GPUs are among the engine's devices")
    advice = "needed only to train on a GPU inside Docker: install nvidia-container-toolkit"
    return Check("GPU in Docker", "optional", "no NVIDIA runtime", advice)


def _java() -> Check:
    advice = f"TorchServe needs Java {JAVA}: for instance `apt-get install openjdk-{JAVA}-jre-headless`"
    home = os.environ.get("JAVA_HOME")  # which TorchServe prefers
    lines = _lines([str(Path(home, "bin", "java")) if home else "java", "-version"])
    if not lines:
        return Check("Java", "lacking", f"not found in JAVA_HOME={home}" if home else "not found", advice)
    found = next((line for line in lines if VERSION.search(line)), lines[0])  # Java may repeat options before it
    version = VERSION.search(found)
    if version is None or int(version[1]) < JAVA:
        return Check("Java", "lacking", found, advice)
    return Check("Java", "ok", found)


def _torchserve() -> Check:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return Check("TorchServe", "ok", version("torchserve"))
    except PackageNotFoundError:
        return Check("TorchServe", "lacking", "not installed", "run `make setup`")


def _disk(out: Path) -> Check:
    place = next(folder for folder in (out.resolve(), *out.resolve().parents) if folder.exists())
    free = shutil.disk_usage(place).free / 2**30
    if free < FREE_GIB:
        return Check(
            "Disk",
            "lacking",
            f"{free:.1f} GiB free at {place}",
            f"free {FREE_GIB} GiB, or name another place with --out",
        )
    return Check("Disk", "ok", f"{free:.0f} GiB free at {place}")


def _mlflow(out: Path) -> Check:
    try:
        import mlflow

        from train import store, tracking
    except ImportError as problem:
        return Check("MLflow", "lacking", str(problem), "run `make setup`")
    uri = store.store_uri(out)
    told = store.without_password(uri)
    file = store.store_file(uri)
    if file is not None and not file.exists():
        return Check("MLflow", "ok", f"{told} (will be created)")
    try:
        tracking.set_mlflow_defaults()
        count = len(mlflow.MlflowClient(uri).search_experiments(max_results=1000))
    except Exception as problem:
        reason = store.one_line(problem)
        return Check(
            "MLflow",
            "optional",
            f"{told}: {reason}",
            "start the server or correct MLFLOW_TRACKING_URI; training works without it",
        )
    return Check("MLflow", "ok", f"{told} ({count} experiments)")


def _ports() -> Check:
    taken = [port for port in SERVING_PORTS if _is_taken(port)]
    if taken:
        advice = "if it is Lookalike, run `make stop`; otherwise choose other ports: `python -m serve start --help`"
        return Check("Ports", "optional", f"{', '.join(map(str, taken))} in use", advice)
    return Check("Ports", "ok", f"{', '.join(map(str, SERVING_PORTS))} free")


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _first_line(command: list[str]) -> str | None:
    """The first line that a program prints, or None where it is missing or fails."""
    return next(iter(_lines(command)), None)


def _lines(command: list[str]) -> list[str]:
    """What a program prints; nothing where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return (done.stdout + done.stderr).strip().splitlines()
