"""Checkpoints: the whole training state in one file that is either complete or not there.

A file is named by a running number and by the hash of its content, so that a torn or damaged one is recognised and the
newest good one found. Reading unpickles nothing but tensors and plain values (torch's weights_only).
"""

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import torch

from train import atomic
from train.errors import InputError

FORMAT = 9  # changes when a state's content, or the way training resumes from it, changes
NAME = re.compile(r"(\d{6,})-[0-9a-f]{16}\.pt")  # other files there are not ours to read or delete


def save(directory: Path, state: dict[str, Any]) -> Path:
    """Write a checkpoint that survives a crash at any moment; of the older ones only the newest good one stays."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    content = buffer.getvalue()
    directory.mkdir(parents=True, exist_ok=True)
    number = max(map(_number, _newest_first(directory)), default=0) + 1
    path = directory / f"{number:06d}-{_digest(content)}.pt"
    atomic.write_bytes(path, content)
    older = _newest_first(directory)[1:]
    spare = next(filter(_is_good, older), None)
    for old in older:
        if old != spare:
            old.unlink()
    return path


def load_newest(directory: Path) -> dict[str, Any] | None:
    """The content of the newest good checkpoint, or None.

    Raises:
        InputError: another version of this program wrote it, in another format.
    """
    path = newest(directory)
    if path is None:
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if state.pop("format", None) != FORMAT:
        raise InputError(
            f"--resume: another version of Lookalike wrote {path}, and this one cannot read it: resume with the "
            "version that started the run, or start a new run without --resume"
        )
    return state


def newest(directory: Path) -> Path | None:
    """The newest checkpoint whose content matches the hash in its name, or None."""
    return next(filter(_is_good, _newest_first(directory)), None)


def _is_good(path: Path) -> bool:
    return path.stem.endswith(f"-{_digest(path.read_bytes())}")


def _newest_first(directory: Path) -> list[Path]:
    return sorted(filter(_number, directory.glob("*.pt")), key=lambda path: (_number(path), path.name), reverse=True)


def _number(path: Path) -> int:
    """The running number in a checkpoint's name, from 1 on; 0 for any other file."""
    match = NAME.fullmatch(path.name)
    return int(match[1]) if match else 0


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
