"""A run directory's copy in MLflow.

The run directory is the truth. Whatever MLflow lacks can be sent at any time and repeatedly: MLflow itself is asked
what it already has, so that a lost answer causes neither gaps nor duplicates.
"""

import dataclasses
import json
import logging
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
from filelock import FileLock
from mlflow.entities import Dataset, DatasetInput, InputTag, LifecycleStage, Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE

from train import CARD, atomic, evidence
from train.config import from_json
from train.errors import InputError
from train.registry import Registration
from train.rundir import RunDirectory
from train.store import beside, file_uri, store_file, store_uri, without_password

log = logging.getLogger("lookalike")

KEY = "lookalike.key"  # the tag by which a run is found again
BATCH = 1000  # the most metrics that MLflow takes in one call
SAVING = threading.Lock()  # at the end of a job, the main thread and the sending one may both save the record
NOT_METRICS = ("seen", "seconds", "time", "step")


@dataclass(kw_only=True)
class Record:
    """What mlflow.json holds: everything for MLflow that no other file of the run directory says.

    Attributes:
        key: marks the run in MLflow. It is chosen before the first call to MLflow, so that the run is created once.
        seen: ticks up to here are final; later ones would be repeated if the job were killed now.
        uri: the store that `run_id` and `complete` refer to, without a password.
        complete: MLflow has everything, unless the job goes on.
    """

    key: str
    tags: dict[str, str]
    datasets: list[dict[str, str]] = field(default_factory=list)
    seen: int = 0
    status: str = "RUNNING"
    started: float = field(default_factory=time.time)
    ended: float | None = None
    uri: str | None = None
    run_id: str | None = None
    complete: bool = False

    def save(self, run: RunDirectory) -> None:
        with SAVING:
            atomic.write_text(run.tracking, json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def read(run: RunDirectory) -> Record:
    """The record of a run.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    try:
        return Record(**json.loads(run.tracking.read_text()))
    except (OSError, TypeError, ValueError) as problem:
        name, reason = run.tracking.name, getattr(problem, "strerror", None) or problem
        raise InputError(f"{run.path}: cannot be tracked without a readable {name} ({reason})") from problem


class Mirror:
    """A connection between a run directory and MLflow.

    Every method may raise whatever MLflow or the network raises. It is then unknown what was sent, so a new mirror must
    be made.
    """

    def __init__(self, run: RunDirectory, record: Record) -> None:
        """Find or create the run in MLflow, and ask which metrics it already has."""
        self.run, self.record = run, record
        self.config = from_json(run.config.read_text("utf-8"))
        self.uri = store_uri(run.path.parent)
        _make_store(self.uri)
        self.client = mlflow.MlflowClient(self.uri)
        told = without_password(self.uri)
        there = self._there(record.run_id) if record.uri == told else None
        if there is not None:  # the run stays in its experiment, even if it goes on with another --experiment
            self.run_id, self.experiment_id = there.info.run_id, there.info.experiment_id
        else:
            self.experiment_id = self._experiment()
            tags = resolve_tags({**record.tags, KEY: record.key})
            self.run_id = self._find(KEY, record.key) or self._make(run.path.name, tags)
            record.uri, record.run_id, record.complete = told, self.run_id, False
            record.save(run)
        self._describe_start()
        self.known = self._known(self.run_id)
        self.offsets = {run.stats: 0, run.system: 0}

    def _there(self, run_id: str | None) -> Run | None:
        """The run, if MLflow still has it: the store may have been lost, or the run deleted."""
        if run_id is None:
            return None
        try:
            run = self.client.get_run(run_id)
        except MlflowException as problem:
            if problem.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                raise
            return None
        return run if run.info.lifecycle_stage == LifecycleStage.ACTIVE else None

    def _experiment(self) -> str:
        name = self.config.experiment
        experiment = self.client.get_experiment_by_name(name)
        # With SQLite, MLflow would by default put files into ./mlruns of whatever directory the command runs in.
        files = self.run.path.parent.resolve() / "mlflow-artifacts"
        place = files.as_uri() if self.uri.startswith("sqlite:") else None
        if experiment is None:
            return self.client.create_experiment(name, artifact_location=place)
        if experiment.lifecycle_stage != LifecycleStage.ACTIVE:
            restore = f"restore it with `mlflow experiments restore --experiment-id {experiment.experiment_id}`"
            raise InputError(
                f"MLflow's experiment {name} has been deleted; {restore}, or name another with --experiment "
                "(with fit --resume, if the run has begun)"
            )
        if self.uri == file_uri(beside(self.run.path.parent)) and experiment.artifact_location != place:
            log.warning(
                "MLflow keeps the files of experiment %s in %s, where it was created; another --experiment starts here",
                name,
                experiment.artifact_location,
            )
        return experiment.experiment_id

    def _find(self, tag: str, value: str, name: str = "") -> str | None:
        """The id of a run with the tag and, if given, the name."""
        condition = f"tags.`{tag}` = '{value}'" + (f" and tags.`{MLFLOW_RUN_NAME}` = '{name}'" if name else "")
        found = self.client.search_runs([self.experiment_id], condition, max_results=1)
        return found[0].info.run_id if found else None

    def _make(self, name: str, tags: Mapping[str, str]) -> str:
        started = int(1000 * self.record.started)
        return self.client.create_run(self.experiment_id, started, dict(tags), name).info.run_id

    def _describe_start(self) -> None:
        """Send parameters and data sets. MLflow's parameters are immutable: a resumed run keeps its first ones."""
        run = self.client.get_run(self.run_id)
        params = [
            Param(name, str(value))
            for name, value in dataclasses.asdict(self.config).items()
            if name not in run.data.params
        ]
        self.client.log_batch(self.run_id, params=params)
        if run.inputs is None or len(run.inputs.dataset_inputs) < len(self.record.datasets):
            self.client.log_inputs(self.run_id, [_dataset_input(each) for each in self.record.datasets])
        if self.record.status == "RUNNING":  # in MLflow it may have ended before
            self.client.update_run(self.run_id, "RUNNING")

    def _known(self, run_id: str) -> set[tuple[str, int, float]]:
        """The metrics that MLflow has, as (key, step, value)."""
        keys = self.client.get_run(run_id).data.metrics
        return {(key, each.step, each.value) for key in keys for each in self.client.get_metric_history(run_id, key)}

    def send_metrics(self) -> None:
        """Send the final ticks and the system metrics that MLflow lacks."""
        for path, step, last in ((self.run.stats, "seen", self.record.seen), (self.run.system, "step", 2**62)):
            lines, end = _lines(path, self.offsets[path], step, last)
            self._send(self.run_id, [metric for line in lines for metric in _metrics(line, line[step])])
            self.offsets[path] = end

    def _send(self, run_id: str, metrics: list[Metric]) -> None:
        known = self.known if run_id == self.run_id else self._known(run_id)
        # The value is compared, too: a run that is judged again may have other numbers at the same step.
        missing = [metric for metric in metrics if (metric.key, metric.step, metric.value) not in known]
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            self.client.log_batch(run_id, metrics=batch)
            known.update((metric.key, metric.step, metric.value) for metric in batch)

    def send_all(self) -> None:
        """Send everything, and how the job ended."""
        record = self.record
        self.send_metrics()
        try:
            if record.status == "FINISHED":
                self._name_in_card()
                results = json.loads(self.run.metrics.read_text())
                self._send_results(results)
                self._send_files()
                self._send_model(results["passed"])  # last, because a shared server's registry may refuse it
        finally:  # also where MLflow takes no files or models: else the run would be RUNNING, or FAILED, for ever
            self.client.set_terminated(self.run_id, record.status, int(1000 * (record.ended or time.time())))
        record.complete = True
        record.save(self.run)

    def _name_in_card(self) -> None:
        """Write the run's id into a card that was written before MLflow answered; nothing else changes."""
        path = self.run.artifact / CARD
        card = json.loads(path.read_text())
        if card["run_id"] != self.run_id:
            atomic.write_text(path, json.dumps({**card, "run_id": self.run_id}, indent=1) + "\n")

    def _send_results(self, results: Mapping[str, Any]) -> None:
        """Send the final numbers; those of the other contenders become child runs."""
        shipped = results["shipped"]
        for name, scores in results["scores"].items():
            run_id = self.run_id if name == shipped else self._child(name)
            line = {**evidence.numbers(scores), "time": self.run.metrics.stat().st_mtime}
            self._send(run_id, _metrics(line, self.record.seen))
            if name != shipped:
                self.client.set_terminated(run_id)
        self.client.set_tag(self.run_id, MLFLOW_RUN_NOTE, self.run.summary.read_text("utf-8"))

    def _child(self, name: str) -> str:
        """The id of the child run of a contender."""
        found = self._find(MLFLOW_PARENT_RUN_ID, self.run_id, name)
        return found or self._make(name, resolve_tags({MLFLOW_PARENT_RUN_ID: self.run_id}))

    def _send_files(self) -> None:
        """Send all that a reader may want: neither checkpoints nor the .mar, which repeats the artifact's weights.

        MLflow's page that compares runs shows only files that are in no folder.
        """
        left_out = (self.run.checkpoints.name, self.run.archive.name, self.run.tracking.name)
        for path in sorted(self.run.path.rglob("*")):
            place = path.relative_to(self.run.path)
            if path.is_file() and place.parts[0] not in left_out and not path.name.startswith("."):
                self.client.log_artifact(self.run_id, str(path), "/".join(place.parts[:-1]) or None)

    def _send_model(self, passed: bool | None) -> None:
        Registration(
            client=self.client, uri=self.uri, experiment_id=self.experiment_id, run_id=self.run_id, run=self.run
        ).send(passed)


def _make_store(uri: str) -> None:
    """Create a missing SQLite store, whole or not at all.

    MLflow creates its tables one by one, and cannot use a store in which a kill has left only some of them.
    """
    path = store_file(uri)
    if path is None or path.exists():
        return
    partial = path.with_name(f".{path.name}.partial")
    with FileLock(path.with_name(f".{path.name}.lock")):
        if not path.exists():
            shutil.rmtree(partial, ignore_errors=True)  # of a job that was killed
            partial.mkdir()
            mlflow.MlflowClient(file_uri(partial / path.name))
            (partial / path.name).rename(path)
            shutil.rmtree(partial, ignore_errors=True)


def _dataset_input(saved: Mapping[str, str]) -> DatasetInput:
    facts = dict(saved)
    tags = [InputTag(MLFLOW_DATASET_CONTEXT, facts.pop("context")), InputTag("source", facts.pop("origin"))]
    return DatasetInput(Dataset(**facts), tags)


def _lines(path: Path, offset: int, step: str, last: int) -> tuple[list[dict[str, Any]], int]:
    """The complete lines of a JSONL file from a byte offset up to the step `last`, and the offset where they end."""
    lines = []
    if path.exists():
        with path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n") or (read := json.loads(line))[step] > last:
                    break
                lines.append(read)
                offset += len(line)
    return lines, offset


def _metrics(line: Mapping[str, float], step: int) -> list[Metric]:
    when = int(1000 * line["time"])
    return [Metric(name, value, when, step) for name, value in line.items() if name not in NOT_METRICS]
