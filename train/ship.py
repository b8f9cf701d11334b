"""What a job ships after training, and the report on it."""

import copy
import json
import logging
import platform
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from train import MODEL_NAME, artifact, atomic, console, evidence, gate, report, writers
from train.codec import TokensCodec
from train.config import Config
from train.evidence import Evidence
from train.game import GameState
from train.gate import Verdict
from train.generator import Generator
from train.kinds import EVALUATION_SEED, Kind
from train.prepare import JUDGING_ROWS, Prepared
from train.rundir import RunDirectory
from train.tracking import Tracker

log = logging.getLogger("lookalike")

SAMPLE_ROWS = 1000


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The result of training, and what the card and the report say about the job.

    Attributes:
        state: of the game.
        warm: the generator that the game started from, or the refit that took its place.
        refitted: whether the start was fitted once more, to training and validation rows.
        device_name: where it was trained.
    """

    run: RunDirectory
    config: Config
    prepared: Prepared
    kind: Kind
    tracker: Tracker
    device_name: str
    state: GameState
    warm: Generator
    refitted: bool


def ship(trained: Trained) -> Verdict:
    """Judge the chosen generator and write the artifact, samples, evidence and report."""
    run, codec = trained.run, trained.prepared.codec
    generator = _chosen(trained)
    started = time.monotonic()
    trained.kind.complete(generator, trained.warm)
    found = trained.kind.judge(generator, trained.warm, trained.state.seconds + time.monotonic() - started)
    scores = found.scores[found.shipped]
    limits = gate.read(trained.config.gate, texts=found.texts is not None)
    verdict = gate.check(limits, scores, _simple(found))

    run.metrics.unlink(missing_ok=True)  # a run that is judged again is unfinished until the end
    shipped = artifact.save(run.artifact, generator, codec, _card(trained, scores, verdict))
    writers.write(run.samples, shipped.sample_labelled(SAMPLE_ROWS, EVALUATION_SEED), codec)
    notes = "".join(f"\nNote: {warning}\n" for warning in [_outcome(trained), *scores["warnings"]])
    atomic.write_text(run.summary, f"{verdict.sentence}\n\n```\n{evidence.table(found)}\n```\n{notes}")
    _report(trained, found, verdict)
    # Last, because it says that the run is finished.
    atomic.write_text(run.metrics, json.dumps({"passed": verdict.passed, **found.to_dict()}, indent=1) + "\n")

    console.print_rows(shipped, trained.prepared)
    log.info("\n%s\n", evidence.table(found))
    for warning in scores["warnings"]:
        log.info("Note: %s", warning)
    log.info("%s", verdict.sentence)
    log.info("report: %s", run.report)
    return verdict


def _simple(found: Evidence) -> gate.Simple | None:
    """The baseline that is too simple to pass the gate; None if there are no baselines."""
    if "independent" in found.scores:
        return gate.independent_columns(found.scores["independent"])
    return gate.trigram_counts(found.scores["trigram"]) if "trigram" in found.scores else None


def _report(trained: Trained, found: Evidence, verdict: Verdict) -> None:
    """Write the HTML page, and its pictures as files."""
    history = [json.loads(line) for line in trained.run.stats.read_text().splitlines()]
    page = report.Page(
        title=f"{trained.prepared.dataset.name}: how real are the lookalikes?",
        verdict=verdict,
        history=history,
        decode=trained.prepared.codec.decode,
        provenance=_provenance(trained),
        generator=trained.config.generator,
        outcome=_outcome(trained),
    )
    pictures = report.figures(found, history)
    atomic.write_text(trained.run.report, report.render(found, page, pictures))
    report.save_figures(pictures, trained.run.plots)


def _outcome(trained: Trained) -> str:
    """How training ended, and what of it ships, for people."""
    state, rows = trained.state, "texts" if isinstance(trained.prepared.codec, TokensCodec) else "rows"
    if state.is_unimproved:
        again = f", refitted to training and validation {rows}" if trained.refitted else ""
        why = f"did not improve its score on validation {rows}" if state.seen else "had no time"
        return f"The warm start ships{again}: the game {why}."
    if state.best:
        best = f"the best score on validation {rows}, {state.best_score:.3f}"
        return f"The generator after {state.best_seen:,} {rows} ships: it had {best}."
    return f"Without validation {rows}, the last weights ship."


def _chosen(trained: Trained) -> Generator:
    """The generator with the best validation score, or its start if none was better; without validation, the last."""
    state = trained.state
    if state.is_unimproved:
        log.info("the game did not improve the warm start's validation score: %.3f", state.best_score)
        return copy.deepcopy(trained.warm)
    if state.best:
        log.info("the best validation score came after %s sequences: %.3f", f"{state.best_seen:,}", state.best_score)
        state.averaged.load_state_dict(state.best)
    return state.averaged


def _card(trained: Trained, scores: dict[str, Any], verdict: Verdict) -> dict[str, Any]:
    dataset = trained.prepared.dataset
    return {
        "name": MODEL_NAME,
        "version": str(trained.run.number),
        "run_id": trained.tracker.run_id,
        "run": trained.run.path.name,
        "data": {"name": dataset.name, "rows": len(dataset), "fingerprint": dataset.fingerprint()},
        "metrics": evidence.numbers(scores),
        "gate": {"passed": verdict.passed, "missed": verdict.missed},
        "libraries": _libraries(),
    }


def _provenance(trained: Trained) -> dict[str, str]:
    dataset, parts = trained.prepared.dataset, trained.prepared.parts
    return {
        "data": f"{dataset.source}, {dataset.extent} ({len(dataset.skipped)} skipped)",
        "fingerprint (SHA-256)": dataset.fingerprint(),
        "rows": f"{len(parts.train):,} to train on, {min(len(parts.validation), JUDGING_ROWS):,} to validate, "
        f"{len(trained.prepared.heldout):,} to judge"
        + (f"; {trained.prepared.left_out}" if trained.prepared.left_out else ""),
        "sequences": f"{len(trained.prepared.codec.columns)} values each, codec {trained.prepared.codec.name}",
        "training": f"{trained.state.seen:,} sequences in {trained.state.seconds:.0f} s on {trained.device_name}",
        "MLflow run": trained.tracker.run_id or "unknown when this was written; mlflow.json names it",
        "finished": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "libraries": ", ".join(f"{name} {number}" for name, number in _libraries().items()),
        "configuration": " ".join(trained.config.to_json().split()),
    }


def _libraries() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in ("torch", "numpy", "mlflow")}}
