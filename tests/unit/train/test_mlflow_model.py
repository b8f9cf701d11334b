"""The MLflow model takes the options that TorchServe takes. MLflow leaves files open, hence a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import train
from tests.choosy import choosy_artifact

PREDICT = """
import json, sys
import pandas as pd
from tests.choosy import choosy_artifact
from train.mlflow_model import Lookalike

model = Lookalike()
model.artifact = choosy_artifact()
print(json.dumps(model.predict(None, pd.DataFrame(json.loads(sys.argv[1])))))
"""


def predict(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    root = Path(train.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", PREDICT, json.dumps(rows)], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, object]] = json.loads(done.stdout)
    return answers


def test_options_may_be_missing_row_by_row() -> None:
    made = choosy_artifact()
    answers = predict([{"n": 2, "seed": 1}, {"n": 3, "seed": 2, "label": "wild", "candidates": 4, "temperature": 0.5}])
    assert answers[0] == {"sequences": made.sample(2, 1).tolist(), "labels": ["calm"] * 2, "seed": 1}
    chosen = made.sample(3, 2, label="wild", candidates=4, temperature=0.5)
    assert answers[1] == {"sequences": chosen.tolist(), "labels": ["wild"] * 3, "seed": 2}
