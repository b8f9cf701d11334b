"""The MLflow model: the artifact behind MLflow's pyfunc interface.

MLflow stores this file as it is ("models from code") and runs it when the model is loaded, so nothing is pickled.
"""

import secrets
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel, PythonModelContext

from train import MAX_SEED, artifact

MAX_DRAWS = 100_000  # rows times candidates: a request cannot be cancelled once it runs


class Lookalike(PythonModel):
    """Each input row is a request: `n`, optionally `seed`, and those of `temperature`, `candidates` and `label` that
    the model supports. Like the TorchServe handler's, an answer holds `sequences`, `seed`, and, where the model has
    them, `text` and `labels` (the rows' classes). MLflow itself refuses rows of which only some have a whole number.
    """

    def load_context(self, context: PythonModelContext) -> None:
        self.artifact = artifact.load(Path(context.artifacts["artifact"]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        rows = model_input.to_dict("records")
        try:
            return [self._answer({name: value for name, value in row.items() if not pd.isna(value)}) for row in rows]
        except ValueError as problem:  # MLflow's server would hide the reason of any other error in a stack trace
            raise MlflowException.invalid_parameter_value(str(problem)) from problem

    def _answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        # pandas stores integers as floats in a column with missing values.
        asked |= {name: int(asked[name]) for name in ("n", "seed", "candidates") if name in asked}
        n, seed = asked.pop("n"), asked.pop("seed", secrets.randbelow(MAX_SEED + 1))
        candidates = getattr(self.artifact.with_options(**asked), "candidates", 1)
        for name, value, low, high in (("n", n, 1, MAX_DRAWS // candidates), ("seed", seed, 0, MAX_SEED)):
            if not low <= value <= high:
                raise ValueError(f"{name}: must be a whole number from {low} to {high}")
        sample = self.artifact.sample_labelled(n, seed, **asked)
        return {"sequences": sample.codes.tolist(), **self.artifact.readings(sample), "seed": seed}


mlflow.models.set_model(Lookalike())
