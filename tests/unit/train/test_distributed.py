"""What processes do together, as far as one process shows it."""

import pytest
import torch

from train import distributed
from train.config import JobError, resolve


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
        assert distributed.before(rows) == distributed.share(torch.arange(rows))[0] == begin
