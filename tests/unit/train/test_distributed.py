"""What processes do together, as far as one process shows it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from train import distributed, processes
from train.config import InputError, JobError, resolve


def test_a_process_that_fails_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[bool] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
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


def test_a_process_that_cannot_take_part_is_not_waited_for(tmp_path: Path) -> None:
    config = resolve({"codec": "tokens", "device": "cpu", "processes": 2, "data": str(tmp_path / "gone.txt")})
    reason = r"process 1 of 2 failed: --data .*gone\.txt: no such file"
    with pytest.raises(JobError, match=reason), distributed.session(config):
        pass


def test_numbers_of_processes_that_contradict_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    config = resolve({"codec": "tokens", "processes": 2})
    with (
        pytest.raises(InputError, match=r"--processes 2: WORLD_SIZE says that 1 .* leave --processes out"),
        distributed.session(config),
    ):
        pass


def test_a_process_that_was_started_ends_with_the_one_that_started_it() -> None:
    code = "from train import processes; processes.end_with_the_first(); import time; time.sleep(60)"
    environment = os.environ | {processes.STARTED: "1"}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30) == 1
