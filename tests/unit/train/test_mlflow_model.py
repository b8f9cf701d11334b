"""The MLflow model takes the same options as TorchServe. It runs in a subprocess, since MLflow leaves files open."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import train
from tests.choosy import choosy_artifact
from tests.rated import CLASSES
from train import artifact

PREDICT = """
import json, sys
import pandas as pd
from tests.choosy import choosy_artifact
from train.mlflow_model import Lookalike

model = Lookalike()
model.artifact = choosy_artifact()
print(json.dumps(model.predict(None, pd.DataFrame(json.loads(sys.argv[1])))))
"""
REFUSED = """
from mlflow.exceptions import MlflowException

told = []
for asked in json.loads(sys.argv[1]):
    try:
        model.predict(None, pd.DataFrame([asked]))
    except MlflowException as problem:  # of which MLflow's server shows the message
        told.append([problem.get_http_status_code(), problem.message])
print(json.dumps(told))
"""
RATED = """
import json, sys
from pathlib import Path
import pandas as pd
from tests.rated import rated_artifact
from train.mlflow_model import Lookalike
from train.registry import SIGNATURE

model = Lookalike()
model.artifact = rated_artifact(Path(sys.argv[1]))
outputs = {column.name: column.required for column in SIGNATURE.outputs}
print(json.dumps([outputs, *model.predict(None, pd.DataFrame([{"n": 30, "seed": 1}]))]))
"""


def output(script: str, argument: str) -> Any:
    root = Path(train.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script, argument], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_texts_come_with_their_classes_and_the_signature_names_them(tmp_path: Path) -> None:
    outputs, answer = output(RATED, f"{tmp_path}/artifact")
    made = artifact.load(tmp_path / "artifact")
    drawn = made.sample_labelled(30, 1)
    assert answer == {"sequences": drawn.codes.tolist(), **made.readings(drawn), "seed": 1}
    assert set(answer["labels"]) == set(CLASSES)
    assert outputs == {"sequences": True, "text": False, "labels": False, "seed": True}


def test_options_may_be_missing_row_by_row() -> None:
    made = choosy_artifact()
    rows = [{"n": 2, "seed": 1}, {"n": 3, "seed": 2, "label": "wild", "candidates": 4, "temperature": 0.5}]
    answers = output(PREDICT, json.dumps(rows))
    assert answers[0] == {"sequences": made.sample(2, 1).tolist(), "labels": ["calm"] * 2, "seed": 1}
    chosen = made.sample(3, 2, label="wild", candidates=4, temperature=0.5)
    assert answers[1] == {"sequences": chosen.tolist(), "labels": ["wild"] * 3, "seed": 2}


def test_numbers_that_torchserve_refuses_are_refused() -> None:
    script = PREDICT.rsplit("print", 1)[0] + REFUSED
    asked = [{"n": 0, "seed": 1}, {"n": 10**6, "seed": 1}, {"n": 1, "seed": -1}, {"n": 1, "seed": 2**32}]
    of_n, of_seed = "n: must be a whole number from 1 to 100000", "seed: must be a whole number from 0 to 4294967295"
    asked += [{"n": 25_001, "seed": 1, "candidates": 4}, {"n": 1, "label": "loud"}]
    of_many, of_label = "n: must be a whole number from 1 to 25000", 'label: must be one of "calm", "plain", "wild"'
    reasons = [of_n, of_n, of_seed, of_seed, of_many, of_label]
    assert output(script, json.dumps(asked)) == [[400, reason] for reason in reasons]


def test_who_names_no_seed_gets_other_rows_each_time() -> None:
    made = choosy_artifact()
    answers = output(PREDICT, json.dumps([{"n": 2}, {"n": 2}]))
    assert answers[0]["seed"] != answers[1]["seed"]
    assert [answer["sequences"] for answer in answers] == [
        made.sample(2, answer["seed"]).tolist() for answer in answers
    ]
