"""The training of one job: warm start, game and refit, saved from time to time, interrupted and continued."""

import contextlib
import copy
import importlib
import json
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from train import catalogue, checkpoint, console, distributed, kinds, nade
from train.config import Config
from train.errors import JobError
from train.game import GameState, NonFiniteError, Tick
from train.generator import Generator
from train.phase import Phase
from train.prepare import Prepared
from train.rundir import RunDirectory
from train.tracking import Tracker

log = logging.getLogger("lookalike")

CHECKPOINT_SECONDS = 20
SAME_SECONDS = 0.5  # see `interruptible`
WARM_START, GAME, REFIT = "warm start", "game", "refit"  # the phases, as checkpoints and progress bars name them


class SavedInterrupt(KeyboardInterrupt):
    """Training was interrupted, and all of its state has been saved."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What a checkpoint holds. What did not exist yet is empty.

    Attributes:
        phase: the one in which it was saved.
        fingerprint: of the data.
        warm_start: the state of the unfinished warm start.
        generator, warm, state: from the game on, its generator's `config`, the weights of the start, the game's state.
        ended: `Game.ended`.
        refit: the state of a refit that has begun.
    """

    phase: str
    fingerprint: str
    warm_start: dict[str, Any] = field(default_factory=dict)
    generator: dict[str, Any] = field(default_factory=dict)
    warm: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    ended: list[float | None] | None = None
    refit: dict[str, Any] = field(default_factory=dict)

    @property
    def seen(self) -> int:
        """How many sequences the game had seen."""
        seen: int = self.state.get("seen", 0)
        return seen


@dataclass(kw_only=True, eq=False)
class Job:
    """What all phases of a job share: what they work on, and how they are interrupted and saved.

    Attributes:
        device_name: what it trains on, for people.
        interrupted: whether Ctrl-C or SIGTERM has come.
        checkpointed_at: when a state was last saved.
    """

    run: RunDirectory
    config: Config
    prepared: Prepared
    kind: kinds.Kind
    tracker: Tracker
    device_name: str
    interrupted: Callable[[], bool]
    checkpointed_at: float = field(default_factory=time.monotonic)

    def train(self, saved: Saved | None) -> "Game":
        """Train to the end, starting from what was saved, if anything was.

        Raises:
            SavedInterrupt: on Ctrl-C or SIGTERM, after the state was saved.
            KeyboardInterrupt: on a second one.
            NonFiniteError: training failed.
        """
        _get_ready(self.config)
        torch.manual_seed(self.config.seed)
        game = self._load_game(saved) if saved is not None and saved.state else self._warm_up(saved)
        over = self._is_over(game)
        if over:
            log.info("training had already ended, after %s sequences", f"{game.state.seen:,}")
        else:
            game.play()
        if game.state.is_unimproved:
            game.refit(saved.refit if saved is not None and over else {})
        distributed.broadcast(None)
        distributed.leave()
        if self.interrupted():  # during the last step, after which nothing asks
            raise SavedInterrupt
        return game

    def _warm_up(self, saved: Saved | None) -> "Game":
        """Make the generator that the game starts from, and start the game."""
        phase = self.kind.warm_start()
        if saved is not None:
            phase.load_state_dict(saved.warm_start)
        limit = self.seconds(self.kind.warm_share)
        self.run_phase(WARM_START, phase, limit, lambda: self.save(WARM_START, warm_start=phase.state_dict()))
        warm = copy.deepcopy(phase.generator)
        game = Game(self, self.kind.new_state(phase.generator), warm)
        game.state.seconds = phase.seconds
        game.validate()  # the warm start is the first candidate to ship
        game.checkpoint()
        return game

    def _load_game(self, saved: Saved) -> "Game":
        warm = catalogue.build(saved.generator)
        warm.load_state_dict(saved.warm)
        warm.to(self.config.device)  # where it would be, had the job not been interrupted
        state = self.kind.new_state(catalogue.build(saved.generator))
        state.load_state_dict(saved.state)
        return Game(self, state, warm, ended=saved.ended)

    def _is_over(self, game: "Game") -> bool:
        """Whether the game has ended, and this session does not give it more."""
        if game.ended is None:
            return False
        given, used = (
            [math.inf if each is None else each for each in budget] for budget in (self.budget(), game.ended)
        )
        return all(now <= before for now, before in zip(given, used, strict=True))

    def run_phase(self, name: str, phase: Phase, seconds: float, save: Callable[[], None]) -> None:
        """Run a phase to its end within `seconds`, saving from time to time.

        Raises:
            SavedInterrupt: on Ctrl-C or SIGTERM, after the state was saved.
        """
        distributed.broadcast({"phase": name, "state": phase.state_dict(), "seconds": seconds})
        distributed.barrier()  # before the clock starts
        with console.bar(name) as bar:

            def pause() -> bool:
                bar.update(100 * phase.progress - bar.n)
                return self.interrupted() or self.checkpoint_is_due()

            while not phase.run(seconds, pause):
                save()
                (stop,) = distributed.all_reduce_max(self.interrupted())
                if stop:
                    distributed.leave()
                    raise SavedInterrupt
        if phase.seconds:
            log.info("%s: %.0f s", name, phase.seconds)

    def seconds(self, share: float) -> float:
        """This share of the minutes that training may take, in seconds."""
        return math.inf if self.config.max_minutes is None else 60 * self.config.max_minutes * share

    def budget(self) -> list[float | None]:
        """What says when the game is over; if any of it has grown, the game of a finished run goes on."""
        return [self.config.epochs, self.config.max_minutes]

    def checkpoint_is_due(self) -> bool:
        return time.monotonic() - self.checkpointed_at > CHECKPOINT_SECONDS

    def save(self, phase: str, **content: Any) -> None:
        """Write a checkpoint with this content (see `Saved`)."""
        saved = Saved(phase=phase, fingerprint=self.prepared.dataset.fingerprint(), **content)
        checkpoint.save(self.run.checkpoints, vars(saved))
        self.checkpointed_at = time.monotonic()


class Game:
    """The game of a job, from its start generator on.

    Attributes:
        warm: the generator as the game found it, or the refit that took its place.
        refitted: whether the start was fitted once more, to training and validation rows.
        ended: the budget that the game has used up, if it is over.
    """

    def __init__(self, job: Job, state: GameState, warm: Generator, *, ended: list[float | None] | None = None) -> None:
        self.job, self.state, self.warm, self.refitted, self.ended = job, state, warm, False, ended

    def play(self) -> None:
        """Play the game to its end; raises what `Job.run_phase` does."""
        job, state = self.job, self.state
        self.ended = None
        distributed.broadcast({"phase": GAME, "generator": state.generator.config(), "state": state.state_dict()})
        distributed.barrier()
        with console.GameBar(job.config, job.kind.game_share, len(job.prepared.rows)) as bar:
            reason = job.kind.play(state, lambda tick: self._on_tick(tick, bar), job.interrupted)
        if reason == "interrupted":
            distributed.leave()  # now, as the others do: NCCL waits for all of them
            self.checkpoint()
            raise SavedInterrupt
        self.ended = job.budget()
        self.checkpoint()
        log.info("training ended (%s) after %s sequences in %.0f s", reason, f"{state.seen:,}", state.seconds)

    def _on_tick(self, tick: Tick, bar: console.GameBar) -> bool:
        scores = self.validate()
        record = {
            **tick.losses,
            **{f"validation_{name}": value for name, value in scores.items()},
            "epoch": tick.epoch,
            "sequences_per_second": tick.sequences_per_second,
        }
        with self.job.run.stats.open("a") as file:
            line = {"seen": tick.seen, "seconds": tick.seconds, "time": time.time(), **record}
            file.write(json.dumps(line) + "\n")
        bar.show(tick, scores)
        if self.job.checkpoint_is_due():
            self.checkpoint()
        return bool(scores) and tick.seen - self.state.best_seen >= self.job.kind.patience

    def validate(self) -> dict[str, float]:
        """Score the averaged generator on the validation rows and remember the best weights."""
        scores = self.job.kind.validate(self.state.averaged)
        if scores and scores["score"] < self.state.best_score - self.job.kind.gain:
            self.state.best_score, self.state.best_seen = scores["score"], self.state.seen
            self.state.best = {name: value.clone() for name, value in self.state.averaged.state_dict().items()}
        return scores

    def refit(self, begun: dict[str, Any]) -> None:
        """Fit the start again, to validation rows as well: they have nothing more to decide.

        Args:
            begun: the state of a refit that an earlier session began, to be resumed; empty if there is none.
        """
        job, phase = self.job, self.job.kind.refit()
        if phase is None:
            return
        if begun:
            phase.load_state_dict(begun)
        share, limit = job.seconds(job.kind.warm_share), job.seconds(1.0) - self.state.seconds
        # The minutes were reduced since: a rushed refit would be worse than the first start.
        if phase.progress < 1 and limit < share / 2:
            log.info("no time is left for a refit: the warm start ships as it is")
            return

        def save() -> None:
            job.save(REFIT, **self._content(), refit=phase.state_dict())

        job.run_phase(REFIT, phase, limit, save)
        save()
        self.warm, self.refitted = phase.generator, True
        self.state.seconds += phase.seconds

    def checkpoint(self) -> None:
        self.job.save(GAME, **self._content())
        self.job.tracker.checkpointed(self.state.seen)

    def _content(self) -> dict[str, Any]:
        return {
            "state": self.state.state_dict(),
            "generator": self.state.generator.config(),
            "warm": self.warm.state_dict(),
            "ended": self.ended,
        }


def _get_ready(config: Config) -> None:
    """Do what must not count as training time."""
    torch.set_num_threads(config.threads)
    importlib.import_module("torch._dynamo")  # which takes seconds, and which the first optimizer would import
    if config.generator == nade.NadeGenerator.name and config.device == "cpu":
        nade.compile_loops()


def follow(config: Config, prepared: Prepared) -> None:
    """Take part in each phase that the first process begins; only that process logs and saves anything."""
    _get_ready(config)
    kind = kinds.of(config, prepared)
    with interruptible() as interrupted:
        while (task := distributed.broadcast(None)) is not None:
            if not _take_part(kind, task, interrupted):
                return


def _take_part(kind: kinds.Kind, task: dict[str, Any], interrupted: Callable[[], bool]) -> bool:
    """Take part in the phase that the first process has begun; False if the job is interrupted."""
    if task["phase"] == GAME:
        state = kind.new_state(catalogue.build(task["generator"]))
        state.load_state_dict(task["state"])
        distributed.barrier()
        try:
            return kind.play(state, lambda tick: False, interrupted) != "interrupted"
        except NonFiniteError as problem:
            raise JobError(str(problem)) from problem
    phase = kind.warm_start() if task["phase"] == WARM_START else kind.refit()
    assert phase is not None, "the first process has begun it"
    phase.load_state_dict(task["state"])
    distributed.barrier()
    while not phase.run(task["seconds"], interrupted):
        phase.state_dict()  # the first process saves it, and gathers it from all
        (stop,) = distributed.all_reduce_max(interrupted())
        if stop:
            return False
    return True


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a flag that the loop checks after each step; a second one interrupts at once.

    One that follows within `SAME_SECONDS` is the same request: `timeout 60 make train` signals both make and this
    process, and make passes its own on, which must not keep the state from being saved.
    """
    received: list[float] = []

    def remember(number: int, frame: object) -> None:
        received.append(time.monotonic())
        if received[-1] - received[0] >= SAME_SECONDS:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
