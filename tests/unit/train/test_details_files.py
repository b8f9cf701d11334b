"""Details that a small mistake would change unnoticed: what is saved, told, waited for and taken for the same."""

import copy
import hashlib
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.choosy import choosy_artifact
from tests.unit.train.test_codec import TEXTS, fit_tokens
from tests.unit.train.test_details_rows import AskedError, ask, job_on_texts
from tests.unit.train.test_mlflow_model import PREDICT, output
from train import artifact, checkpoint, data, evidence, kinds, mirror, processes, rundir
from train.generator import sample_labelled


class Counted:
    """A process that has ended when it has been asked so many times."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def check(self) -> bool:
        self.looks -= 1
        return self.looks <= 0


def test_all_processes_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "POLL_SECONDS", 0)
    others: Any = [Counted(1), Counted(3), Counted(2)]
    processes.await_all(others)
    assert all(other.looks <= 0 for other in others)


class Harmful:
    """What fails the test when it is unpickled."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("unpickled",)


def test_nothing_but_tensors_and_plain_values_is_unpickled(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"format": checkpoint.FORMAT, "seen": Harmful()}, buffer)
    content = buffer.getvalue()
    (tmp_path / f"000001-{hashlib.sha256(content).hexdigest()[:16]}.pt").write_bytes(content)
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        checkpoint.load_newest(tmp_path)


@pytest.mark.parametrize(("kind", "most"), [("words", 7), ("bpe", 25)])  # every character is a piece, too
def test_a_vocabulary_has_no_more_tokens_than_asked_for(kind: str, most: int) -> None:
    few, many = (fit_tokens(TEXTS * 20, kind=kind, vocabulary=size).pieces for size in (most, 500))
    assert len(few) == most < len(many)


def test_texts_with_other_classes_are_other_data() -> None:
    made = [
        data.Dataset(name="a", source="a", texts=["a film", "a plot"], classes=classes)
        for classes in (["1", "5"], ["5", "1"], None)
    ]
    assert len({each.fingerprint() for each in made}) == 3


def test_bits_of_other_columns_are_other_data() -> None:
    made = [
        data.Dataset(name="a", source="a", bits=np.eye(2, dtype=np.uint8), columns=tuple(names))
        for names in ("ab", "ba")
    ]
    assert made[0].fingerprint() != made[1].fingerprint()


def test_who_names_no_seed_gets_other_rows_each_time() -> None:
    made = choosy_artifact()
    answers = output(PREDICT, json.dumps([{"n": 2}, {"n": 2}]))
    assert answers[0]["seed"] != answers[1]["seed"]
    assert [answer["sequences"] for answer in answers] == [
        made.sample(2, answer["seed"]).tolist() for answer in answers
    ]


def test_ticks_that_may_come_again_and_halves_of_lines_are_not_sent(tmp_path: Path) -> None:
    path = tmp_path / "stats.jsonl"
    path.write_text('{"seen": 1}\n{"seen": 2}\n{"seen": 3}\n{"se')
    lines, end = mirror._lines(path, 0, "seen", 2)
    assert [line["seen"] for line in lines] == [1, 2]
    lines, end = mirror._lines(path, end, "seen", 9)
    assert [line["seen"] for line in lines] == [3]
    with path.open("a") as file:
        file.write('en": 4}\n')
    assert mirror._lines(path, end, "seen", 9)[0] == [{"seen": 4}]


def test_a_run_without_its_configuration_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rundir.atomic, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        rundir.create(tmp_path, "toy", "{}")
    monkeypatch.undo()
    assert rundir.existing(tmp_path) == []
    assert rundir.create(tmp_path, "toy", "{}").number == 1


def test_the_start_of_texts_is_judged_without_a_choice_that_nobody_has_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "judge_texts", ask)
    monkeypatch.setattr(kinds, "embedder", lambda: None)
    found, kind = job_on_texts(tmp_path)
    made = kind.warm_start().generator
    with pytest.raises(AskedError) as caught:
        kind.judge(made, made, 0.0)
    contenders = caught.value.args[0][0]
    for name, each in (("GAN", made), ("warm start", made.with_options(candidates=1))):
        served = artifact.for_serving(copy.deepcopy(each))
        drawn = sample_labelled(served, len(found.heldout), kinds.EVALUATION_SEED).codes
        assert contenders[name] == kind.codec.decode(drawn), name
