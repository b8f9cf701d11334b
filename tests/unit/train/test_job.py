"""How a job is interrupted, what it remembers and when it ends; whole jobs are in tests/integration/train."""

import copy
import importlib
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from train import job as job_module
from train import kinds, nade, rundir, ship
from train.config import resolve
from train.game import GameState, Tick
from train.job import Game, Job, SavedInterrupt, interruptible
from train.nade import NadeGenerator
from train.prepare import prepare, resolved


def begun(folder: Path, interrupted: Callable[[], bool] = lambda: False) -> Job:
    """A job on the toy set with a run directory; it has no tracker, since none is used here."""
    config = resolve({"data": "toy", "device": "cpu"})
    found = prepare(config)
    config = resolved(config, found)
    return Job(
        run=rundir.create(folder, "toy-bits", config.to_json()),
        config=config,
        prepared=found,
        kind=kinds.of(config, found),
        tracker=cast("Any", None),
        device_name="CPU",
        interrupted=interrupted,
    )


def a_game(job: Job, **state: Any) -> Game:
    """A game without a generator, since none is used here."""
    return Game(job, GameState(generator=None, averaged=None, **state), cast("Any", None))


def test_imports_and_compiling_do_not_count_as_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def begin() -> None:
        done.append("warm start")
        raise SavedInterrupt

    job = begun(tmp_path)
    monkeypatch.setattr(importlib, "import_module", done.append)
    monkeypatch.setattr(nade, "compile_loops", lambda: done.append("loops"))
    monkeypatch.setattr(job.kind, "warm_start", begin)
    with pytest.raises(SavedInterrupt):
        job.train(None)
    assert done == ["torch._dynamo", "loops", "warm start"]


def test_an_interruption_in_the_last_step_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "_warm_up", lambda job, saved: a_game(job))
    monkeypatch.setattr(Game, "play", lambda game: signal.raise_signal(signal.SIGTERM))
    with interruptible() as interrupted, pytest.raises(SavedInterrupt):
        begun(tmp_path, interrupted).train(None)


def test_the_averaged_weights_with_the_best_validation_score_ship(tmp_path: Path) -> None:
    job, warm = begun(tmp_path), NadeGenerator(length=5, hidden=4, nets=1, classes=2)
    game = Game(job, job.kind.new_state(copy.deepcopy(warm)), warm)
    scores = iter([0.9, 0.5, 0.8])
    job.kind.validate = lambda generator: {"score": next(scores)}  # type: ignore[method-assign]
    kept = []
    for tick in range(3):
        game.state.seen = 1000 * tick
        for weight in game.state.averaged.parameters():
            weight.fill_(tick)
        game.validate()
        kept.append(copy.deepcopy(game.state.averaged.state_dict()))
    assert (game.state.best_score, game.state.best_seen) == (0.5, 1000)
    chosen = ship._chosen(game).state_dict()
    assert all(torch.equal(chosen[name], value) for name, value in kept[1].items())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interruption_ends_at_once(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as `main` does
    try:
        with interruptible() as interrupted:
            assert not interrupted()
            signal.raise_signal(number)
            assert interrupted()
            monkeypatch.setattr(job_module, "SAME_SECONDS", 60.0)
            signal.raise_signal(number)  # passed on by `make`, say: still the first
            monkeypatch.setattr(job_module, "SAME_SECONDS", 0.0)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        assert signal.getsignal(signal.SIGTERM) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_patience_of_a_game_begins_anew_with_each_better_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = begun(tmp_path)
    job.kind.patience = 1000
    game = a_game(job, best_seen=1500)
    monkeypatch.setattr(game, "validate", lambda: {"score": 0.5})
    monkeypatch.setattr(job, "checkpoint_is_due", lambda: False)
    bar: Any = SimpleNamespace(show=lambda *_: None)

    def enough(seen: int) -> bool:
        losses = {"generator_loss": 1.0, "discriminator_loss": 1.0}
        tick = Tick(seen=seen, epoch=1, seconds=1, sequences_per_second=1, losses=losses, last_losses=losses)
        return game._on_tick(tick, bar)

    assert [enough(seen) for seen in (2000, 2499, 2500)] == [False, False, True]
