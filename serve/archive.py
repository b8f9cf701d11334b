"""The model archive: an artifact and the code that serves it, in one self-contained .mar file.

    handler.py, serve/, train/           the code, unchanged
    generator.safetensors, card.json     the artifact
    model-config.yaml, MAR-INF/          what TorchServe reads, and the SHA-256 of every other file

The format is torch-model-archiver's (a test compares the two). The tool itself is not used: it deletes and reuses a
folder with a fixed name, and writes the time into the result. Here the same artifact and code give the same bytes.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import train
from serve.errors import ArchiveError
from train import CARD, MODEL_NAME, WEIGHTS, atomic

HERE = Path(__file__).resolve().parent
# The only environment variables that an archive's code inherits, when it is proved and when it is served.
KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "JAVA_HOME", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
ARTIFACT_FILES = (WEIGHTS, CARD)
LEAVES = {
    "serve": ("__init__.py", "bearer.py", "drain.py", "request.py", "watch.py"),
    "train": train.LEAVES,
}
CONFIG = "model-config.yaml"
MANIFEST = "MAR-INF/MANIFEST.json"
CHECKSUMS = "MAR-INF/SHA256.json"
ARCHIVER = "0.12.0"  # the torch-model-archiver whose format this is; without it TorchServe warns and advises an upgrade
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can hold
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # becomes part of a file name and of a URL
MAX_UNPACKED_BYTES = 2**31
PROOF_SECONDS = 120.0
# What zipfile raises for a damaged archive, and reading its JSON for a foreign one. A flipped bit may request a zip
# feature that zipfile lacks (NotImplementedError) or a password (RuntimeError).
UNREADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error)
PROOF = """
import sys
sys.path.insert(0, sys.argv[1])
import pathlib
from train import artifact
try:
    artifact.load(pathlib.Path(sys.argv[1]))
except artifact.ArtifactError as problem:
    sys.exit(str(problem).removeprefix(sys.argv[1]).lstrip("/: "))
"""


def build(artifact_directory: Path, mar: Path) -> Path:
    """Pack an artifact into a model archive, replacing an older one, and return the archive's path.

    It is written atomically; the same artifact and code give the same bytes.

    Raises:
        ArchiveError: the directory is not an artifact, its card names no usable version, or the archive cannot be
            written.
    """
    try:
        contents = {name: (artifact_directory / name).read_bytes() for name in ARTIFACT_FILES}
        version = _version(json.loads(contents[CARD]))
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise ArchiveError(f"{artifact_directory}: not an artifact that can be served ({problem})") from problem
    contents |= {name: (HERE / name).read_bytes() for name in ("handler.py", CONFIG)}
    for package, names in LEAVES.items():
        contents |= {f"{package}/{name}": (HERE.parent / package / name).read_bytes() for name in names}
    contents[MANIFEST] = _manifest(version)
    contents[CHECKSUMS] = json.dumps(_checksums(contents), indent=1).encode()
    return _pack(contents, mar)


def kept_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}


def _pack(contents: dict[str, bytes], mar: Path) -> Path:
    mar.parent.mkdir(parents=True, exist_ok=True)
    atomic.clear(mar.parent)
    try:
        with atomic.replacing(mar) as partial, zipfile.ZipFile(partial, "w") as archive:
            for name, content in sorted(contents.items()):
                archive.writestr(zipfile.ZipInfo(name, EPOCH), content, zipfile.ZIP_DEFLATED)
    except OSError as problem:
        raise ArchiveError(f"{mar}: {problem.strerror or problem}") from problem
    return mar


def verify(mar: Path, proved: Path | None = None, seconds: float = 0) -> dict[str, Any]:
    """Prove an archive as a server would use it, and return its card.

    Every file must match the checksum that the archive lists for it, and the archive's own code, run alone in a fresh
    process, must reproduce the artifact's golden samples.

    Args:
        proved: where to write a new archive of exactly the proved files. Zip readers differ: TorchServe would also
            unpack a file that is missing from the zip's table of contents. The files are unpacked beside it, so that
            what a killed process leaves is in one place; without it, among the temporary files.
        seconds: time limit for the golden samples, if longer than `PROOF_SECONDS`.

    Raises:
        ArchiveError: the archive is truncated, altered or not one of ours, or does not reproduce its golden samples.
    """
    contents, limit = _contents(mar), max(seconds, PROOF_SECONDS)
    with _unpacked(mar, contents, None if proved is None else proved.parent) as folder:
        try:
            card: dict[str, Any] = json.loads((folder / CARD).read_text())
            manifest = json.loads((folder / MANIFEST).read_text())["model"]
            if (manifest["modelName"], manifest["modelVersion"]) != (MODEL_NAME, _version(card)):
                raise ValueError("the manifest names another model or version than the card")
            _check_read(card)
        except (OSError, ValueError, KeyError, TypeError) as problem:
            raise ArchiveError(f"{mar}: not a Lookalike model archive ({problem})") from problem
        command = [sys.executable, "-I", "-c", PROOF, str(folder)]
        try:
            proof = subprocess.run(
                command,
                cwd=folder,
                env=kept_environment(),
                capture_output=True,
                text=True,
                timeout=limit,
            )
        except subprocess.TimeoutExpired as problem:
            raise ArchiveError(
                f"{mar}: verifying took longer than {limit:g} s; is the machine busy? "
                "`start --wait-seconds` gives more time"
            ) from problem
    if proof.returncode:
        reason = proof.stderr.strip().splitlines() or [f"exit code {proof.returncode}"]
        raise ArchiveError(f"{mar}: refused, {reason[-1]}")
    if proved:
        _pack(contents, proved)
    return card


def read_card(mar: Path) -> dict[str, Any]:
    """The card in an archive that was proved earlier.

    Raises:
        ArchiveError: the archive has been removed or damaged since.
    """
    try:
        with zipfile.ZipFile(mar) as contents:
            card: dict[str, Any] = json.loads(contents.read(CARD))
    except UNREADABLE as problem:
        raise ArchiveError(f"{mar}: not a complete Lookalike model archive ({problem})") from problem
    return card


def stated_version(source: Path) -> str:
    """The version that an archive or artifact says it is, unproved.

    Raises:
        ArchiveError: it does not say.
    """
    try:
        card = json.loads((source / CARD).read_text()) if source.is_dir() else read_card(source)
        return _version(card)
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise ArchiveError(f"{source}: names no version ({problem})") from problem


def _contents(mar: Path) -> dict[str, bytes]:
    """The archive's files by name, after checking their checksums.

    Raises:
        ArchiveError: the archive cannot be read, is too large, or a checksum does not match.
    """
    try:
        with zipfile.ZipFile(mar) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_UNPACKED_BYTES:
                raise ArchiveError(f"{mar}: refused, it unpacks to more than {MAX_UNPACKED_BYTES:,} bytes")
            contents = {entry: archive.read(entry) for entry in archive.namelist()}
        named = dict(json.loads(contents[CHECKSUMS]))
    except ArchiveError:
        raise
    except UNREADABLE as problem:
        raise ArchiveError(f"{mar}: not a complete Lookalike model archive ({problem})") from problem
    found = _checksums({file: content for file, content in contents.items() if file != CHECKSUMS})
    if found != named:
        differing = min(file for file in found.keys() | named.keys() if found.get(file) != named.get(file))
        raise ArchiveError(f"{mar}: refused, {differing} is not the file that was packed")
    return contents


@contextmanager
def _unpacked(mar: Path, contents: dict[str, bytes], place: Path | None) -> Iterator[Path]:
    """A temporary folder with the archive's files, in `place`."""
    with tempfile.TemporaryDirectory(dir=place, prefix="lookalike-") as name:
        folder = Path(name).resolve()
        for file, content in contents.items():
            path = (folder / file).resolve()
            if not path.is_relative_to(folder):
                raise ArchiveError(f"{mar}: refused, {file} would lie outside its folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        yield folder


def _version(card: dict[str, Any]) -> str:
    version = str(card["version"])
    if not VERSION.fullmatch(version):
        raise ValueError(f"version {version!r} may hold only letters, digits, dot, dash and underscore")
    return version


def _check_read(card: dict[str, Any]) -> None:
    """Check the fields of a card that the server itself reads; the archive's own code, of any version, may not.

    Raises:
        ValueError, KeyError, TypeError: a field is missing or malformed.
    """
    if not card["golden"] or not all(sample["rows"] for sample in card["golden"]):
        raise ValueError("its card has no golden samples to verify it by")
    gate = card.get("gate", {})
    missed = gate.get("missed", []) if isinstance(gate, dict) else None
    if not isinstance(missed, list) or not all(isinstance(limit, str) for limit in missed):
        raise ValueError("its card does not say which limits of the gate it missed")
    if not isinstance(card.get("run_id"), str | None):
        raise ValueError("its card names no run")


def _checksums(contents: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in sorted(contents.items())}


def _manifest(version: str) -> bytes:
    """MANIFEST.json as torch-model-archiver writes it, but with a fixed time."""
    model = {"modelName": MODEL_NAME, "handler": "handler.py", "modelVersion": version, "configFile": CONFIG}
    manifest = {
        "createdOn": "01/01/1980 00:00:00",
        "runtime": "python",
        "model": model,
        "archiverVersion": ARCHIVER,
    }
    return json.dumps(manifest, indent=2).encode()
