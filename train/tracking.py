"""Experiment tracking: keeps a run's copy in MLflow up to date while the job works.

Tracking must never hinder training. The job writes to the run directory only; a separate thread sends what is there.
If MLflow cannot be reached, one warning is logged and training goes on; once it is back, it gets what it missed.
"""

import contextlib
import json
import logging
import os
import re
import shlex
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout
from mlflow.data.numpy_dataset import from_numpy
from mlflow.data.sources import LocalArtifactDatasetSource  # type: ignore[attr-defined]  # MLflow makes it when imported
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

from train import atomic, mirror, store
from train.errors import InputError, JobError
from train.mirror import Mirror, Record
from train.rundir import RunDirectory

log = logging.getLogger("lookalike")

SECONDS = 5  # between two measurements of the machine, and between two attempts to send
CREDENTIALS = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
# What the client's message may hold, what that means, and what to do about it; the first that fits counts.
KNOWN = (
    (r"error code 40[13]|40[13] Client Error|PERMISSION_DENIED", "refuses", f"check {CREDENTIALS}"),
    (
        "CERTIFICATE_VERIFY_FAILED|CA certificate bundle|'server_cert_path'",
        "has a certificate that cannot be verified",
        "name a file with its authority in MLFLOW_TRACKING_SERVER_CERT_PATH",
    ),
    (
        "unsupported URI|maintenance mode|No module named|[Ii]nvalid url|error code 404|not in a valid JSON|"
        "Databricks credential",
        "cannot be used",
        "correct MLFLOW_TRACKING_URI (http://HOST:PORT, say; in a password, # is %23 and / is %2F)",
    ),
)
PATIENCE_SECONDS = 60  # at the end, for a request that is still under way
INTERRUPTED_SECONDS = 4  # to send the rest of an interrupted job: Docker kills it 10 seconds after asking it to end


class Tracker:
    """Sends a run directory to MLflow from a separate thread, until `finish`."""

    def __init__(self, run: RunDirectory, record: Record) -> None:
        set_mlflow_defaults()
        self.run, self.record = run, record
        record.status, record.ended, record.complete = "RUNNING", None, False
        record.save(run)
        self.mirror: Mirror | None = None
        self.lost = False
        self.machine = SystemMetrics(run.system)
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._work, name="MLflow", daemon=True)
        self.thread.start()

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None if MLflow has not answered yet."""
        return self.record.run_id

    def checkpointed(self, seen: int) -> None:
        """Note that the ticks up to here are in a checkpoint, and so final: they may now be sent."""
        self.record.seen = seen

    def finish(self, status: str) -> None:
        """Send everything, and end the run in MLflow as FINISHED, FAILED or KILLED.

        Ctrl-C ends only the wait for MLflow: the job has its results, or a reason of its own to end.
        """
        self.ended.set()
        self.record.status, self.record.ended = status, time.time()
        with contextlib.suppress(OSError, KeyboardInterrupt):  # before the wait, which may be cut short
            self.record.save(self.run)  # else by the thread that sends the rest
        rest = threading.Thread(target=self._send_rest, name="MLflow, at the end", daemon=True)
        rest.start()
        with contextlib.suppress(KeyboardInterrupt):
            rest.join(INTERRUPTED_SECONDS if status == "KILLED" else None)
        if not self.record.complete:
            run = shlex.quote(str(self.run.path))
            log.warning("MLflow lacks part of this run; send it later with: python -m train sync %s", run)

    def _send_rest(self) -> None:
        self.thread.join(PATIENCE_SECONDS)
        if not self.thread.is_alive():
            self._try(Mirror.send_all)

    def _work(self) -> None:
        while True:
            self.machine.measure()
            self._try(Mirror.send_metrics)
            if self.ended.wait(SECONDS):
                return

    def _try(self, send: Callable[[Mirror], None]) -> None:
        """Send; a failure is logged once, and what was not sent comes with the next attempt."""
        try:
            self.record.save(self.run)
            if self.mirror is None:
                self.mirror = self._connected()
            send(self.mirror)
        except Exception as problem:
            self.mirror = None
            if not self.lost:
                log.warning(
                    "MLflow cannot record this run (%s); the run directory keeps everything", store.one_line(problem)
                )
            self.lost = True

    def _connected(self) -> Mirror:
        connected = Mirror(self.run, self.record)
        connected.send_metrics()
        what = "MLflow answers again and has what it missed" if self.lost else "MLflow"
        log.info("%s: run %s", what, self.run_id)
        self.lost = False
        return connected


class SystemMetrics:
    """Measures processor, memory, disk, network and GPU, and appends a line to a file each time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.step = atomic.keep_lines(path)
        self.monitors: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        try:
            self.monitors.append(GPUMonitor())
        except Exception as problem:  # MLflow raises a bare Exception if there is no GPU
            log.debug("no GPU metrics: %s", store.one_line(problem))

    def measure(self) -> None:
        line: dict[str, float] = {"step": self.step, "time": time.time()}
        for monitor in self.monitors:
            try:
                monitor.collect_metrics()
                line |= {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
            except Exception as problem:  # whatever a driver or a container leaves out must not end the thread
                log.debug("system metrics: %s", store.one_line(problem))
            monitor.clear_metrics()
        whole = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")
            self.step += 1
        except OSError as problem:
            log.debug("system metrics: %s", store.one_line(problem))
            with contextlib.suppress(OSError):
                os.truncate(self.path, whole)  # the next line must not follow half of this one


def start(run: RunDirectory, *, tags: dict[str, str], datasets: list[dict[str, str]], seen: int) -> Tracker:
    """Track a run; one that was tracked before stays the same run in MLflow.

    Args:
        tags: what to find the run by.
        datasets: results of `dataset`.
        seen: how far the ticks in stats.jsonl are final.

    Raises:
        InputError: the run was tracked before, but its record cannot be read.
    """
    known = run.tracking.exists()
    record = mirror.read(run) if known else Record(key=uuid.uuid4().hex, tags=tags, datasets=datasets)
    record.seen = seen
    return Tracker(run, record)


def dataset(codes: npt.NDArray[np.uint8], *, name: str, origin: str, context: str) -> dict[str, str]:
    """What MLflow is told of a data set, as plain JSON."""
    facts = from_numpy(codes, name=name, source=LocalArtifactDatasetSource(origin))  # else MLflow names our own code
    return {**{key: str(value) for key, value in facts.to_dict().items()}, "context": context, "origin": origin}


def sync(run: RunDirectory) -> str:
    """Send what MLflow lacks of a run that no job is working on.

    Returns:
        MLflow's id of the run.

    Raises:
        InputError: the run cannot be tracked.
        OSError: one of its files cannot be read.
        JobError: a job is working on it, or MLflow does not answer, refuses, or cannot be used.
    """
    set_mlflow_defaults()
    record = mirror.read(run)
    try:
        with FileLock(run.path / ".lock", timeout=0):
            if record.status != "FINISHED" and run.metrics.exists():  # killed while telling MLflow or judging again
                record.status, record.complete = "FINISHED", False
            elif record.status == "RUNNING":  # but no job holds the lock, so it was killed
                record.status = "KILLED"
            connected = Mirror(run, record)
            if not record.complete:
                connected.send_all()
    except Timeout as problem:
        raise JobError(f"{run.path}: a job is working on this run and sends what it can") from problem
    except InputError:
        raise
    except Exception as problem:
        if isinstance(problem, OSError) and _is_among(run.path.parent, problem.filename):
            raise
        raise JobError(f"MLflow {_what_fails(problem)}") from problem
    assert record.run_id is not None
    return record.run_id


def _is_among(folder: Path, file: str | bytes | None) -> bool:
    """Whether an error is about a file of ours; those of connections have no file name."""
    return file is not None and Path(os.fsdecode(file)).resolve().is_relative_to(folder.resolve())


def _what_fails(problem: Exception) -> str:
    """What MLflow does instead of taking a run, why, and what to do about it."""
    what, advice = "does not answer", "try again later"
    if isinstance(problem, OSError) and problem.filename is not None:  # the client writes to some stores itself
        what, advice = "cannot take files", "make that place writable, and try again"
    for pattern, meaning, remedy in KNOWN:
        if re.search(pattern, str(problem)):
            what, advice = meaning, f"{remedy}, and try again"
            break
    return f"{what} ({store.one_line(problem)}); nothing is lost: {advice}"


def set_mlflow_defaults() -> None:
    """Shorten MLflow's wait for an absent server and quieten it; the user's environment variables take precedence."""
    store.set_defaults()
    for noisy in ("alembic", "mlflow"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # A GPU that does not report its power, say, would cause a warning at each measurement.
    logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
