"""How many CPUs a process may use, and work that all of them share."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from train import cpus


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


@pytest.fixture
def _three_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "usable", lambda: 3)


@pytest.mark.usefixtures("_three_cpus")
def test_as_many_items_are_worked_on_at_once_as_there_are_cpus_and_results_come_in_order() -> None:
    together = threading.Barrier(3)

    def double(number: int) -> int:
        together.wait(timeout=60)  # until two others are being worked on, too
        return 2 * number

    assert list(cpus.in_threads(double, range(6))) == [0, 2, 4, 6, 8, 10]


@pytest.mark.usefixtures("_three_cpus")
def test_items_are_taken_only_as_fast_as_results_are() -> None:
    taken = list[int]()

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    results = cpus.in_threads(lambda number: number, items())
    assert [next(results), next(results)] == [0, 1]
    assert len(taken) == 5
    results.close()  # type: ignore[attr-defined]
    assert len(taken) == 5


@pytest.mark.usefixtures("_three_cpus")
def test_a_failure_reaches_the_caller_and_what_was_not_begun_never_is() -> None:
    begun = list[int]()

    def fail(number: int) -> None:
        begun.append(number)
        raise ValueError(f"item {number}")

    with pytest.raises(ValueError, match="item 0"):
        list(cpus.in_threads(fail, range(100)))
    assert len(begun) <= 4


@pytest.mark.usefixtures("_three_cpus")
def test_long_work_ends_when_nobody_waits_for_it() -> None:
    def work(number: int) -> int:
        deadline = time.monotonic() + 60
        while number and time.monotonic() < deadline:
            cpus.stop_if_abandoned()
        return number

    began = time.monotonic()
    results = cpus.in_threads(work, range(3))
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - began < 30
    cpus.stop_if_abandoned()  # does nothing elsewhere


def test_with_one_cpu_there_are_no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "usable", lambda: 1)
    assert list(cpus.in_threads(lambda number: threading.current_thread(), range(2))) == 2 * [threading.main_thread()]
