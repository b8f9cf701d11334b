"""The MLflow model: the artifact behind MLflow's pyfunc interface.

MLflow stores this file as it is ("models from code") and runs it when the model is loaded, so nothing is pickled.
"""

import math
import secrets
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext

from train import artifact
from train.generator import MAX_SEED


class Lookalike(PythonModel):
    """Each input row is a request (`n`, optional `seed`); the answers are those that the TorchServe handler gives."""

    def load_context(self, context: PythonModelContext) -> None:
        self.artifact = artifact.load(Path(context.artifacts["artifact"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        seeds = model_input["seed"] if "seed" in model_input else [math.nan] * len(model_input)
        return [self._answer(int(n), seed) for n, seed in zip(model_input["n"], seeds, strict=True)]

    def _answer(self, n: int, seed: float) -> dict[str, Any]:
        chosen = secrets.randbelow(MAX_SEED + 1) if pd.isna(seed) else int(seed)
        codes = self.artifact.sample(n, chosen)
        texts = self.artifact.codec.decode(codes)
        return {"sequences": codes.tolist(), "seed": chosen} | ({} if texts is None else {"text": texts})


mlflow.models.set_model(Lookalike())
