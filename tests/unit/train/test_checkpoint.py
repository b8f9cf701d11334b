"""Checkpoints: whole or absent, and the newest good one is found."""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.harmful import Harmful
from train import checkpoint
from train.errors import InputError


def state(number: int) -> dict[str, Any]:
    return {"seen": number, "weights": torch.full((3,), float(number)), "best_score": float("inf"), "run_id": None}


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(5))
    found = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert found["best_score"] == float("inf")
    assert torch.equal(found["weights"], state(5)["weights"])


def test_only_the_last_ones_are_kept(tmp_path: Path) -> None:
    for number in range(5):
        checkpoint.save(tmp_path, state(number))
    assert sorted(path.name[:6] for path in tmp_path.iterdir()) == ["000004", "000005"]


def test_foreign_files_are_neither_read_nor_deleted(tmp_path: Path) -> None:
    foreign = [tmp_path / name for name in ("backup.pt", "._000001-0123456789abcdef.pt", "000001-mine.pt", "7-old.pt")]
    for path in foreign:
        path.touch()
    for number in range(4):
        checkpoint.save(tmp_path, state(number))
    own = sorted(set(tmp_path.iterdir()) - set(foreign))
    assert [path.name[:6] for path in own] == ["000003", "000004"]
    assert all(path.exists() for path in foreign)
    assert checkpoint.newest(tmp_path) == own[-1]


def test_the_newest_has_the_highest_number_and_not_the_last_name(tmp_path: Path) -> None:
    before = checkpoint.save(tmp_path, state(1))
    before.rename(before.with_name(before.name.replace("000001-", "999999-")))
    for number in (2, 3):
        checkpoint.save(tmp_path, state(number))
    found = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert found["seen"] == 3
    assert sorted(path.name[:8] for path in tmp_path.iterdir()) == ["1000000-", "1000001-"]


def test_a_damaged_one_is_no_spare(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(1))
    checkpoint.save(tmp_path, state(2)).write_bytes(b"damaged")
    checkpoint.save(tmp_path, state(3)).write_bytes(b"damaged, too")
    found = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert found["seen"] == 1


@pytest.mark.parametrize(
    "damage", [lambda content: content[: len(content) // 2], lambda content: content[:-1] + b"x", lambda content: b""]
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, damage: Any) -> None:
    checkpoint.save(tmp_path, state(1))
    newest = checkpoint.save(tmp_path, state(2))
    newest.write_bytes(damage(newest.read_bytes()))
    found = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert found["seen"] == 1


def test_a_checkpoint_of_another_version_is_refused_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT - 1)
    path = checkpoint.save(tmp_path, state(5))
    monkeypatch.undo()
    with pytest.raises(InputError, match=f"--resume: another version of Lookalike wrote {path}.* start a new run"):
        checkpoint.load_newest(tmp_path)


def test_a_checkpoint_from_before_there_was_a_format_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(state(5), buffer)
    content = buffer.getvalue()
    (tmp_path / f"000001-{hashlib.sha256(content).hexdigest()[:16]}.pt").write_bytes(content)
    with pytest.raises(InputError, match="another version of Lookalike"):
        checkpoint.load_newest(tmp_path)


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path / "nowhere") is None
    (tmp_path / "000000000000001-0123456789abcdef.partial").write_bytes(b"half")
    assert checkpoint.load_newest(tmp_path) is None


def test_nothing_but_tensors_and_plain_values_is_unpickled(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"format": checkpoint.FORMAT, "seen": Harmful()}, buffer)
    content = buffer.getvalue()
    (tmp_path / f"000001-{hashlib.sha256(content).hexdigest()[:16]}.pt").write_bytes(content)
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        checkpoint.load_newest(tmp_path)
