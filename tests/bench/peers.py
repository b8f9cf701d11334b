"""Peers bench: quality, time and memory of other tabular generators with default settings, compared with Lookalike.

Each peer is installed into its own environment under --out; none is a dependency of this project. Each learns from the
same rows as the GAN (training and validation rows) in a separate process, and is judged on the same held-out rows.
Time and memory of `lookalike` cover all of `python -m train fit`, including judging and the report.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch

from tests.bench import tables
from tests.bench.quality import SETS
from tests.memory import from_bare_process, reported
from train import metrics, prepare, rundir
from train.config import resolve
from train.prepare import Prepared

OURS = "lookalike"
PACKAGES = {"mostlyai": "mostlyai-engine==2.7.3", "ctgan": "ctgan==0.12.1"}
ALL = (OURS, *PACKAGES)
SHOWN = {"c2st_auc": 3, "correlation_ratio": 2, "triple_ratio": 2, "marginal_ratio": 2, "copy_excess": 3}
WORKER = Path(__file__).with_name("peer_worker.py")

Scores = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of a process: wall-clock seconds and peak memory in MiB."""

    seconds: float
    memory: float


@click.command()
@click.option("--sets", multiple=True, type=click.Choice(SETS), default=SETS, show_default=True)
@click.option("--peers", multiple=True, type=click.Choice(ALL), default=ALL, show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True)
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=2.0, show_default=True, help="Of ours.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/bench/peers"), show_default=True)
@click.option("--write", is_flag=True, help="Only put what was measured last, set by set, into train/RESULTS.md.")
def main(sets: Sequence[str], peers: Sequence[str], seeds: int, minutes: float, out: Path, write: bool) -> None:
    """Measure and print the table."""
    if not write:
        out.mkdir(parents=True, exist_ok=True)
        for peer in peers:
            for name in sets:
                found = [_measure(peer, name, seed, minutes, out.absolute()) for seed in tables.numbers(seeds)]
                caption = f"{tables.conditions(seeds)}; at most {minutes:g} minutes of training for ours"
                kept = {"caption": caption, "name": PACKAGES.get(peer, OURS), "scores": found}
                _kept(out, name, peer).write_text(json.dumps(kept, indent=1) + "\n")
    made = {name: _captioned_table(name, out) for name in SETS if any(_kept(out, name, peer).exists() for peer in ALL)}
    print(tables.captioned(made))
    if write:
        if not made:
            raise click.ClickException("--write: nothing was measured here yet")
        tables.put("peers", made)


def _captioned_table(name: str, out: Path) -> tuple[str, str]:
    """The caption and table of a set, with a row for each measured peer.

    Raises:
        ClickException: peers were measured under different conditions, so they cannot share a table.
    """
    kept = [json.loads(file.read_text()) for peer in ALL if (file := _kept(out, name, peer)).exists()]
    if len({each["caption"] for each in kept}) > 1:
        lines = "\n".join(f"  {each['name']}: {each['caption']}" for each in kept)
        raise click.ClickException(f"{name}: measure all of them again under the same conditions; there are\n{lines}")
    return kept[0]["caption"], _table(name, {each["name"]: each["scores"] for each in kept})


def _kept(out: Path, name: str, peer: str) -> Path:
    return out / f"{name}-{peer}.json"


def _measure(peer: str, name: str, seed: int, minutes: float, out: Path) -> Scores:
    options = {
        "data": name, "codec": "presence" if name == "movie-reviews" else "auto", "seed": seed, "split_seed": seed,
        "holdout": 0.5, "max_minutes": minutes, "baselines": "none", "out": str(out / OURS / f"{name}-{seed}"),
        "gate": "none",
    }  # fmt: skip
    if peer == OURS:
        scores, cost = _ours(options)
    else:
        scores, cost = _theirs(peer, prepare.prepare(resolve(options)), out)
    shown = {metric: scores[metric] for metric in SHOWN if scores.get(metric) is not None}
    print(
        f"{peer} on {name}, seed {seed}: AUC {shown['c2st_auc']:.3f}, {cost.seconds:.0f} s", file=sys.stderr, flush=True
    )
    return {**shown, "seconds": cost.seconds, "memory": cost.memory}


def _ours(options: dict[str, Any]) -> tuple[dict[str, Any], Cost]:
    arguments = [f"--{option.replace('_', '-')}={value}" for option, value in options.items()]
    cost = _run([sys.executable, "-m", "train", "fit", *arguments])
    found = json.loads(rundir.newest(Path(options["out"])).metrics.read_text())
    return found["scores"][found["shipped"]], cost


def _theirs(peer: str, prepared: Prepared, out: Path) -> tuple[dict[str, Any], Cost]:
    python = _install(peer, out)
    learned = torch.cat([prepared.train, prepared.validation]).numpy()
    heldout, train = prepared.heldout.numpy(), prepared.train.numpy()
    with tempfile.TemporaryDirectory(dir=out) as folder:
        source, target, workspace = (Path(folder) / each for each in ("train.csv", "synthetic.csv", "workspace"))
        header = ",".join(f"x{i}" for i in range(learned.shape[1]))
        np.savetxt(source, learned, fmt="%d", delimiter=",", header=header, comments="")
        rows = str(len(heldout))
        cost = _run([str(python), str(WORKER), peer, str(source), str(target), rows, str(workspace)])
        synthetic = _read(target)
    return metrics.compare(synthetic, heldout, train, validation=prepared.validation.numpy()), cost


def _read(file: Path) -> npt.NDArray[np.uint8]:
    """Rows of 0 and 1; empty cells, which a peer may generate, count as 0."""
    return np.nan_to_num(np.genfromtxt(file, delimiter=",", skip_header=1)).astype(np.uint8)


def _install(peer: str, out: Path) -> Path:
    """The Python of the peer's environment, which is created if missing or outdated, with the same torch as ours."""
    folder = out / f"venv-{peer}"
    python, ready = folder / "bin" / "python", folder / ".ready"
    versions = f"{PACKAGES[peer]}, torch {torch.__version__}"
    if not ready.exists() or ready.read_text() != versions:
        print(f"installing {PACKAGES[peer]} into {folder}", file=sys.stderr, flush=True)
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        _run([str(python), "-m", "pip", "install", "--quiet", f"torch=={torch.__version__.split('+')[0]}"])
        _run([str(python), "-m", "pip", "install", "--quiet", PACKAGES[peer]])
        # Their CUDA builds do not load with a CPU build of torch, and tabular rows need neither.
        _run([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision", "torchaudio"])
        ready.write_text(versions)
    return python


def _run(command: list[str]) -> Cost:
    """Run a command to its end and return its cost.

    Raises:
        ClickException: the command failed; the message ends with the last line of its output.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "peak")
        done = subprocess.run(from_bare_process(command, report), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            last = (done.stdout.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
            raise click.ClickException(f"{' '.join(command[:5])} … failed ({done.returncode}): {last}")
        return Cost(seconds=time.monotonic() - started, memory=reported(report))


def _table(name: str, kept: Mapping[str, list[Scores]]) -> str:
    """The table of a set, with a row for each peer: mean and standard deviation over the seeds."""
    lines = [f"| {name} | {' | '.join(SHOWN)} | seconds | MiB |", "|---" * (len(SHOWN) + 3) + "|"]
    columns = {**SHOWN, "seconds": 0, "memory": 0}
    for peer, scores in kept.items():
        cells = [tables.cell([each[metric] for each in scores if metric in each], n) for metric, n in columns.items()]
        lines.append(f"| {peer} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
