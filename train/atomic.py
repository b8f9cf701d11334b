"""Files and folders that appear whole or not at all, and JSONL files that a crash may have cut off.

This module is a LEAF (see train/__init__.py).
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}\.partial")  # hidden, so that whatever reads the folder skips it
LEFT_SECONDS = 3600  # a partial file that has not changed for this long is abandoned


def write_text(path: Path, text: str) -> None:
    """Replace a file's text; a crash leaves the old text or the new one."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """`write_text`, for bytes."""
    clear(path.parent)
    with replacing(path) as partial:
        partial.write_bytes(content)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write, which replaces `path` on success and is removed on failure.

    Its name is unique: if two jobs write the same file at once, the one that finishes last wins. What a killed job
    leaves behind is removed by `clear`.

    Raises:
        OSError: as the block raised it, but naming `path`.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        _to_disk(partial)
        partial.replace(path)
    except BaseException as problem:
        with contextlib.suppress(OSError):  # a read-only folder, say, of which `problem` tells
            partial.unlink()
        _name(problem, path)
        raise


def clear(folder: Path) -> None:
    """Remove the partial files that killed jobs have left.

    They are recognised by age, not by process id: a job may run on another machine, or in a container with process ids
    of its own.
    """
    for partial in folder.glob(".*.partial"):
        with contextlib.suppress(OSError):  # it was just finished, or removed by another job
            if PARTIAL.fullmatch(partial.name) and partial.stat().st_mtime < time.time() - LEFT_SECONDS:
                partial.unlink()


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """`replacing` for a folder, empty at first. The caller must hold a lock: the temporary name is always the same.

    An existing folder is moved aside first. A kill between the two renames leaves nothing at `path`; the old folder
    then stays beside it until the next replacement.

    Raises:
        OSError: as the block raised it, but naming `path`.
    """
    partial, old = (path.with_name(f".{path.name}.{what}") for what in ("partial", "old"))
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed job
    try:
        partial.mkdir()
        yield partial
        for file in filter(Path.is_file, partial.rglob("*")):
            _to_disk(file)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        partial.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as problem:
        shutil.rmtree(partial, ignore_errors=True)
        _name(problem, path)
        raise


def _to_disk(path: Path) -> None:
    """Flush a file to disk: otherwise, after a power loss, its new name may point at half of the content."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _name(problem: BaseException, path: Path) -> None:
    """Make a system error name the final path instead of the temporary one."""
    if isinstance(problem, OSError) and problem.errno is not None:
        problem.filename = str(path)


def keep_lines(path: Path, wanted: Callable[[dict[str, Any]], bool] = lambda line: True) -> int:
    """Drop the lines of a JSONL file that are not wanted, and a last line that a crash has cut off.

    Returns:
        How many lines are left.
    """
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if line.endswith("\n") and wanted(json.loads(line))]
    if kept != lines:
        write_text(path, "".join(kept))
    return len(kept)
