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
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm import tqdm

from train import (
    MODEL_NAME,
    SHOWN_SAFELY,
    artifact,
    atomic,
    catalogue,
    checkpoint,
    distributed,
    evidence,
    gate,
    kinds,
    metrics,
    report,
    rundir,
    tracking,
    writers,
)
from train.codec import Codec, TokensCodec
from train.config import Config, epochs_alone, from_json
from train.errors import InputError, JobError, is_out_of_memory
from train.evidence import Evidence
from train.game import GameState, NonFiniteError, Tick
from train.gate import Verdict
from train.generator import Generator
from train.kinds import EVALUATION_SEED
from train.phase import Phase
from train.prepare import JUDGING_ROWS, Prepared, prepare, resolved
from train.progress import LOG_SECONDS
from train.rundir import RunDirectory
from train.tracking import Tracker

log = logging.getLogger("lookalike")

CHECKPOINT_SECONDS = 20
SAMPLE_ROWS = 1000
PRINTED_ROWS, PRINTED_VALUES = 5, 64
LOW_TEMPERATURE = 0.5  # the temperature of further texts that are printed
MAY_CHANGE = ("epochs", "max_minutes", "device", "threads", "processes", "gate", "baselines")  # when a run is continued
NOTHING, WARM_START, GAME, REFIT = "nothing", "warm start", "game", "refit"  # the phase that a checkpoint was saved in
BAR = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
TEXTBOOK_PRINT_EPOCHS = 10  # the textbook prints its losses every so many epochs


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a job leaves: its run directory, and what the gate says of it."""

    run: RunDirectory
    verdict: Verdict


class SavedInterrupt(KeyboardInterrupt):
    """An interruption of training, once all of its state is saved."""


def fit(config: Config, run: RunDirectory | None = None) -> Outcome | None:
    """Train anew, or go on with a run. None: another process of the job, its first, keeps the outcome.

    Args:
        run: goes on in its directory, as the same MLflow run, from the state of its last good checkpoint; `config` is
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
    """Say so when the newest run is of this very configuration and nobody has finished it."""
    run = max(rundir.existing(Path(config.out)), key=lambda run: run.number, default=None)
    if run is not None and _is_unfinished(run) and run.config.read_text("utf-8") == config.to_json():
        log.info("%s was interrupted; %s", run.path, _go_on(run))


def _mention_older(run: RunDirectory) -> None:
    """Say so when a run that is finished goes on, and an older one has more need of it."""
    older = [each for each in rundir.existing(run.path.parent) if each.number < run.number and _is_unfinished(each)]
    if older and run.metrics.exists():
        unfinished = max(older, key=lambda run: run.number)
        log.info("%s is finished already; %s is not: %s", run.path, unfinished.path, _go_on(unfinished))


def _is_unfinished(run: RunDirectory) -> bool:
    """Whether the run has not come to its end and nobody is at work on it."""
    if run.config.exists() and not run.metrics.exists():
        with contextlib.suppress(Timeout, OSError), FileLock(run.path / ".lock", timeout=0):
            return True
    return False


def continued(run: RunDirectory, changes: dict[str, Any]) -> Config:
    """The configuration with which a run goes on: its own, with what may change.

    Raises:
        InputError: a change would make it another run.
    """
    config = from_json(run.config.read_text("utf-8"))
    changes = epochs_alone(changes)
    # The data may have been moved; that it is the same can only be seen where a state is saved (`_load_checkpoint`).
    may_change = (*MAY_CHANGE, "data") if checkpoint.newest(run.checkpoints) else MAY_CHANGE
    for name, value in changes.items():
        decided = value == "auto" and name in ("codec", "generator")  # as when the run was started
        if name not in may_change and not decided and value != getattr(config, name):
            option = name.replace("_", "-")
            before = getattr(config, name)
            raise InputError(
                f"--{option} {value}: {run.path} was started with {before}, which --resume keeps; leave --{option} "
                f"out, or start a new run without --resume"
            )
    return dataclasses.replace(config, **{name: value for name, value in changes.items() if name in may_change})


def _follow(config: Config, prepared: Prepared) -> None:
    """Take part in whatever the first process begins, which alone says and keeps anything."""
    torch.set_num_threads(config.threads)
    kind = kinds.of(config, prepared)
    with _interruptible() as interrupted:
        while (task := distributed.broadcast(None)) is not None:
            if not _take_part(kind, task, interrupted):
                return


def _take_part(kind: kinds.Kind, task: dict[str, Any], interrupted: Callable[[], bool]) -> bool:
    """Do what the first process has begun; False when the job is interrupted."""
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
        phase.state_dict()  # which the first process saves
        (stop,) = distributed.all_reduce_max(interrupted())
        if stop:
            return False
    return True


def _run_locked(run: RunDirectory, config: Config, prepared: Prepared) -> Outcome:
    try:
        with FileLock(run.path / ".lock", timeout=0), _logging_to(run.log):
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
        raise JobError(f"{what}; {_last_good(run)}. When that is mended, {_go_on(run)}") from problem
    except (MemoryError, RuntimeError) as problem:
        if not is_out_of_memory(problem):
            raise
        advice = "free some memory and go on, or start anew with smaller nets or a smaller --batch-size"
        raise JobError(f"out of memory; {_last_good(run)}. {advice}; to {_go_on(run)}") from problem


def _load_checkpoint(run: RunDirectory, config: Config, prepared: Prepared) -> dict[str, Any] | None:
    """The state of the last good checkpoint, if there is one."""
    saved = checkpoint.load_newest(run.checkpoints)
    if saved is not None and saved["fingerprint"] != prepared.dataset.fingerprint():
        raise InputError(
            f"--resume: {config.data} is not what {run.path} was started with; name that data with --data, or start a "
            f"new run without --resume"
        )
    return saved


def _go_on(run: RunDirectory) -> str:
    out = run.path.parent
    newest = max(rundir.existing(out), key=lambda each: each.number, default=run)  # none is there where it was deleted
    options = f"--resume --out {shlex.quote(str(out if newest == run else run.path))}"
    return f'go on with: python -m train fit {options} (or: make train ARGS="{options}")'


def _last_saved(run: RunDirectory) -> str:
    path = checkpoint.newest(run.checkpoints)
    return f"saved is the state of {time.time() - path.stat().st_mtime:.0f} s ago" if path else "nothing was saved yet"


def _last_good(run: RunDirectory) -> str:
    path = checkpoint.newest(run.checkpoints)
    return f"the last good state is {path}" if path else "nothing was saved yet"


def _run_tracked(run: RunDirectory, config: Config, prepared: Prepared, saved: dict[str, Any] | None) -> Verdict:
    """The job itself, tracked; nobody else works on the run directory meanwhile."""
    atomic.write_text(run.config, config.to_json())
    seen = saved["state"]["seen"] if saved and "state" in saved else 0
    # What a crashed session wrote after its last checkpoint comes again.
    atomic.keep_lines(run.stats, lambda line: line["seen"] <= seen)
    run.stats.touch()  # where the warm start takes all the time, the game adds no line
    _announce(run, config, prepared, saved)
    tracker = tracking.start(run, tags=_tags(config, prepared), datasets=_datasets(prepared), seen=seen)
    status = "FAILED"
    try:
        verdict = _Job(run, config, prepared, tracker, saved).work()
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        tracker.finish(status)
    return verdict


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


def _announce(run: RunDirectory, config: Config, prepared: Prepared, saved: dict[str, Any] | None) -> None:
    parts, dataset = prepared.parts, prepared.dataset
    log.info(
        "%s: %s, codec %s, %d values a row; %s train, %s validate, %s judge",
        dataset.name, dataset.extent, config.codec, len(prepared.codec.columns),
        f"{len(parts.train):,}", f"{min(len(parts.validation), JUDGING_ROWS):,}", f"{len(prepared.heldout):,}",
    )  # fmt: skip
    for line in dataset.skipped:
        log.warning("skipped: %s", line)
    if prepared.left_out:
        log.warning("%s", prepared.left_out)
    known = {row.tobytes() for part in (prepared.train, prepared.validation) for row in part.numpy()}
    repeated = sum(row.tobytes() in known for row in prepared.heldout.numpy()) / len(prepared.heldout)
    if repeated > metrics.NOTABLE_REPEATS:
        log.warning("%s", metrics.repeated_rows(repeated))
    log.info("run %s on %s", run.path, _device_name(config))
    if config.device == "cuda" and torch.cuda.device_count() > distributed.world_size():
        used = f"{distributed.world_size()} of {torch.cuda.device_count()} GPUs"
        log.info("%s are used; --processes trains with more of them", used)
    if saved is not None:
        where = f"after {saved['state']['seen']:,} sequences" if "state" in saved else "in the warm start"
        log.info("going on %s", where)


class _Job:
    """What the callbacks of one training run share.

    Attributes:
        interrupted: whether Ctrl-C or SIGTERM has come; asked while training.
        warm: the generator as the game found it, or the refit that took its place.
        state: of the game.
        bar: of the game's progress.
        refitted: whether the start was fitted once more, to training and validation rows.
    """

    interrupted: Callable[[], bool]
    refitted = False
    warm: Generator
    state: GameState
    bar: "tqdm[Any]"

    def __init__(
        self, run: RunDirectory, config: Config, prepared: Prepared, tracker: Tracker, saved: dict[str, Any] | None
    ) -> None:
        self.run, self.config, self.prepared, self.tracker = run, config, prepared, tracker
        self.kind = kinds.of(config, prepared)
        self.saved = saved or {"phase": NOTHING}
        self.device_name = _device_name(config)  # while there are other processes
        self.checkpointed_at = time.monotonic()
        self.printed_at = 0.0

    def work(self) -> Verdict:
        """Train, then judge, save and report.

        Raises:
            SavedInterrupt: on Ctrl-C or SIGTERM while training, after the state was saved.
            KeyboardInterrupt: on a second one, or later.
            NonFiniteError: training failed.
        """
        torch.set_num_threads(self.config.threads)
        torch.manual_seed(self.config.seed)
        with _interruptible() as self.interrupted:
            if self.saved["phase"] in (NOTHING, WARM_START):
                self._warm_up()
            else:
                self._load_game()
            over = self._budget() == self.saved.get("ended")
            if not over:
                self._play()
            if self._is_unimproved():
                self._refit(going_on=over)
            distributed.broadcast(None)
            distributed.leave()
            if self.interrupted():  # in the last step, when it was too late to ask
                raise SavedInterrupt
        return self._finish()

    def _warm_up(self) -> None:
        """Make the generator that the game starts from, and start the game."""
        phase = self.kind.warm_start()
        if self.saved["phase"] == WARM_START:
            phase.load_state_dict(self.saved["warm_start"])
        limit = self._seconds(self.kind.warm_share)
        self._run_phase(WARM_START, phase, limit, lambda: self._save(WARM_START, warm_start=phase.state_dict()))
        self.warm = copy.deepcopy(phase.generator)
        self.state = self.kind.new_state(phase.generator)
        self.state.seconds = phase.seconds
        self._validate()  # the warm start is the first candidate to ship
        self._checkpoint()

    def _refit(self, going_on: bool) -> None:
        """Make the start anew, of validation rows as well: they have nothing more to decide.

        Args:
            going_on: the game was over when this session began, so that there may be a refit to go on with.
        """
        phase = self.kind.refit()
        if phase is None:
            return
        share, limit = self._seconds(self.kind.warm_share), self._seconds(1.0) - self.state.seconds
        if limit < share / 2:  # minutes were taken away since: a start made in haste would be worse than the first one
            log.info("no time is left for a refit: the start ships as it is")
            return
        if going_on and self.saved["phase"] == REFIT:
            phase.load_state_dict(self.saved["refit"])

        def save() -> None:
            self._save(REFIT, **self._game_content(ended=self._budget()), refit=phase.state_dict())

        self._run_phase(REFIT, phase, limit, save)
        save()
        self.warm, self.refitted = phase.generator, True
        self.state.seconds += phase.seconds

    def _run_phase(self, name: str, phase: Phase, seconds: float, save: Callable[[], None]) -> None:
        """Bring a phase to its end within so many seconds, saved from time to time."""
        distributed.broadcast({"phase": name, "state": phase.state_dict(), "seconds": seconds})
        distributed.barrier()  # before the seconds begin
        with _bar(name) as bar:

            def pause() -> bool:
                bar.update(100 * phase.progress - bar.n)
                return self.interrupted() or self._checkpoint_is_due()

            while not phase.run(seconds, pause):
                save()
                (stop,) = distributed.all_reduce_max(self.interrupted())
                if stop:
                    distributed.leave()
                    raise SavedInterrupt
        if phase.seconds:
            log.info("%s: %.0f s", name, phase.seconds)

    def _seconds(self, share: float) -> float:
        """That share of the minutes that training may take."""
        return math.inf if self.config.max_minutes is None else 60 * self.config.max_minutes * share

    def _is_unimproved(self) -> bool:
        """Whether validation rows say that the game has added nothing to its start, which then ships."""
        return bool(self.state.best) and not self.state.best_seen

    def _load_game(self) -> None:
        saved = self.saved
        self.warm = catalogue.build(saved["generator"])
        self.warm.load_state_dict(saved["warm"])
        self.warm.to(self.config.device)  # where it would be, had the job not been interrupted
        self.state = self.kind.new_state(catalogue.build(saved["generator"]))
        self.state.load_state_dict(saved["state"])

    def _budget(self) -> list[float | None]:
        """What says when the game is over; a run that was over goes on where it has been given more."""
        return [self.config.epochs, self.config.max_minutes]

    def _play(self) -> None:
        """Play the game to its end."""
        state = self.state
        distributed.broadcast({"phase": GAME, "generator": state.generator.config(), "state": state.state_dict()})
        distributed.barrier()
        with _bar("training") as self.bar:
            reason = self.kind.play(state, self._on_tick, self.interrupted)
        if reason == "interrupted":
            distributed.leave()  # as the others do now: where NCCL parts, it waits for all
            self._checkpoint()
            raise SavedInterrupt
        self._checkpoint(ended=self._budget())
        log.info("training ended (%s) after %s sequences in %.0f s", reason, f"{state.seen:,}", state.seconds)

    def _on_tick(self, tick: Tick) -> bool:
        scores = self._validate()
        record = {
            **tick.losses,
            **{f"validation_{name}": value for name, value in scores.items()},
            "epoch": tick.epoch,
            "sequences_per_second": tick.sequences_per_second,
        }
        with self.run.stats.open("a") as file:
            line = {"seen": tick.seen, "seconds": tick.seconds, "time": time.time(), **record}
            file.write(json.dumps(line) + "\n")
        self._show(tick, scores)
        if self._checkpoint_is_due():
            self._checkpoint()
        return bool(scores) and tick.seen - self.state.best_seen >= self.kind.patience

    def _validate(self) -> dict[str, float]:
        """Score the averaged generator on the validation rows and remember the best one."""
        scores = self.kind.validate(self.state.averaged)
        if scores and scores["score"] < self.state.best_score - self.kind.gain:
            self.state.best_score, self.state.best_seen = scores["score"], self.state.seen
            self.state.best = {name: value.clone() for name, value in self.state.averaged.state_dict().items()}
        return scores

    def _checkpoint_is_due(self) -> bool:
        return time.monotonic() - self.checkpointed_at > CHECKPOINT_SECONDS

    def _checkpoint(self, ended: list[float | None] | None = None) -> None:
        """Save the game; `ended` is the budget that it has used up."""
        self._save(GAME, **self._game_content(ended))
        self.tracker.checkpointed(self.state.seen)

    def _game_content(self, ended: list[float | None] | None) -> dict[str, Any]:
        return {
            "state": self.state.state_dict(),
            "generator": self.state.generator.config(),
            "warm": self.warm.state_dict(),
            "ended": ended,
        }

    def _save(self, phase: str, **content: Any) -> None:
        fingerprint = self.prepared.dataset.fingerprint()
        checkpoint.save(self.run.checkpoints, {"phase": phase, "fingerprint": fingerprint, **content})
        self.checkpointed_at = time.monotonic()

    def _finish(self) -> Verdict:
        """Ship the best averaged weights: artifact, samples, evidence, report."""
        run, codec = self.run, self.prepared.codec
        generator = self._chosen()
        started = time.monotonic()
        self.kind.complete(generator, self.warm)
        found = self.kind.judge(generator, self.warm, self.state.seconds + time.monotonic() - started)
        scores = found.scores[found.shipped]
        limits = gate.read(self.config.gate, texts=found.texts is not None)
        verdict = gate.check(limits, scores, found.scores.get("independent"))

        shipped = artifact.save(run.artifact, generator, codec, self._card(scores, verdict))
        writers.write(run.samples, shipped.sample_labelled(SAMPLE_ROWS, EVALUATION_SEED), codec)
        notes = "".join(f"\nNote: {warning}\n" for warning in [self._outcome(), *scores["warnings"]])
        atomic.write_text(run.summary, f"{verdict.sentence}\n\n```\n{evidence.table(found)}\n```\n{notes}")
        self._report(found, verdict)
        # Last, because it says that the run is finished.
        atomic.write_text(run.metrics, json.dumps({"passed": verdict.passed, **found.to_dict()}, indent=1) + "\n")

        self._print_rows(shipped)
        log.info("\n%s\n", evidence.table(found))
        for warning in scores["warnings"]:
            log.info("Note: %s", warning)
        log.info("%s", verdict.sentence)
        log.info("report: %s", run.report)
        return verdict

    def _report(self, found: Evidence, verdict: Verdict) -> None:
        """Write the HTML page, and its pictures as files."""
        history = [json.loads(line) for line in self.run.stats.read_text().splitlines()]
        page = report.Page(
            title=f"{self.prepared.dataset.name}: how real are the lookalikes?",
            verdict=verdict,
            history=history,
            decode=self.prepared.codec.decode,
            provenance=self._provenance(),
            generator=self.config.generator,
            outcome=self._outcome(),
            validated=len(self.prepared.validation) > 0,
        )
        pictures = report.figures(found, history)
        atomic.write_text(self.run.report, report.render(found, page, pictures))
        report.save_figures(pictures, self.run.plots)

    def _outcome(self) -> str:
        """What training has ended in, and what of it ships."""
        state, rows = self.state, "texts" if isinstance(self.prepared.codec, TokensCodec) else "rows"
        if self._is_unimproved():
            again = f", fitted once more to training and validation {rows}" if self.refitted else ""
            why = f"did not improve its score on validation {rows}" if state.seen else "had no time"
            return f"The start ships{again}: the game {why}."
        if state.best:
            best = f"the best score on validation {rows}, {state.best_score:.3f}"
            return f"What ships is the generator after {state.best_seen:,} {rows}, which had {best}."
        return f"Without validation {rows}, the last weights ship."

    def _chosen(self) -> Generator:
        """The averaged weights with the best validation score, or their start; without validation, the last ones."""
        state = self.state
        if self._is_unimproved():
            log.info("the game did not improve the warm start's validation score: %.3f", state.best_score)
            return copy.deepcopy(self.warm)
        if state.best:
            log.info(
                "the best validation score came after %s sequences: %.3f", f"{state.best_seen:,}", state.best_score
            )
            state.averaged.load_state_dict(state.best)
        return state.averaged

    def _card(self, scores: dict[str, Any], verdict: Verdict) -> dict[str, Any]:
        dataset = self.prepared.dataset
        return {
            "name": MODEL_NAME,
            "version": str(self.run.number),
            "run_id": self.tracker.run_id,
            "run": self.run.path.name,
            "data": {"name": dataset.name, "rows": len(dataset), "fingerprint": dataset.fingerprint()},
            "metrics": evidence.numbers(scores),
            "gate": {"passed": verdict.passed, "missed": verdict.missed},
            "libraries": _libraries(),
        }

    def _provenance(self) -> dict[str, str]:
        dataset, parts = self.prepared.dataset, self.prepared.parts
        return {
            "data": f"{dataset.source}, {dataset.extent} ({len(dataset.skipped)} skipped)",
            "fingerprint (SHA-256)": dataset.fingerprint(),
            "rows": f"{len(parts.train):,} train, {min(len(parts.validation), JUDGING_ROWS):,} validate, "
            f"{len(self.prepared.heldout):,} judge" + (f"; {self.prepared.left_out}" if self.prepared.left_out else ""),
            "sequences": f"{len(self.prepared.codec.columns)} values each, codec {self.prepared.codec.name}",
            "training": f"{self.state.seen:,} sequences in {self.state.seconds:.0f} s on {self.device_name}",
            "MLflow run": self.tracker.run_id or "unknown when this was written; mlflow.json names it",
            "finished": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            "libraries": ", ".join(f"{name} {number}" for name, number in _libraries().items()),
            "configuration": " ".join(self.config.to_json().split()),
        }

    def _print_rows(self, shipped: artifact.Artifact) -> None:
        prepared, codec = self.prepared, shipped.codec
        generated = _lines(codec, shipped.sample(PRINTED_ROWS, EVALUATION_SEED))
        if isinstance(codec, TokensCodec):
            real = prepared.dataset.take(prepared.parts.heldout[:PRINTED_ROWS])
            plain = shipped.sample(PRINTED_ROWS, EVALUATION_SEED, temperature=LOW_TEMPERATURE)
            shown = {
                "real texts": [" ".join(text.split()) for text in real],  # decoded, they would lack unknown words
                "generated texts": generated,
                f"at temperature {LOW_TEMPERATURE}, plainer and less varied": _lines(codec, plain),
            }
        else:
            shown = {"real rows": _lines(codec, prepared.heldout[:PRINTED_ROWS]), "generated rows, rounded": generated}
        for title, lines in shown.items():
            log.info("\n%s:\n%s", title, "\n".join(f"  {line.translate(SHOWN_SAFELY)}" for line in lines))

    def _show(self, tick: Tick, scores: dict[str, float]) -> None:
        """Move the bar; without a terminal, say a line now and then instead."""
        shown = {"G": tick.losses["generator_loss"], "D": tick.losses["discriminator_loss"]}
        shown |= {"validation": scores["score"]} if scores else {}
        self.bar.set_postfix(
            {**{name: f"{value:.3f}" for name, value in shown.items()}, "epoch": f"{tick.epoch:.0f}"}, refresh=False
        )
        percent = self._percent(tick)
        self.bar.update(percent - self.bar.n)
        if self.config.preset == "textbook":
            self._show_textbook(tick)
        elif self.bar.disable and time.monotonic() - self.printed_at > LOG_SECONDS:
            self.printed_at = time.monotonic()
            line = ", ".join(f"{name} {value:.3f}" for name, value in shown.items())
            log.info(
                "%3.0f %%  epoch %.0f  %s  %s sequences/s",
                percent,
                tick.epoch,
                line,
                f"{tick.sequences_per_second:,.0f}",
            )

    def _percent(self, tick: Tick) -> float:
        """How much of the epochs or of the minutes is used up, whichever is more; the last tick ends a little late."""
        shares = []
        if self.config.epochs is not None:
            shares.append(tick.epoch / self.config.epochs)
        if self.config.max_minutes is not None:
            shares.append(tick.seconds / self._seconds(self.kind.game_share))
        return min(100.0, 100 * max(shares))

    def _show_textbook(self, tick: Tick) -> None:
        epoch = round(tick.epoch)
        if epoch % TEXTBOOK_PRINT_EPOCHS == 0 and tick.seen == epoch * len(self.prepared.rows):
            losses = tick.last_losses
            log.info(
                "Epoch %d/%d:\t Generator loss: %s\t Discriminator loss: %s",
                epoch, self.config.epochs, losses["generator_loss"], losses["discriminator_loss"],
            )  # fmt: skip


def _bar(title: str) -> "tqdm[Any]":
    """A bar of percents, where there is a terminal."""
    return tqdm(total=100.0, desc=title, bar_format=BAR, disable=None, leave=False)


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and SIGTERM into a question that the loop asks after each step; a second one ends at once."""
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
    """Everything that is said also goes to the run's log, with the time."""
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


def _lines(codec: Codec, codes: Tensor) -> list[str]:
    """Rows to be printed: as text where there is any, else their first values."""
    more = " …" * (codes.shape[1] > PRINTED_VALUES)
    return codec.decode(codes) or [" ".join(map(str, row[:PRINTED_VALUES])) + more for row in codes.tolist()]


def _libraries() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in ("torch", "numpy", "mlflow")}}


def _device_name(config: Config) -> str:
    number = distributed.world_size()
    if config.device == "cuda":
        return ("" if number == 1 else f"{number} x ") + torch.cuda.get_device_name()
    together = "" if number == 1 else f"{number} processes of "
    threads = "1 thread" if config.threads == 1 else f"{config.threads} threads"
    return f"{platform.processor() or platform.machine()} CPU, {together}{threads}"
