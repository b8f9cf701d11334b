"""What processes do together, as far as one process shows it."""

import pytest

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
