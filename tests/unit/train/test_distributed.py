"""What processes do together, as far as can be tested in one process."""

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.harmful import Harmful
from train import distributed, processes
from train.config import resolve
from train.errors import InputError, JobError


def test_a_process_that_fails_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[bool] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(distributed.dist, "init_process_group", lambda *args, **kwargs: None)
    monkeypatch.setattr(distributed, "leave", lambda: left.append(True))
    config = resolve({"codec": "bits", "device": "cpu"})
    with pytest.raises(JobError), distributed.session(config):
        raise JobError("a full disk, say")
    assert not left
    with distributed.session(config):
        pass
    assert left


@pytest.mark.parametrize(("rows", "begins"), [(12, [0, 4, 8]), (13, [0, 0, 0])])
def test_a_share_begins_where_it_says(rows: int, begins: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 3)
    for rank, begin in enumerate(begins):
        monkeypatch.setattr(distributed.dist, "get_rank", lambda rank=rank: rank)
        assert distributed.shard_start(rows) == distributed.shard(torch.arange(rows))[0] == begin


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 7, 64])
def test_what_processes_add_up_for_their_rows_is_in_the_mean_what_one_adds_up(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, sums = torch.arange(rows) + 10.0, []
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        mine, weight = distributed.weighted_portion(rows)
        assert len(values[mine]) > 0 or rows == 0
        sums.append(weight * float(values[mine].sum()))
    assert sum(sums) / 3 == pytest.approx(float(values.sum()))


def test_a_process_that_cannot_take_part_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    libraries = [f"{name}_SOCKET_IFNAME" for name in ("GLOO", "NCCL")]
    for name in (*libraries, "TORCH_NCCL_DUMP_ON_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    config = resolve({"codec": "tokens", "device": "cpu", "processes": 2, "data": str(tmp_path / "gone.txt")})
    reason = r"process 1 of 2 failed: --data .*gone\.txt: no such file"
    with pytest.raises(JobError, match=reason), distributed.session(config):
        pass
    assert [os.environ[name] for name in libraries] == [distributed._loopback()] * 2, "no other machine can take part"
    assert os.environ["TORCH_NCCL_DUMP_ON_TIMEOUT"] == "0", "nothing looks into the folder that is gone by now"


@pytest.mark.parametrize("number", [1, 4])
def test_numbers_of_processes_that_contradict_each_other_are_refused(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(number))
    config = resolve({"codec": "tokens", "processes": 2})
    with (
        pytest.raises(InputError, match=rf"--processes 2: but WORLD_SIZE says that {number} .* leave out --processes"),
        distributed.session(config),
    ):
        pass


def test_a_process_without_a_number_takes_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take itself for the first one: a sample would lack the others' rows."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match=r"^WORLD_SIZE says that 2 .* but RANK does not .*; unset WORLD_SIZE if"):
        processes.process_count(1)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert processes.process_count(1) == 1


def test_a_process_that_was_started_ends_with_the_one_that_started_it() -> None:
    code = "from train import processes; processes.end_with_the_first(); import time; time.sleep(60)"
    environment = os.environ | {processes.STARTED: "1"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == 1


def test_a_process_that_fails_says_why_whatever_nccl_says_after_it() -> None:
    worker: Any = processes.Worker.__new__(processes.Worker)
    worker.rank, worker.number, worker.process = 1, 2, SimpleNamespace(poll=lambda: 1)
    worker.said = io.StringIO("Error: out of memory\n[rank1]:[W1201 ProcessGroupNCCL.cpp:1575] Warning: …\n")
    with pytest.raises(JobError, match=r"^process 1 of 2 failed: out of memory$"):
        worker.check()


def test_what_nccl_says_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.distributed.DistBackendError("NCCL error in: …\nLast error:\nNo space left on device (28)")

    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.dist, "all_reduce", fail)
    with pytest.raises(distributed.LostError, match=r"or NCCL failed: NCCL error in: … Last error: No space left on"):
        distributed.all_reduce_mean([torch.zeros(1)])


class Counted:
    """A process that turns out to have ended at the `looks`-th check."""

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


def test_nothing_that_another_process_sends_is_unpickled(tmp_path: Path) -> None:
    store = distributed.dist.FileStore(str(tmp_path / "store"), 1)
    distributed.dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        assert distributed.broadcast({"seen": 3}) == {"seen": 3}
        with pytest.raises(pickle.UnpicklingError, match="weights_only"):
            distributed.broadcast(Harmful())
    finally:
        distributed.leave()
