"""Experiment tracking: the MLflow tracker and its null twin.

The tracker serves the training, never the other way round: when MLflow fails, that is said once and the job goes on;
the run directory holds everything that MLflow would.
"""

import dataclasses
import functools
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, ParamSpec, Protocol

import mlflow
import numpy as np
import numpy.typing as npt
from mlflow.data.numpy_dataset import from_numpy
from mlflow.models import ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, Schema
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

from train.artifact import LEAVES
from train.config import Config

log = logging.getLogger("lookalike")

MODEL_NAME = "lookalike"
CHAMPION = "champion"  # the alias of the newest version that passed the quality gate
SYSTEM_METRICS_SECONDS = 5
HERE = Path(__file__).parent
# MLflow's own defaults wait for an absent server for minutes, and draw bars of their own.
MANNERS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

P = ParamSpec("P")


class Tracker(Protocol):
    """Where a run reports to.

    Attributes:
        run_id: MLflow's id of the run, or None where nothing is tracked.
    """

    run_id: str | None

    def metrics(self, values: Mapping[str, float], step: int) -> None: ...

    def dataset(self, codes: npt.NDArray[np.uint8], *, name: str, source: str, context: str) -> None: ...

    def describe(self, text: str) -> None: ...

    def files(self, directory: Path, *, skip: str) -> None: ...

    def child(self, name: str, values: Mapping[str, float]) -> None: ...

    def model(self, artifact: Path, *, champion: bool) -> None: ...

    def finish(self, status: str) -> None: ...


class NullTracker:
    """Tracks nothing."""

    run_id: str | None = None

    def metrics(self, values: Mapping[str, float], step: int) -> None: ...

    def dataset(self, codes: npt.NDArray[np.uint8], *, name: str, source: str, context: str) -> None: ...

    def describe(self, text: str) -> None: ...

    def files(self, directory: Path, *, skip: str) -> None: ...

    def child(self, name: str, values: Mapping[str, float]) -> None: ...

    def model(self, artifact: Path, *, champion: bool) -> None: ...

    def finish(self, status: str) -> None: ...


def _forgiving(method: Callable[P, None]) -> Callable[P, None]:
    """A tracker method whose failure ends the tracking, not the job."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        self: Any = args[0]
        if self.lost:
            return
        try:
            method(*args, **kwargs)
        except Exception as problem:
            self.lost = True
            log.warning(
                "MLflow does not answer (%s); training goes on, the run directory keeps everything", one_line(problem)
            )

    return call


class MLflowTracker:
    """One MLflow run."""

    def __init__(self, config: Config, name: str, tags: Mapping[str, str], run_id: str | None) -> None:
        self.lost = False
        uri, chosen = store_uri(Path(config.out)), os.environ.get("MLFLOW_TRACKING_URI")
        mlflow.set_tracking_uri(uri)
        if chosen is None:
            # MLflow writes it there; the next job of this process may have another store.
            os.environ.pop("MLFLOW_TRACKING_URI", None)
        if uri.startswith("sqlite:") and mlflow.get_experiment_by_name(config.experiment) is None:
            # MLflow's default would be ./mlruns, wherever the command happens to run.
            files = Path(config.out).resolve() / "mlflow-artifacts"
            mlflow.create_experiment(config.experiment, artifact_location=files.as_uri())
        mlflow.set_experiment(config.experiment)
        mlflow.set_system_metrics_sampling_interval(SYSTEM_METRICS_SECONDS)
        mlflow.set_system_metrics_samples_before_logging(1)
        run = mlflow.start_run(run_id=run_id, run_name=name, log_system_metrics=True, tags=dict(tags))
        self.run_id: str | None = run.info.run_id
        if run_id is None:
            mlflow.log_params(dataclasses.asdict(config))

    @_forgiving
    def metrics(self, values: Mapping[str, float], step: int) -> None:
        mlflow.log_metrics(dict(values), step=step)

    @_forgiving
    def dataset(self, codes: npt.NDArray[np.uint8], *, name: str, source: str, context: str) -> None:
        mlflow.log_input(from_numpy(codes, name=name), context=context, tags={"source": source})

    @_forgiving
    def describe(self, text: str) -> None:
        """What the UI shows as the run's description; Markdown."""
        mlflow.set_tag(MLFLOW_RUN_NOTE, text)

    @_forgiving
    def files(self, directory: Path, *, skip: str) -> None:
        """Upload a directory's files, but not those under `skip`."""
        for path in sorted(directory.rglob("*")):
            place = path.relative_to(directory)
            if path.is_file() and place.parts[0] != skip:
                mlflow.log_artifact(str(path), "/".join(("run", *place.parts[:-1])))

    @_forgiving
    def child(self, name: str, values: Mapping[str, float]) -> None:
        """Log something that this run is compared with as a run below it."""
        with mlflow.start_run(run_name=name, nested=True, log_system_metrics=False):
            mlflow.log_metrics(dict(values))

    @_forgiving
    def model(self, artifact: Path, *, champion: bool) -> None:
        """Register the artifact as a pyfunc model. Models from code: nothing is pickled."""
        with tempfile.TemporaryDirectory() as folder:
            package = Path(folder) / "train"
            package.mkdir()
            for leaf in LEAVES:
                shutil.copy(HERE / leaf, package)
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(HERE / "mlflow_model.py"),
                artifacts={"artifact": str(artifact)},
                code_paths=[str(package)],
                pip_requirements=[
                    f"{name}=={version(name).split('+')[0]}" for name in ("mlflow", "torch", "safetensors")
                ],
                signature=SIGNATURE,
                input_example={"n": [2], "seed": [1]},
            )
        # Through the client, because mlflow.register_model talks to the terminal.
        client = mlflow.MlflowClient()
        if not client.search_registered_models(f"name = '{MODEL_NAME}'"):
            client.create_registered_model(MODEL_NAME)
        made = client.create_model_version(MODEL_NAME, logged.model_uri, self.run_id, model_id=logged.model_id)
        if champion:
            client.set_registered_model_alias(MODEL_NAME, CHAMPION, made.version)

    @_forgiving
    def finish(self, status: str) -> None:
        mlflow.end_run(status)


SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            ColSpec(DataType.long, "n"),
            ColSpec(DataType.long, "seed", required=False),
            ColSpec(DataType.double, "temperature", required=False),
            ColSpec(DataType.long, "candidates", required=False),
            ColSpec(DataType.string, "label", required=False),
        ]
    ),
    outputs=Schema([ColSpec(Array(Array(DataType.long)), "sequences"), ColSpec(DataType.long, "seed")]),
)


def start(config: Config, name: str, tags: Mapping[str, str], run_id: str | None = None) -> Tracker:
    """A tracker on MLflow; where that cannot be had, its null twin and a warning.

    Args:
        name: of the run, as the UI shows it.
        tags: more about the run.
        run_id: a run to continue.
    """
    teach_manners()
    try:
        return MLflowTracker(config, name, tags, run_id)
    except Exception as problem:
        log.warning("MLflow cannot be used (%s); this run is not tracked", one_line(problem))
        return NullTracker()


def teach_manners() -> None:
    """Shorten MLflow's patience with an absent server and keep it from talking, unless the user has set it so."""
    for variable, value in MANNERS.items():
        os.environ.setdefault(variable, value)
    for noisy in ("alembic", "mlflow"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def store_uri(out: Path) -> str:
    """Where runs are recorded: $MLFLOW_TRACKING_URI, else a SQLite file among the runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{out.resolve()}/mlflow.db"


def one_line(problem: BaseException) -> str:
    """What went wrong, short enough for a log line."""
    return " ".join(str(problem).split())[:200] or type(problem).__name__
