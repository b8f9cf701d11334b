"""One training job from data to evidence: what `python -m train fit` runs."""

import contextlib
import copy
import dataclasses
import json
import logging
import math
import platform
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from train import atomic, catalogue, checkpoint, console, distributed, gate, kinds, mirror, rundir, ship, tracking
from train.config import Config, epochs_alone, from_json
from train.errors import InputError, JobError, is_out_of_memory
from train.game import GameState, NonFiniteError, Tick
from train.gate import Verdict
from train.generator import Generator
from train.phase import Phase
from train.prepare import Prepared, prepare, resolved
from train.rundir import RunDirectory
from train.tracking import Tracker

log = logging.getLogger("lookalike")

CHECKPOINT_SECONDS = 20
# What may change when a run is resumed.
MAY_CHANGE = ("epochs", "max_minutes", "device", "threads", "processes", "gate", "baselines", "experiment")
NOTHING, WARM_START, GAME, REFIT = "nothing", "warm start", "game", "refit"  # the phase that a checkpoint was saved in


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a job leaves: its run directory and the gate's verdict."""

    run: RunDirectory
    verdict: Verdict


class SavedInterrupt(KeyboardInterrupt):
    """Training was interrupted, and all of its state has been saved."""


def fit(config: Config, run: RunDirectory | None = None) -> Outcome | None:
    """Train anew, or resume a run. Only the first process of a job returns an outcome; the others return None.

    Args:
        run: the run to resume: in its directory, as the same MLflow run, from its last good checkpoint; `config` is
            then what `continued` returned.

    Raises:
        InputError: the data or the options cannot be used, or the data is not that of the run; nothing was created.
        JobError: training failed or was interrupted; the message says how to go on.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # outside the loop it ends the job as Ctrl-C does
    prepared = prepare(config)
    config = resolved(config, prepared)
    gate.read(config.gate, texts=config.codec == "tokens")  # a mistake in the file must not wait for the end
    with distributed.session(config):
        distributed.agree("options", config.to_json())
        distributed.agree("data", prepared.dataset.fingerprint())
        if not distributed.is_main():
            _follow(config, prepared)
            return None
        if run is None:
            _mention_unfinished(config)
            run = rundir.create(Path(config.out), f"{prepared.dataset.name}-{config.codec}", config.to_json())
        else:
            _mention_older(run)
        return _run_locked(run, config, prepared)


def _mention_unfinished(config: Config) -> None:
    """Log a hint if the newest run has this very configuration and is unfinished."""
    run = max(rundir.existing(Path(config.out)), key=lambda run: run.number, default=None)
    if run is not None and _is_unfinished(run) and run.config.read_text("utf-8") == config.to_json():
        log.info("%s was interrupted; %s", run.path, _go_on(run))


def _mention_older(run: RunDirectory) -> None:
    """Log a hint if the run to resume is finished already, but an older one is not."""
    older = [each for each in rundir.existing(run.path.parent) if each.number < run.number and _is_unfinished(each)]
    if older and run.metrics.exists():
        unfinished = max(older, key=lambda run: run.number)
        log.info("%s is finished already; %s is not: %s", run.path, unfinished.path, _go_on(unfinished))


def _is_unfinished(run: RunDirectory) -> bool:
    """Whether the run has not reached its end and no process is working on it."""
    if run.config.exists() and not run.metrics.exists():
        with contextlib.suppress(Timeout, OSError), FileLock(run.path / ".lock", timeout=0):
            return True
    return False


def continued(run: RunDirectory, changes: dict[str, Any]) -> Config:
    """The configuration with which a run is resumed: its own, with the changes that are allowed.

    Raises:
        InputError: a change would make it another run.
    """
    config = from_json(run.config.read_text("utf-8"))
    changes = epochs_alone(changes)
    # The data may have been moved, but only a saved state is sure to tell whether it is the same (`_load_checkpoint`).
    may_change = (*MAY_CHANGE, "data") if checkpoint.newest(run.checkpoints) else MAY_CHANGE
    for name, value in changes.items():
        decided = value == "auto" and name in ("codec", "generator")  # keeps what the run was started with
        if name not in may_change and not decided and value != getattr(config, name):
            option = name.replace("_", "-")
            before = getattr(config, name)
            raise InputError(
                f"--{option} {value}: {run.path} was started with {before}, which --resume keeps; leave --{option} "
                f"out, or start a new run without --resume"
            )
    return dataclasses.replace(config, **{name: value for name, value in changes.items() if name in may_change})


def _follow(config: Config, prepared: Prepared) -> None:
    """Take part in each phase that the first process begins; only that process logs and saves anything."""
    torch.set_num_threads(config.threads)
    kind = kinds.of(config, prepared)
    with _interruptible() as interrupted:
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


def _run_locked(run: RunDirectory, config: Config, prepared: Prepared) -> Outcome:
    try:
        # Another job may hold the lock for a moment, to see whether anybody works here (`_is_unfinished`).
        with FileLock(run.path / ".lock", timeout=1), _logging_to(run.log):
            saved = _load_checkpoint(run, config, prepared)
            return Outcome(run=run, verdict=_run_tracked(run, config, prepared, saved))
    except Timeout as problem:
        raise JobError(f"{run.path}: another process is working on this run") from problem
    except KeyboardInterrupt as problem:
        state = "everything is saved" if isinstance(problem, SavedInterrupt) else _last_saved(run)
        raise JobError(f"interrupted; {state}; {_go_on(run)}") from problem
    except NonFiniteError as problem:
        raise JobError(f"{problem}; {_last_good(run)}") from problem
    except distributed.LostError as problem:
        raise distributed.LostError(f"{problem}; {_last_good(run)}; {_go_on(run)}") from problem
    except OSError as problem:
        what = f"{problem.filename or run.path}: {problem.strerror or problem}"
        raise JobError(f"{what}; {_last_good(run)}. When that is fixed, {_go_on(run)}") from problem
    except (MemoryError, RuntimeError) as problem:
        if not is_out_of_memory(problem):
            raise
        advice = "Free some memory and resume, or start a new run with smaller nets or a smaller --batch-size"
        raise JobError(f"out of memory; {_last_good(run)}. {advice}; {_go_on(run)}") from problem


def _load_checkpoint(run: RunDirectory, config: Config, prepared: Prepared) -> dict[str, Any] | None:
    """The state of the last good checkpoint, if there is one.

    Raises:
        InputError: the run was started with other data, or by another version.
    """
    saved = checkpoint.load_newest(run.checkpoints)
    begun_with = None
    if saved is not None:
        begun_with = saved["fingerprint"]
    elif run.tracking.exists():  # it was killed before the first checkpoint
        begun_with = mirror.read(run).tags.get("fingerprint")
    if begun_with not in (None, prepared.dataset.fingerprint()):
        raise InputError(
            f"--resume: {config.data} is not the data of {run.path}; name that with --data, or start a new "
            f"run without --resume"
        )
    return saved


def _go_on(run: RunDirectory) -> str:
    out = run.path.parent
    newest = max(rundir.existing(out), key=lambda each: each.number, default=run)  # there may be none if it was deleted
    options = f"--resume --out {shlex.quote(str(out if newest == run else run.path))}"
    return f'resume with: python -m train fit {options} (or: make train ARGS="{options}")'


def _last_saved(run: RunDirectory) -> str:
    path = checkpoint.newest(run.checkpoints)
    return f"the saved state is {time.time() - path.stat().st_mtime:.0f} s old" if path else "nothing is saved yet"


def _last_good(run: RunDirectory) -> str:
    path = checkpoint.newest(run.checkpoints)
    return f"the last good state is {path}" if path else "nothing is saved yet"


def _run_tracked(run: RunDirectory, config: Config, prepared: Prepared, saved: dict[str, Any] | None) -> Verdict:
    """The job itself, tracked; the caller holds the lock of the run directory."""
    atomic.write_text(run.config, config.to_json())
    seen = saved["state"]["seen"] if saved and "state" in saved else 0
    # What a crashed session wrote after its last checkpoint will be written again.
    atomic.keep_lines(run.stats, lambda line: line["seen"] <= seen)
    run.stats.touch()  # where the warm start takes all the time, the game adds no line
    console.announce(run, config, prepared, saved, _device_name(config))
    tracker = tracking.start(run, tags=_tags(config, prepared), datasets=_datasets(prepared), seen=seen)
    try:
        verdict = ship.ship(_train(run, config, prepared, tracker, saved))
    except BaseException as problem:
        tracker.finish("KILLED" if isinstance(problem, KeyboardInterrupt) else "FAILED")
        raise
    tracker.finish("FINISHED")
    return verdict


def _train(
    run: RunDirectory, config: Config, prepared: Prepared, tracker: Tracker, saved: dict[str, Any] | None
) -> ship.Trained:
    kind, device_name = kinds.of(config, prepared), _device_name(config)  # before the other processes leave
    with _interruptible() as interrupted:
        job = _Job(run=run, config=config, prepared=prepared, kind=kind, tracker=tracker, interrupted=interrupted)
        game = job.train(saved or {"phase": NOTHING})
    return ship.Trained(
        run=run,
        config=config,
        prepared=prepared,
        kind=kind,
        tracker=tracker,
        device_name=device_name,
        state=game.state,
        warm=game.warm,
        refitted=game.refitted,
    )


def _tags(config: Config, prepared: Prepared) -> dict[str, str]:
    return {
        "data": prepared.dataset.name,
        "fingerprint": prepared.dataset.fingerprint(),
        "codec": prepared.codec.name,
        "device": _device_name(config),
    }


def _datasets(prepared: Prepared) -> list[dict[str, str]]:
    name, origin = prepared.dataset.name, prepared.dataset.source
    return [
        tracking.dataset(part.numpy(), name=name, origin=origin, context=context)
        for part, context in ((prepared.train, "training"), (prepared.heldout, "evaluation"))
    ]


@dataclass(kw_only=True, eq=False)
class _Job:
    """What all phases of a job share: what they work on, and how they are interrupted and saved.

    Attributes:
        interrupted: whether Ctrl-C or SIGTERM has come.
        checkpointed_at: when a state was last saved.
    """

    run: RunDirectory
    config: Config
    prepared: Prepared
    kind: kinds.Kind
    tracker: Tracker
    interrupted: Callable[[], bool]
    checkpointed_at: float = field(default_factory=time.monotonic)

    def train(self, saved: dict[str, Any]) -> "_Game":
        """Train to the end, starting from what was saved.

        Raises:
            SavedInterrupt: on Ctrl-C or SIGTERM, after the state was saved.
            KeyboardInterrupt: on a second one.
            NonFiniteError: training failed.
        """
        torch.set_num_threads(self.config.threads)
        torch.manual_seed(self.config.seed)
        game = self._warm_up(saved) if saved["phase"] in (NOTHING, WARM_START) else self._load_game(saved)
        over = self.budget() == saved.get("ended")
        if not over:
            game.play()
        if game.state.is_unimproved:
            game.refit(saved.get("refit") if over else None)
        distributed.broadcast(None)
        distributed.leave()
        if self.interrupted():  # during the last step, after which nothing asks
            raise SavedInterrupt
        return game

    def _warm_up(self, saved: dict[str, Any]) -> "_Game":
        """Make the generator that the game starts from, and start the game."""
        phase = self.kind.warm_start()
        if saved["phase"] == WARM_START:
            phase.load_state_dict(saved["warm_start"])
        limit = self.seconds(self.kind.warm_share)
        self.run_phase(WARM_START, phase, limit, lambda: self.save(WARM_START, warm_start=phase.state_dict()))
        warm = copy.deepcopy(phase.generator)
        game = _Game(self, self.kind.new_state(phase.generator), warm)
        game.state.seconds = phase.seconds
        game.validate()  # the warm start is the first candidate to ship
        game.checkpoint()
        return game

    def _load_game(self, saved: dict[str, Any]) -> "_Game":
        warm = catalogue.build(saved["generator"])
        warm.load_state_dict(saved["warm"])
        warm.to(self.config.device)  # where it would be, had the job not been interrupted
        state = self.kind.new_state(catalogue.build(saved["generator"]))
        state.load_state_dict(saved["state"])
        return _Game(self, state, warm)

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
        """What says when the game is over; if it has changed, the game of a finished run goes on."""
        return [self.config.epochs, self.config.max_minutes]

    def checkpoint_is_due(self) -> bool:
        return time.monotonic() - self.checkpointed_at > CHECKPOINT_SECONDS

    def save(self, phase: str, **content: Any) -> None:
        fingerprint = self.prepared.dataset.fingerprint()
        checkpoint.save(self.run.checkpoints, {"phase": phase, "fingerprint": fingerprint, **content})
        self.checkpointed_at = time.monotonic()


class _Game:
    """The game of a job, from its start generator on.

    Attributes:
        warm: the generator as the game found it, or the refit that took its place.
        refitted: whether the start was fitted once more, to training and validation rows.
    """

    def __init__(self, job: _Job, state: GameState, warm: Generator) -> None:
        self.job, self.state, self.warm, self.refitted = job, state, warm, False

    def play(self) -> None:
        """Play the game to its end; raises what `_Job.run_phase` does."""
        job, state = self.job, self.state
        distributed.broadcast({"phase": GAME, "generator": state.generator.config(), "state": state.state_dict()})
        distributed.barrier()
        with console.GameBar(job.config, job.kind.game_share, len(job.prepared.rows)) as bar:
            reason = job.kind.play(state, lambda tick: self._on_tick(tick, bar), job.interrupted)
        if reason == "interrupted":
            distributed.leave()  # now, as the others do: NCCL waits for all of them
            self.checkpoint()
            raise SavedInterrupt
        self.checkpoint(ended=job.budget())
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

    def refit(self, begun: dict[str, Any] | None) -> None:
        """Fit the start again, to validation rows as well: they have nothing more to decide.

        Args:
            begun: the state of a refit that an earlier session began, to be resumed.
        """
        job, phase = self.job, self.job.kind.refit()
        if phase is None:
            return
        share, limit = job.seconds(job.kind.warm_share), job.seconds(1.0) - self.state.seconds
        if limit < share / 2:  # the minutes were reduced since: a rushed refit would be worse than the first start
            log.info("no time is left for a refit: the warm start ships as it is")
            return
        if begun is not None:
            phase.load_state_dict(begun)

        def save() -> None:
            job.save(REFIT, **self._content(ended=job.budget()), refit=phase.state_dict())

        job.run_phase(REFIT, phase, limit, save)
        save()
        self.warm, self.refitted = phase.generator, True
        self.state.seconds += phase.seconds

    def checkpoint(self, ended: list[float | None] | None = None) -> None:
        """Save the game; `ended` is the budget that it has used up, if it is over."""
        self.job.save(GAME, **self._content(ended))
        self.job.tracker.checkpointed(self.state.seen)

    def _content(self, ended: list[float | None] | None) -> dict[str, Any]:
        return {
            "state": self.state.state_dict(),
            "generator": self.state.generator.config(),
            "warm": self.warm.state_dict(),
            "ended": ended,
        }


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a flag that the loop checks after each step; a second one interrupts at once."""
    received: list[int] = []

    def remember(number: int, frame: object) -> None:
        received.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Write all log messages to the run's log as well, with the time."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.handleError = lambda record: None  # type: ignore[method-assign]  # a full disk must not add tracebacks
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    except Exception:
        log.debug("the job failed", exc_info=True)
        raise
    finally:
        log.removeHandler(handler)
        handler.close()


def _device_name(config: Config) -> str:
    number = distributed.world_size()
    if config.device == "cuda":
        return ("" if number == 1 else f"{number} x ") + torch.cuda.get_device_name()
    together = "" if number == 1 else f"{number} processes of "
    threads = "1 thread" if config.threads == 1 else f"{config.threads} threads"
    return f"{platform.processor() or platform.machine()} CPU, {together}{threads}"
