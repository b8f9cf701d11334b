"""What the benches share: running jobs, mean and spread over seeds, and tables in the README."""

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

import torch

from train import fit, rundir
from train.config import resolve
from train.evidence import SHOWN

README = Path(__file__).parents[2] / "README.md"
FIRST_SEED = 500  # designs were compared on lower ones, whose tables would flatter what was kept

Scores = dict[str, dict[str, list[float]]]  # contender -> metric -> one value a seed


def job(given: Mapping[str, Any]) -> dict[str, Any]:
    """Run a training job as `python -m train fit` does; the content of its metrics.json.

    A job that has ended in the same folder with the same options, and with the code as it is, is not run again: so a
    bench that was cut off goes on.
    """
    changed = max(file.stat().st_mtime for file in Path(fit.__file__).parent.glob("*.py"))
    for run in rundir.existing(Path(given["out"])):
        ended = run.metrics.exists() and run.metrics.stat().st_mtime > changed
        if ended and given.items() <= json.loads(run.config.read_text()).items():
            return json.loads(run.metrics.read_text())
    outcome = fit.fit(resolve(given))
    assert outcome is not None, "benches run without torchrun"
    return json.loads(outcome.run.metrics.read_text())


def gather(jobs: Iterable[Mapping[str, Mapping[str, Any]]]) -> Scores:
    """The metrics that tables show, of all contenders of jobs with different seeds."""
    scores: Scores = defaultdict(lambda: defaultdict(list))
    for found in jobs:
        for contender, values in found.items():
            for metric in SHOWN:
                if values.get(metric) is not None:
                    scores[contender][metric].append(values[metric])
    return scores


def table(name: str, scores: Scores) -> str:
    """A Markdown table, a contender a line; mean and standard deviation over the seeds."""
    shown = [metric for metric in SHOWN if any(metric in values for values in scores.values())]
    lines = [f"| {name} | {' | '.join(shown)} |", "|---" * (len(shown) + 1) + "|"]
    for contender, values in scores.items():
        cells = [cell(values.get(metric, []), SHOWN[metric][1]) for metric in shown]
        lines.append(f"| {contender} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(values: list[float], decimals: int) -> str:
    """Mean and spread of what the seeds gave."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):z.{decimals}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{decimals}f}"


def machine() -> str:
    """When and on what was measured."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    day = datetime.datetime.now(tz=datetime.UTC).date()
    return f"Measured on {day}: {device} ({platform.machine()}), torch {torch.__version__}"


def numbers(seeds: int) -> range:
    """The seeds of the jobs and of their splits."""
    return range(FIRST_SEED, FIRST_SEED + seeds)


def conditions(seeds: int) -> str:
    """When, on what, and with which seeds was measured."""
    named = ", ".join(map(str, numbers(seeds)))
    seeds_and_splits = f"seed {named}, with its own split" if seeds == 1 else f"seeds {named}, each with its own split"
    return f"{machine()}; {seeds_and_splits}"


def measure(path: Path, name: str, given: Mapping[str, Any], *, seeds: int, minutes: float, note: str = "") -> None:
    """Run jobs on a set, a seed and a split each, half of the rows judging; print the table and save it for `write`.

    Args:
        given: options that the jobs share.
        note: what else the caption says of them.
    """
    caption = f"{conditions(seeds)}; at most {minutes:g} minutes of training{note}"
    shared = {"holdout": 0.5, "max_minutes": minutes, "out": str(path.parent), "gate": "none", **given}
    jobs = []
    for seed in numbers(seeds):
        jobs.append(job({**shared, "seed": seed, "split_seed": seed})["scores"])
        judged = {contender: f"{scores['c2st_auc']:.3f}" for contender, scores in jobs[-1].items()}
        print(f"{name}, seed {seed}, AUC: {judged}", file=sys.stderr, flush=True)
    scores = gather(jobs)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"set": name, "caption": caption, "scores": scores}, indent=1) + "\n")
    print(f"{caption}\n\n{table(name, scores)}\n", flush=True)


def write(mark: str, kept: Iterable[Path]) -> None:
    """Put tables into the README; sets measured under the same conditions share a caption."""
    parts: list[str] = []
    for each in (json.loads(path.read_text()) for path in kept if path.exists()):
        if each["caption"] not in parts:
            parts.append(each["caption"])
        parts.append(table(each["set"], each["scores"]))
    put(mark, parts)


def put(mark: str, parts: Iterable[str]) -> None:
    """Put paragraphs into the README, between the marks of that name."""
    start, end = f"<!-- {mark}: start -->", f"<!-- {mark}: end -->"
    before, rest = README.read_text().split(start)
    README.write_text(before + start + "\n" + "\n\n".join(parts) + "\n" + end + rest.split(end)[1])
