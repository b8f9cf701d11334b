"""The run directory: where a run keeps its files, and how runs are numbered and found."""

import re
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from train import ARCHIVE, ARTIFACT, RUN_NAME, atomic
from train.errors import InputError


@dataclass
class RunDirectory:
    """The places inside one run directory, such as runs/00007-movie-reviews-presence."""

    path: Path

    def __post_init__(self) -> None:
        if self.path.name in ("", ".."):  # relative paths like "." hide the run's name and its neighbours
            self.path = self.path.resolve()
        self.config = self.path / "config.json"
        self.log = self.path / "log.txt"
        self.stats = self.path / "stats.jsonl"
        self.system = self.path / "system.jsonl"
        self.tracking = self.path / "mlflow.json"
        self.checkpoints = self.path / "checkpoints"
        self.artifact = self.path / ARTIFACT
        self.samples = self.path / "samples.csv"
        self.metrics = self.path / "metrics.json"
        self.summary = self.path / "summary.md"
        self.report = self.path / "report.html"
        self.plots = self.path / "plots"
        self.archive = self.path / ARCHIVE

    @property
    def number(self) -> int:
        match = RUN_NAME.fullmatch(self.path.name)
        assert match, self.path
        return int(match[1])


def create(out: Path, name: str, config: str) -> RunDirectory:
    """Create the next run directory under `out`, together with its config.json, or not at all.

    Two jobs that start at once get different numbers.

    Raises:
        InputError: nothing can be written there.
    """
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)  # what runs leave is as private as the data
        with FileLock(out / ".lock"):
            number = max((run.number for run in existing(out)), default=0) + 1
            path = out / f"{number:05d}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}"
            with atomic.replacing_folder(path) as partial:
                atomic.write_text(partial / "config.json", config)
    except OSError as problem:
        raise InputError(f"--out {out}: {problem.strerror or problem}; nothing was started") from problem
    return RunDirectory(path)


def newest(out: Path) -> RunDirectory:
    """The run with the highest number, or `out` itself if that is a run or a link to one.

    Raises:
        InputError: there is none.
    """
    for itself in (RunDirectory(out), RunDirectory(out.resolve())):
        if RUN_NAME.fullmatch(itself.path.name) and itself.config.is_file():
            return itself
    runs = existing(out)
    if not runs and (out / "config.json").is_file():
        raise InputError(f"--out {out}: this run was renamed, but its name must be like 00001-digits-bits")
    if not runs:
        raise InputError(f"--out {out}: there is no run; train one with: make train")
    return max(runs, key=lambda run: run.number)


def existing(out: Path) -> list[RunDirectory]:
    return [RunDirectory(path) for path in out.glob("*") if path.is_dir() and RUN_NAME.fullmatch(path.name)]
