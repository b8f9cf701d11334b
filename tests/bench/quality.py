"""Quality bench: the GAN, every baseline and the floor on four data sets, several seeds, mean and spread.

Every cell comes from whole training jobs as `python -m train fit` runs them, with the same options for all sets; half
of the rows judge. Prints the table and, with --write, puts it into the README between its markers.
"""

import datetime
import json
import os
import platform
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
import torch

from train import fit
from train.config import resolve
from train.evidence import SHOWN

SETS = ("digits", "movie-reviews", "chain", "topics")
README = Path(__file__).parents[2] / "README.md"
START, END = "<!-- quality: start -->", "<!-- quality: end -->"

Scores = dict[str, dict[str, list[float]]]  # contender -> metric -> one value a seed


@click.command()
@click.option("--sets", multiple=True, type=click.Choice(SETS), default=SETS, show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=3.0, show_default=True)
@click.option("--baselines", type=click.Choice(["fast", "all"]), default="all", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/bench"), show_default=True)
@click.option("--write", is_flag=True, help="Only put what was measured last, set by set, into the README.")
def main(sets: tuple[str, ...], seeds: int, minutes: float, baselines: str, out: Path, write: bool) -> None:
    """Measure and print the table."""
    if write:
        _write([json.loads(_kept(out, name).read_text()) for name in SETS if _kept(out, name).exists()])
        return
    for name in sets:
        caption = f"{_machine()}; {seeds} seeds, each with its own split; at most {minutes:g} minutes of training"
        measured = {"set": name, "caption": caption, "scores": _measure(name, seeds, minutes, baselines, out)}
        _kept(out, name).write_text(json.dumps(measured, indent=1) + "\n")
        print(f"{caption}\n\n{_table(name, measured['scores'])}\n", flush=True)


def _kept(out: Path, name: str) -> Path:
    return out / f"quality-{name}.json"


def _write(measured: list[dict[str, Any]]) -> None:
    """Replace the table in the README; sets that were measured under the same conditions share a caption."""
    parts: list[str] = []
    for each in measured:
        if each["caption"] not in parts:
            parts.append(each["caption"])
        parts.append(_table(each["set"], each["scores"]))
    before, rest = README.read_text().split(START)
    README.write_text(before + START + "\n" + "\n\n".join(parts) + "\n" + END + rest.split(END)[1])


def _measure(name: str, seeds: int, minutes: float, baselines: str, out: Path) -> Scores:
    scores: Scores = defaultdict(lambda: defaultdict(list))
    for seed in range(seeds):
        given = {
            "data": name, "codec": "presence" if name == "movie-reviews" else "auto", "seed": seed, "split_seed": seed,
            "holdout": 0.5, "max_minutes": minutes, "baselines": baselines, "out": str(out), "gate": "none",
        }  # fmt: skip
        outcome = fit.fit(resolve(given))
        found = json.loads(outcome.run.metrics.read_text())["scores"]
        for contender, values in found.items():
            for metric in SHOWN:
                if values.get(metric) is not None:
                    scores[contender][metric].append(values[metric])
        print(f"{name}, seed {seed}: AUC {found['GAN']['c2st_auc']:.3f}", file=sys.stderr, flush=True)
    return scores


def _table(name: str, scores: Scores) -> str:
    shown = [metric for metric in SHOWN if any(metric in values for values in scores.values())]
    lines = [f"| {name} | {' | '.join(shown)} |", "|---" * (len(shown) + 1) + "|"]
    for contender, values in scores.items():
        cells = [_cell(values.get(metric, []), SHOWN[metric][1]) for metric in shown]
        lines.append(f"| {contender} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: list[float], decimals: int) -> str:
    """Mean and standard deviation over the seeds."""
    if not values:
        return "-"
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{decimals}f} ± {spread:.{decimals}f}"


def _machine() -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    day = datetime.datetime.now(tz=datetime.UTC).date()
    return f"Measured on {day}: {device} ({platform.machine()}), torch {torch.__version__}"


if __name__ == "__main__":
    main()
