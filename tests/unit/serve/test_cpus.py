"""How many CPUs the workers may use."""

import os
from pathlib import Path

import pytest

from serve import cpus


@pytest.mark.parametrize(
    ("limit", "usable"),
    [("max 100000", 8), ("50000 100000", 1), ("150000 100000", 1), ("400000 100000", 4), ("9900000 100000", 8)],
)
def test_a_container_limit_counts(limit: str, usable: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    (tmp_path / "cpu.max").write_text(limit + "\n")
    assert cpus.usable(tmp_path / "cpu.max") == usable


def test_without_a_limit_affinity_counts_and_elsewhere_all_cpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    assert cpus.usable(tmp_path / "none") == 1
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cpus.usable(tmp_path / "none") == 6
