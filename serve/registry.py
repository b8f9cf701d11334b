"""Models by their name in MLflow's registry, such as models:/lookalike@champion or models:/lookalike/3."""

import os
from pathlib import Path

from serve import archive

SCHEME = "models:/"


class RegistryError(ValueError):
    """The registry has no such model, or it is not one of ours."""


def fetch(name: str, runs: Path, folder: Path) -> Path:
    """Download a registered model into `folder` and return the directory of its artifact.

    The registry is the one that training uses: MLFLOW_TRACKING_URI, else the database among the runs.

    Raises:
        RegistryError: there is no registry, no such model, or no artifact in it.
    """
    database = runs.resolve() / "mlflow.db"
    tracking = os.environ.get("MLFLOW_TRACKING_URI")
    if not tracking and not database.is_file():
        raise RegistryError(f"{name}: there is no registry at {database}; set MLFLOW_TRACKING_URI, or train first")
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    import mlflow  # takes seconds, and most models are files

    mlflow.set_tracking_uri(tracking or f"sqlite:///{database}")
    try:
        mlflow.artifacts.download_artifacts(artifact_uri=name, dst_path=str(folder))
    except mlflow.MlflowException as problem:
        raise RegistryError(f"{name}: {' '.join(str(problem).split())}") from problem
    cards = list(folder.rglob(archive.CARD))
    if len(cards) != 1:
        raise RegistryError(f"{name}: a model of something else, without an artifact of Lookalike")
    return cards[0].parent
