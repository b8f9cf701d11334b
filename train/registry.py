"""MLflow's registry of models: a run's artifact becomes a version, and the newest that passed its gate is champion."""

import contextlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
from mlflow.models import ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, Schema

from train import CARD, LEAVES, MODEL_NAME
from train.rundir import RunDirectory

log = logging.getLogger("lookalike")

HERE = Path(__file__).parent
CHAMPION = "champion"  # the alias of the newest version that passed the quality gate
GATE = {True: "passed", False: "failed", None: "none"}  # the tag that holds the verdict
ABOUT = (
    f"Generators of synthetic texts and 0/1 rows, whatever the data. The alias {CHAMPION} points to the newest version "
    "that passed its quality gate."
)
LONGEST_DESCRIPTION = 5000  # characters that MLflow's databases take
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
    outputs=Schema(
        [
            ColSpec(Array(Array(DataType.long)), "sequences"),
            ColSpec(Array(DataType.string), "text", required=False),
            ColSpec(Array(DataType.string), "labels", required=False),
            ColSpec(DataType.long, "seed"),
        ]
    ),
)


@dataclass(frozen=True, kw_only=True)
class Registration:
    """The way of a run's artifact into the registry.

    Every method may raise whatever MLflow or the network raises; the registration may then be repeated.

    Attributes:
        uri: the store, as `client` knows it.
        experiment_id, run_id: the run in MLflow.
        run: the run directory, which must be finished.
    """

    client: mlflow.MlflowClient
    uri: str
    experiment_id: str
    run_id: str
    run: RunDirectory

    def send(self, passed: bool | None) -> None:
        """Register the artifact, once. If it passed the gate, it becomes champion unless a newer version is."""
        tags = self._tags(passed)
        if not self.client.search_registered_models(f"name = '{MODEL_NAME}'"):
            self.client.create_registered_model(MODEL_NAME, description=ABOUT)
        versions = self.client.search_model_versions(f"name='{MODEL_NAME}' and run_id='{self.run_id}'")
        made = next((each for each in versions if each.tags.get("weights") == tags["weights"]), None)
        if made is None:
            logged = self._log_model()
            made = self.client.create_model_version(
                MODEL_NAME, logged.model_uri, self.run_id, tags, model_id=logged.model_id
            )
        description = self._description()
        if made.description != description:
            self.client.update_model_version(MODEL_NAME, made.version, description)
        for name, value in tags.items():
            if made.tags.get(name) != value:
                self.client.set_model_version_tag(MODEL_NAME, made.version, name, value)
        champion = self.client.get_registered_model(MODEL_NAME).aliases.get(CHAMPION)
        if passed and int(made.version) > int(champion or 0):
            self.client.set_registered_model_alias(MODEL_NAME, CHAMPION, made.version)
            self._tell_of_other_data(champion, tags["data"])
        elif passed is False and champion is not None and int(made.version) == int(champion):
            self._depose(champion)

    def _tags(self, passed: bool | None) -> dict[str, str]:
        """Tags to find the version by."""
        card = self._card()
        return {
            "weights": card["weights_sha256"],
            "run": self.run.path.name,
            "data": card["data"]["name"],
            "fingerprint": card["data"]["fingerprint"],
            "codec": card["codec"]["name"],
            "gate": GATE[passed],
        }

    def _description(self) -> str:
        """What the registry's page shows of the version: the data, the verdict of the gate and the numbers."""
        data = self._card()["data"]
        told = f"Trained on {data['name']} ({data['rows']:,} rows). {self.run.summary.read_text('utf-8')}"
        return told[:LONGEST_DESCRIPTION]

    def _card(self) -> dict[str, Any]:
        card: dict[str, Any] = json.loads((self.run.artifact / CARD).read_text())
        return card

    def _depose(self, champion: str) -> None:
        """Replace a champion that misses the present gate by the newest version that passed its own."""
        passed = self.client.search_model_versions(f"name='{MODEL_NAME}' and tags.gate='{GATE[True]}'")
        others = [each for each in passed if int(each.version) != int(champion)]
        newest = max(others, key=lambda each: int(each.version), default=None)
        now = "" if newest is None else f"; version {newest.version} is now"
        log.info("MLflow: version %s missed the current gate and is no longer %s%s", champion, CHAMPION, now)
        if newest is None:
            self.client.delete_registered_model_alias(MODEL_NAME, CHAMPION)
        else:
            self.client.set_registered_model_alias(MODEL_NAME, CHAMPION, newest.version)
            self._tell_of_other_data(champion, newest.tags["data"])

    def _tell_of_other_data(self, before: str | None, data: str) -> None:
        """Log when the champion is now a model of other data than before: there is one champion for all data sets."""
        known = None if before is None else self.client.get_model_version(MODEL_NAME, before).tags.get("data")
        if known not in (None, data):
            log.info("MLflow: %s is now a model of %s; it was version %s, a model of %s", CHAMPION, data, before, known)

    def _log_model(self) -> Any:
        """Log the artifact as a pyfunc model ("models from code": nothing is pickled)."""
        with tempfile.TemporaryDirectory() as folder, self._active():
            package = Path(folder) / "train"
            package.mkdir()
            for leaf in LEAVES:
                shutil.copy(HERE / leaf, package)
            return mlflow.pyfunc.log_model(
                name="model",
                python_model=str(HERE / "mlflow_model.py"),
                artifacts={"artifact": str(self.run.artifact)},
                code_paths=[str(package)],
                pip_requirements=[
                    f"{name}=={version(name).split('+')[0]}" for name in ("mlflow", "torch", "numba", "safetensors")
                ],
                signature=SIGNATURE,
                input_example={"n": [2], "seed": [1]},
            )

    @contextlib.contextmanager
    def _active(self) -> Iterator[None]:
        """Let MLflow's fluent API log to this run."""
        chosen = os.environ.get("MLFLOW_TRACKING_URI")
        mlflow.set_tracking_uri(self.uri)
        if chosen is None:
            # `set_tracking_uri` has set it, but the next job of this process may have another store.
            os.environ.pop("MLFLOW_TRACKING_URI", None)
        mlflow.set_experiment(experiment_id=self.experiment_id)
        with mlflow.start_run(run_id=self.run_id, log_system_metrics=False):
            yield
