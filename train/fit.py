"""One training job from data to evidence: what `python -m train fit` runs."""

import contextlib
import dataclasses
import logging
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from train import atomic, checkpoint, console, device, distributed, gate, kinds, mirror, rundir, ship, tracking
from train.config import Config, epochs_alone, from_json
from train.errors import InputError, JobError, interruptions_shown, is_out_of_memory
from train.game import NonFiniteError
from train.gate import Verdict
from train.job import Job, Saved, SavedInterrupt, follow, interruptible
from train.prepare import Prepared, prepare, resolved
from train.rundir import RunDirectory

log = logging.getLogger("lookalike")

# What may change when a run is resumed.
MAY_CHANGE = ("epochs", "max_minutes", "device", "threads", "processes", "gate", "baselines", "experiment")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a job leaves: its run directory and the gate's verdict."""

    run: RunDirectory
    verdict: Verdict


def fit(config: Config, run: RunDirectory | None = None) -> Outcome | None:
    """Train anew, or resume a run. Only the first process of a job returns an outcome; the others return None.

    Args:
        run: the run to resume: in its directory, as the same MLflow run, from its last good checkpoint; `config` is
            then what `continued` returned.

    Raises:
        InputError: the data or the options cannot be used, or the data is not that of the run; nothing was created.
        JobError: training failed or was interrupted; the message says how to go on.
    """
    prepared = prepare(config)
    config = resolved(config, prepared)
    gate.read(config.gate, texts=config.codec == "tokens")  # a mistake in the file must not wait for the end
    with distributed.session(config):
        distributed.agree("options", config.to_json())
        distributed.agree("data", prepared.dataset.fingerprint())
        if not distributed.is_main():
            follow(config, prepared)
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


def _load_checkpoint(run: RunDirectory, config: Config, prepared: Prepared) -> Saved | None:
    """The state of the last good checkpoint, if there is one.

    Raises:
        InputError: the run was started with other data, or by another version.
    """
    content = checkpoint.load_newest(run.checkpoints)
    saved = None if content is None else Saved(**content)
    begun_with = None
    if saved is not None:
        begun_with = saved.fingerprint
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


def _run_tracked(run: RunDirectory, config: Config, prepared: Prepared, saved: Saved | None) -> Verdict:
    """The job itself, tracked; the caller holds the lock of the run directory."""
    atomic.write_text(run.config, config.to_json())
    seen = 0 if saved is None else saved.seen
    # What a crashed session wrote after its last checkpoint will be written again.
    atomic.keep_lines(run.stats, lambda line: line["seen"] <= seen)
    run.stats.touch()  # where the warm start takes all the time, the game adds no line
    device_name = device.name(config.device, config.threads, distributed.world_size())
    console.announce(run, config, prepared, device_name)
    if saved is not None:
        log.info("resuming %s", f"after {seen:,} sequences" if saved.state else "in the warm start")
    tracker = tracking.start(run, tags=_tags(prepared, device_name), datasets=_datasets(prepared), seen=seen)
    try:
        with interruptible() as interrupted:
            job = Job(
                run=run,
                config=config,
                prepared=prepared,
                kind=kinds.of(config, prepared),
                tracker=tracker,
                device_name=device_name,
                interrupted=interrupted,
            )
            game = job.train(saved)
        with interruptions_shown():
            verdict = ship.ship(game)
    except BaseException as problem:
        tracker.finish("KILLED" if isinstance(problem, KeyboardInterrupt) else "FAILED")
        raise
    tracker.finish("FINISHED")
    return verdict


def _tags(prepared: Prepared, device_name: str) -> dict[str, str]:
    return {
        "data": prepared.dataset.name,
        "fingerprint": prepared.dataset.fingerprint(),
        "codec": prepared.codec.name,
        "device": device_name,
    }


def _datasets(prepared: Prepared) -> list[dict[str, str]]:
    name, origin = prepared.dataset.name, prepared.dataset.source
    return [
        tracking.dataset(part.numpy(), name=name, origin=origin, context=context)
        for part, context in ((prepared.train, "training"), (prepared.heldout, "evaluation"))
    ]


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
