"""The artifact: what is saved comes back, and anything else is refused."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.choosy import choosy_artifact
from tests.rated import CLASSES, rated_artifact
from train import artifact, catalogue
from train.artifact import ArtifactError
from train.codec import BitsCodec


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    made = catalogue.build({"name": "nade", "length": 6, "hidden": 4, "nets": 2, "classes": 2})
    artifact.save(tmp_path / "artifact", made, BitsCodec("abcdef"), {"version": "7", "run_id": None})
    return tmp_path / "artifact"


def test_an_artifact_comes_back(saved: Path) -> None:
    loaded = artifact.load(saved)
    assert loaded.card["version"] == "7"
    assert loaded.codec.columns == list("abcdef")
    assert loaded.sample(8, 1).tolist() == loaded.card["golden"][1]["rows"]
    assert sorted(path.name for path in saved.iterdir()) == ["card.json", "generator.safetensors"]
    assert [path.name for path in saved.parent.iterdir()] == ["artifact"]


def swap_weights(folder: Path) -> None:
    content = bytearray((folder / "generator.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "generator.safetensors").write_bytes(bytes(content))


def drop_a_weight(folder: Path) -> None:
    weights = safetensors.torch.load_file(folder / "generator.safetensors")
    weights.popitem()
    content = safetensors.torch.save(weights)
    (folder / "generator.safetensors").write_bytes(content)
    edit(folder, lambda card: card.update(weights_sha256=hashlib.sha256(content).hexdigest()))


def edit(folder: Path, change: Callable[[Any], object]) -> None:
    card = json.loads((folder / "card.json").read_text())
    change(card)
    (folder / "card.json").write_text(json.dumps(card))


def swap_golden(card: Any) -> None:
    card["golden"][0]["rows"][0] = [1 - bit for bit in card["golden"][0]["rows"][0]]


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no card": (lambda folder: (folder / "card.json").unlink(), "card.json"),
    "no weights": (lambda folder: (folder / "generator.safetensors").unlink(), "generator.safetensors"),
    "half a card": (lambda folder: (folder / "card.json").write_text('{"format": 1'), "not a readable artifact"),
    "other weights": (swap_weights, "the checksum does not match the card"),
    "weights of another version": (drop_a_weight, "another version of Lookalike made it"),
    "other golden rows": (lambda folder: edit(folder, swap_golden), "golden samples"),
    "newer format": (lambda folder: edit(folder, lambda card: card.update(format=2)), "format 2"),
    "unknown generator": (
        lambda folder: edit(folder, lambda card: card["generator"].update(name="x")),
        "not a readable",
    ),
    "other size": (lambda folder: edit(folder, lambda card: card["generator"].update(hidden=9)), "not a readable"),
    "no golden samples": (
        lambda folder: edit(folder, lambda card: card.update(golden=[])),
        "it has no golden samples to verify it by",
    ),
    "empty golden samples": (
        lambda folder: edit(folder, lambda card: card["golden"][0].update(rows=[])),
        "it has no golden samples to verify it by",
    ),
    "no number as golden seed": (
        lambda folder: edit(folder, lambda card: card["golden"][0].update(seed="0")),
        "it has no golden samples to verify it by",
    ),
    "a list as codec": (lambda folder: edit(folder, lambda card: card.update(codec=[])), "not a readable artifact"),
    "no classes": (lambda folder: edit(folder, lambda card: card["generator"].update(classes=0)), "not a readable"),
    "unknown codec": (lambda folder: edit(folder, lambda card: card["codec"].update(name="x")), "unknown codec 'x'"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_artifact_is_refused(saved: Path, kind: str) -> None:
    damage, message = DAMAGES[kind]
    damage(saved)
    with pytest.raises(ArtifactError) as caught:
        artifact.load(saved)
    assert message in str(caught.value)
    assert str(saved) in str(caught.value)


def test_options_are_passed_on_and_a_label_goes_by_its_name() -> None:
    made = choosy_artifact()
    assert made.options["label"].choices == ("calm", "plain", "wild")
    assert torch.equal(made.sample(5, 1, label="wild").long(), made.sample(5, 1).long() + 200)
    assert torch.equal(made.sample(5, 1, temperature=1.0, candidates=1), made.sample(5, 1))
    assert (made.sample(50, 1, candidates=64).long() > 50).all()
    assert made.generator.candidates == 1, "the artifact's own generator stays as it is"


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"label": "fierce"}, 'label: must be one of "calm", "plain", "wild"'),
        ({"candidates": 0}, "candidates: must be a whole number from 1 to 64"),
        ({"top_k": 5}, "top_k: this model has no such option"),
    ],
)
def test_a_choice_that_the_model_does_not_have_is_refused(chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choosy_artifact().sample(1, 1, **chosen)


def test_the_class_of_a_row_is_the_one_that_it_was_drawn_for(tmp_path: Path) -> None:
    made = rated_artifact(tmp_path / "artifact")
    drawn = made.sample_labelled(200, 1)
    assert drawn.labels is not None
    assert torch.equal(drawn.codes, made.sample(200, 1))
    assert drawn.labels.double().mean() == pytest.approx(0.75, abs=0.1)
    only = [made.sample(200, 1, label=name) for name in CLASSES]
    assert not torch.equal(*only)
    assert torch.equal(drawn.codes, torch.where(drawn.labels[:, None] == 0, *only))
    first, _ = drawn.split([30, 170])
    assert made.readings(first) == made.readings(made.sample_labelled(30, 1)), "a row's class is its own"
    assert made.readings(first)["labels"] == [CLASSES[label] for label in drawn.labels[:30]]


def test_a_chosen_class_is_that_of_all_rows(tmp_path: Path) -> None:
    made = rated_artifact(tmp_path / "artifact")
    for name in CLASSES:
        assert made.readings(made.sample_labelled(50, 1, label=name, candidates=1))["labels"] == [name] * 50


def test_rows_without_classes_have_no_labels(saved: Path) -> None:
    made = artifact.load(saved)
    assert made.sample_labelled(5, 1).labels is None
    assert made.readings(made.sample_labelled(5, 1)) == {}


def test_a_card_that_does_not_know_the_column_of_the_classes_is_read(tmp_path: Path) -> None:
    made = rated_artifact(tmp_path / "artifact")
    edit(tmp_path / "artifact", lambda card: card["codec"].pop("label_column"))
    codecs = [made.codec, artifact.load(tmp_path / "artifact").codec]
    assert [codec.to_dict()["label_column"] for codec in codecs] == ["rating", "label"]


def test_saving_again_replaces_the_artifact(saved: Path) -> None:
    other = catalogue.build({"name": "textbook", "length": 6})
    artifact.save(saved, other, BitsCodec("abcdef"), {"version": "8"})
    assert artifact.load(saved).card["version"] == "8"


def test_a_failed_save_leaves_the_older_artifact(saved: Path) -> None:
    other = catalogue.build({"name": "textbook", "length": 6})
    with pytest.raises(ValueError, match="not JSON compliant"):
        artifact.save(saved, other, BitsCodec("abcdef"), {"version": "8", "score": float("nan")})
    assert artifact.load(saved).card["version"] == "7"
    assert list(saved.parent.iterdir()) == [saved]


def test_the_older_artifact_is_deleted_only_when_the_new_one_is_in_its_place(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = catalogue.build({"name": "textbook", "length": 6})
    rmtree = shutil.rmtree
    deleted: list[str] = []

    def record(path: Path, **given: Any) -> None:
        if (path / "card.json").exists():
            deleted.append(json.loads((path / "card.json").read_text())["version"])
            assert artifact.load(saved).card["version"] == "8"
        rmtree(path, **given)

    monkeypatch.setattr(shutil, "rmtree", record)
    artifact.save(saved, other, BitsCodec("abcdef"), {"version": "8"})
    assert deleted == ["7"]
    assert list(saved.parent.iterdir()) == [saved]


def test_what_a_kill_between_the_renames_has_left_is_replaced(saved: Path) -> None:
    saved.rename(saved.with_name(".artifact.old"))
    other = catalogue.build({"name": "textbook", "length": 6})
    artifact.save(saved, other, BitsCodec("abcdef"), {"version": "8"})
    assert artifact.load(saved).card["version"] == "8"
    assert list(saved.parent.iterdir()) == [saved]
