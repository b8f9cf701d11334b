"""The run directory: where a run keeps its files, and how runs are numbered and found."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from train.config import InputError

NAME = re.compile(r"(\d{5})-.+")


@dataclass
class RunDirectory:
    """The places inside one run directory, such as runs/00007-movie-reviews-presence."""

    path: Path

    def __post_init__(self) -> None:
        self.config = self.path / "config.json"
        self.log = self.path / "log.txt"
        self.stats = self.path / "stats.jsonl"
        self.system = self.path / "system.jsonl"
        self.tracking = self.path / "mlflow.json"
        self.checkpoints = self.path / "checkpoints"
        self.artifact = self.path / "artifact"
        self.samples = self.path / "samples.csv"
        self.metrics = self.path / "metrics.json"
        self.summary = self.path / "summary.md"
        self.report = self.path / "report.html"
        self.plots = self.path / "plots"
        self.archive = self.path / "lookalike.mar"

    @property
    def number(self) -> int:
        match = NAME.fullmatch(self.path.name)
        assert match, self.path
        return int(match[1])


def create(out: Path, name: str, config: str) -> RunDirectory:
    """The next run directory under `out`, which appears with its config.json in it, or not at all.

    Two jobs that start at once get two numbers.

    Raises:
        InputError: nothing can be written there.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / ".lock"):
            number = max((run.number for run in existing(out)), default=0) + 1
            path = out / f"{number:05d}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}"
            partial = path.with_name(f".{path.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            write(partial / "config.json", config)
            partial.rename(path)
    except OSError as problem:
        raise InputError(f"--out {out}: {problem.strerror or problem}; nothing was started") from problem
    return RunDirectory(path)


def newest(out: Path) -> RunDirectory:
    """The run with the highest number, or `out` itself where that is a run.

    Raises:
        InputError: there is none.
    """
    if NAME.fullmatch(out.name) and RunDirectory(out).config.is_file():
        return RunDirectory(out)
    runs = existing(out)
    if not runs:
        raise InputError(f"--out {out}: there is no run; train one with: make train")
    return max(runs, key=lambda run: run.number)


def existing(out: Path) -> list[RunDirectory]:
    return [RunDirectory(path) for path in out.glob("*") if path.is_dir() and NAME.fullmatch(path.name)]


def write(path: Path, text: str) -> None:
    """Replace a file's text; a crash leaves the old text or the new one."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """`write`, for bytes."""
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of `path` when all went well and is removed when something went wrong.

    Raises:
        OSError: as the block raised it, but naming `path`.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException as problem:
        partial.unlink(missing_ok=True)
        if isinstance(problem, OSError) and problem.errno is not None:
            problem.filename = str(path)
        raise


def keep_lines(path: Path, wanted: Callable[[dict[str, Any]], bool] = lambda line: True) -> int:
    """Drop the lines of a JSONL file that are not wanted, and a last one that a crash has cut off.

    Returns:
        How many are left.
    """
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if line.endswith("\n") and wanted(json.loads(line))]
    if kept != lines:
        write(path, "".join(kept))
    return len(kept)
