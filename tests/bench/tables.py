"""Shared by the benches: running jobs, mean and spread over seeds, and tables in train/RESULTS.md and the README."""

import datetime
import json
import os
import platform
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
import torch

from train import CARD, fit, rundir
from train.config import resolve
from train.evidence import SHOWN
from train.rundir import RunDirectory

ROOT = Path(__file__).parents[2]
RESULTS, README = ROOT / "train" / "RESULTS.md", ROOT / "README.md"
# The columns of the README's summary table: contender -> heading.
SUMMARY = {
    "GAN": "Lookalike",
    "Gaussian copula": "Gaussian copula",
    "autoregressive": "autoregressive",
    "RNN": "RNN",
    "mostlyai-engine": "mostlyai-engine",
    "ctgan": "CTGAN",
    "floor": "fresh real rows",
}
FIRST_SEED = 500  # lower seeds were used to choose designs, so tables of them would be biased in our favour

Scores = dict[str, dict[str, list[float]]]  # contender -> metric -> one value per seed


def job(given: Mapping[str, Any]) -> RunDirectory:
    """Run a training job as `python -m train fit` does.

    A finished run in the same folder is reused if it has the same options and was started with the current code, data
    and torch, so that an interrupted bench can continue.
    """
    sources = [*Path(fit.__file__).parent.glob("*.py"), Path(given["data"])]
    changed = max(file.stat().st_mtime for file in sources if file.exists())
    for run in rundir.existing(Path(given["out"])):
        if _is_current(run, changed) and given.items() <= json.loads(run.config.read_text("utf-8")).items():
            return run
    outcome = fit.fit(resolve(given))
    assert outcome is not None, "benches run without torchrun"
    return outcome.run


def _is_current(run: RunDirectory, changed: float) -> bool:
    """Whether the run has finished, and was started after the time `changed` with the current version of torch."""
    if not run.metrics.exists() or run.config.stat().st_mtime <= changed:
        return False
    libraries: dict[str, str] = json.loads((run.artifact / CARD).read_text())["libraries"]
    return libraries["torch"] == torch.__version__


def gather(jobs: Iterable[Mapping[str, Mapping[str, Any]]]) -> Scores:
    """Collect the metrics shown in tables from the scores of jobs with different seeds."""
    scores: Scores = defaultdict(lambda: defaultdict(list))
    for found in jobs:
        for contender, values in found.items():
            for metric in SHOWN:
                if values.get(metric) is not None:
                    scores[contender][metric].append(values[metric])
    return scores


def table(name: str, scores: Scores) -> str:
    """A Markdown table with a row for each contender: mean and standard deviation over the seeds."""
    shown = [metric for metric in SHOWN if any(metric in values for values in scores.values())]
    lines = [f"| {name} | {' | '.join(shown)} |", "|---" * (len(shown) + 1) + "|"]
    for contender, values in scores.items():
        cells = [cell(values.get(metric, []), SHOWN[metric][1]) for metric in shown]
        lines.append(f"| {contender} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(values: list[float], decimals: int) -> str:
    """Mean and standard deviation over the seeds; only the mean if there is one seed."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):z.{decimals}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{decimals}f}"


def machine(day: datetime.date | None = None, *, with_gpu: bool = True) -> str:
    """The date (by default today), hardware and torch version of a measurement."""
    is_gpu = with_gpu and torch.cuda.is_available()
    device = torch.cuda.get_device_name() if is_gpu else f"{os.cpu_count()} CPU cores"
    day = day or datetime.datetime.now(tz=datetime.UTC).date()
    return f"Measured on {day}: {device} ({platform.machine()}), torch {torch.__version__}"


def numbers(seeds: int) -> range:
    """The seeds of the jobs and of their splits."""
    return range(FIRST_SEED, FIRST_SEED + seeds)


def conditions(seeds: int, day: datetime.date | None = None) -> str:
    """The date, hardware and seeds of a measurement."""
    named = ", ".join(map(str, numbers(seeds)))
    seeds_and_splits = f"seed {named}, with its own split" if seeds == 1 else f"seeds {named}, each with its own split"
    return f"{machine(day)}; {seeds_and_splits}"


def measure(path: Path, name: str, given: Mapping[str, Any], *, seeds: int, minutes: float, note: str = "") -> None:
    """Run a job for each seed, with its own split and half of the rows held out; print the table and save it.

    Args:
        path: the JSON file that `write` reads.
        name: the name of the data set in the table.
        given: options of all jobs.
        note: an addition to the caption.
    """
    shared = {"holdout": 0.5, "max_minutes": minutes, "out": str(path.parent), "gate": "none", **given}
    jobs, ended = [], 0.0
    for seed in numbers(seeds):
        run = job({**shared, "seed": seed, "split_seed": seed})
        jobs.append(json.loads(run.metrics.read_text())["scores"])
        ended = max(ended, run.metrics.stat().st_mtime)
        judged = {contender: cell(found.get("c2st_auc", []), 3) for contender, found in gather(jobs[-1:]).items()}
        print(f"{name}, seed {seed}, AUC: {judged}", file=sys.stderr, flush=True)
    scores, day = gather(jobs), datetime.datetime.fromtimestamp(ended, tz=datetime.UTC).date()
    caption = f"{conditions(seeds, day)}; at most {minutes:g} minutes of training{note}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"set": name, "caption": caption, "scores": scores}, indent=1) + "\n")
    print(f"{caption}\n\n{table(name, scores)}\n", flush=True)


def write(mark: str, kept: Iterable[Path]) -> None:
    """Put the measured tables into RESULTS.md, replacing the tables of the same sets and keeping all others.

    Raises:
        ClickException: nothing was measured.
    """
    measured = [json.loads(path.read_text()) for path in kept if path.exists()]
    if not measured:
        raise click.ClickException("--write: nothing was measured here yet")
    put(mark, {each["set"]: (each["caption"], table(each["set"], each["scores"])) for each in measured})


def put(mark: str, tables: Mapping[str, tuple[str, str]]) -> None:
    """Put captions and tables, by set, between the marks named `mark` in RESULTS.md, and a summary into the README."""
    there = _section(RESULTS.read_text(), mark)
    _replace(RESULTS, mark, captioned({**_tables(there), **tables}))
    _replace(README, "summary", summary(RESULTS.read_text()))


def summary(results: str) -> str:
    """A Markdown table of `c2st_auc` from all tables of RESULTS.md, with a row for each set."""
    rows: dict[str, dict[str, str]] = {}
    for mark, label in (("quality", ""), ("peers", ""), ("text", ", whole texts")):
        for name, (_, content) in _tables(_section(results, mark)).items():
            header, _, *lines = [line.strip("| ").split(" | ") for line in content.splitlines()]
            found = {cells[0].split("==")[0]: cells[header.index("c2st_auc")] for cells in lines}
            rows.setdefault(name + label, {}).update(found)
    shown = [f"| AUC | {' | '.join(SUMMARY.values())} |", "|---" * (len(SUMMARY) + 1) + "|"]
    for name, found in rows.items():
        shown.append(f"| {name} | {' | '.join(found.get(contender, '-') for contender in SUMMARY)} |")
    return "\n".join(shown)


def _marks(mark: str) -> tuple[str, str]:
    return f"<!-- {mark}: start -->\n", f"\n<!-- {mark}: end -->"


def _section(page: str, mark: str) -> str:
    start, end = _marks(mark)
    return page.split(start)[1].split(end)[0]


def _replace(page: Path, mark: str, section: str) -> None:
    start, end = _marks(mark)
    before, rest = page.read_text().split(start)
    page.write_text(before + start + section + end + rest.split(end)[1])


def _tables(section: str) -> dict[str, tuple[str, str]]:
    """The caption and table of each set in a section that `captioned` wrote."""
    found, caption = {}, ""
    for part in filter(None, section.split("\n\n")):
        if part.startswith("| "):
            found[part.split(" | ")[0].removeprefix("| ")] = caption, part
        else:
            caption = part
    return found


def captioned(tables: Mapping[str, tuple[str, str]]) -> str:
    """Captions and tables as paragraphs; adjacent tables with the same caption share it."""
    parts, last = [], None
    for caption, content in tables.values():
        parts += [content] if caption == last else [caption, content]
        last = caption
    return "\n\n".join(parts)
