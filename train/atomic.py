"""Files and folders that appear whole or not at all, and JSONL files that a crash may have cut off."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Replace a file's text; a crash leaves the old text or the new one."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """`write_text`, for bytes."""
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
        _name(problem, path)
        raise


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """`replacing`, for an empty folder to fill.

    Raises:
        OSError: as the block raised it, but naming `path`.
    """
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a job that was killed
    try:
        partial.mkdir()
        yield partial
        shutil.rmtree(path, ignore_errors=True)
        partial.rename(path)
    except BaseException as problem:
        shutil.rmtree(partial, ignore_errors=True)
        _name(problem, path)
        raise


def _name(problem: BaseException, path: Path) -> None:
    """Let what the system says name the file that people know."""
    if isinstance(problem, OSError) and problem.errno is not None:
        problem.filename = str(path)


def keep_lines(path: Path, wanted: Callable[[dict[str, Any]], bool] = lambda line: True) -> int:
    """Drop the lines of a JSONL file that are not wanted, and a last one that a crash has cut off.

    Returns:
        How many are left.
    """
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if line.endswith("\n") and wanted(json.loads(line))]
    if kept != lines:
        write_text(path, "".join(kept))
    return len(kept)
