"""Checkpoints: whole or absent, and the newest good one is found."""

from pathlib import Path
from typing import Any

import pytest
import torch

from train import checkpoint


def state(number: int) -> dict[str, Any]:
    return {"seen": number, "weights": torch.full((3,), float(number)), "best_score": float("inf"), "run_id": None}


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, state(5))
    found = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert found[0] == path
    assert found[1]["best_score"] == float("inf")
    assert torch.equal(found[1]["weights"], state(5)["weights"])


def test_only_the_last_ones_are_kept(tmp_path: Path) -> None:
    for number in range(5):
        checkpoint.save(tmp_path, state(number))
    assert len(list(tmp_path.iterdir())) == checkpoint.KEEP


@pytest.mark.parametrize(
    "damage", [lambda content: content[: len(content) // 2], lambda content: content[:-1] + b"x", lambda content: b""]
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, damage: Any) -> None:
    checkpoint.save(tmp_path, state(1))
    newest = checkpoint.save(tmp_path, state(2))
    newest.write_bytes(damage(newest.read_bytes()))
    found = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert found[1]["seen"] == 1


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path / "nowhere") is None
    (tmp_path / "000000000000001-0123456789abcdef.partial").write_bytes(b"half")
    assert checkpoint.load_newest(tmp_path) is None
