"""What a job ships after training, and the report on it."""

import copy
import json
import logging
import platform
import time
from importlib.metadata import version
from typing import Any

from train import MODEL_NAME, artifact, atomic, console, cpus, evidence, figures, gate, report, writers
from train.codec import TokensCodec
from train.evidence import Evidence
from train.gate import Verdict
from train.generator import Generator, sample_labelled
from train.job import Game, Job
from train.kinds import EVALUATION_SEED
from train.prepare import JUDGING_ROWS

log = logging.getLogger("lookalike")

SAMPLE_ROWS = 1000


def ship(game: Game) -> Verdict:
    """Judge the chosen generator and write the artifact, samples, evidence and report."""
    job, run, codec = game.job, game.job.run, game.job.prepared.codec
    generator = _chosen(game)
    started = time.monotonic()
    job.kind.complete(generator, game.warm)
    found = job.kind.judge(generator, game.warm, game.state.seconds + time.monotonic() - started)
    scores = found.scores[found.shipped]
    limits = gate.read(job.config.gate, texts=found.texts is not None)
    verdict = gate.check(limits, scores, _simple(found))

    run.metrics.unlink(missing_ok=True)  # a run that is judged again is unfinished until the end
    shipped = artifact.save(run.artifact, generator, codec, _card(job, scores, verdict))
    shown = sample_labelled(shipped.generator, SAMPLE_ROWS, EVALUATION_SEED, each=cpus.in_threads)
    writers.write(run.samples, shown, codec)
    notes = "".join(f"\nNote: {warning}\n" for warning in [_outcome(game), *scores["warnings"]])
    atomic.write_text(run.summary, f"{verdict.sentence}\n\n```\n{evidence.table(found)}\n```\n{notes}")
    _report(game, found, verdict)
    # Last, because it says that the run is finished.
    atomic.write_text(run.metrics, json.dumps({"passed": verdict.passed, **found.to_dict()}, indent=1) + "\n")

    console.print_rows(shipped, job.prepared)
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


def _report(game: Game, found: Evidence, verdict: Verdict) -> None:
    """Write the HTML page, and its pictures as files."""
    job = game.job
    history = [json.loads(line) for line in job.run.stats.read_text().splitlines()]
    page = report.Page(
        title=f"{job.prepared.dataset.name}: how real are the lookalikes?",
        verdict=verdict,
        history=history,
        decode=job.prepared.codec.decode,
        provenance=_provenance(game),
        generator=job.config.generator,
        outcome=_outcome(game),
    )
    pictures = figures.draw(found, history)
    atomic.write_text(job.run.report, report.render(found, page, pictures))
    figures.save(pictures, job.run.plots)


def _outcome(game: Game) -> str:
    """How training ended, and what of it ships, for people."""
    state, rows = game.state, "texts" if isinstance(game.job.prepared.codec, TokensCodec) else "rows"
    if state.is_unimproved:
        again = f", refitted to training and validation {rows}" if game.refitted else ""
        why = f"did not improve its score on validation {rows}" if state.seen else "had no time"
        return f"The warm start ships{again}: the game {why}."
    if state.best:
        best = f"the best score on validation {rows}, {state.best_score:.3f}"
        return f"The generator after {state.best_seen:,} {rows} ships: it had {best}."
    return f"Without validation {rows}, the last weights ship."


def _chosen(game: Game) -> Generator:
    """The generator with the best validation score, or its start if none was better; without validation, the last."""
    state = game.state
    log.info("%s", _outcome(game))
    if state.is_unimproved:
        return copy.deepcopy(game.warm)
    if state.best:
        state.averaged.load_state_dict(state.best)
    return state.averaged


def _card(job: Job, scores: dict[str, Any], verdict: Verdict) -> dict[str, Any]:
    dataset = job.prepared.dataset
    return {
        "name": MODEL_NAME,
        "version": str(job.run.number),
        "run_id": job.tracker.run_id,
        "run": job.run.path.name,
        "data": {"name": dataset.name, "rows": len(dataset), "fingerprint": dataset.fingerprint()},
        "metrics": evidence.numbers(scores),
        "gate": {"passed": verdict.passed, "missed": verdict.missed},
        "libraries": _libraries(),
    }


def _provenance(game: Game) -> dict[str, str]:
    job, prepared = game.job, game.job.prepared
    dataset, parts = prepared.dataset, prepared.parts
    return {
        "data": f"{dataset.source}, {dataset.extent} ({len(dataset.skipped)} skipped)",
        "fingerprint (SHA-256)": dataset.fingerprint(),
        "rows": f"{len(parts.train):,} to train on, {min(len(parts.validation), JUDGING_ROWS):,} to validate, "
        f"{len(prepared.heldout):,} to judge" + (f"; {prepared.left_out}" if prepared.left_out else ""),
        "sequences": f"{len(prepared.codec.columns)} values each, codec {prepared.codec.name}",
        "training": f"{game.state.seen:,} sequences in {game.state.seconds:.0f} s on {job.device_name}",
        "MLflow run": job.tracker.run_id or "unknown when this was written; mlflow.json names it",
        "finished": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "libraries": ", ".join(f"{name} {number}" for name, number in _libraries().items()),
        "configuration": " ".join(job.config.to_json().split()),
    }


def _libraries() -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in ("torch", "numpy", "mlflow")}}
