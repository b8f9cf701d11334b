"""Find the model that an option names, and keep the store of proved archives.

A model is an archive, an artifact, a run directory that holds one, or a name in MLflow's registry, such as
models:/lookalike@champion or models:/lookalike/3. What is served is the proved copy in the store.
"""

import errno
import filecmp
import logging
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeGuard

from serve import archive
from serve import state as states
from serve.errors import ArchiveError, ServeError, UsageError
from train import ARCHIVE, ARTIFACT, CARD, MODEL_NAME, RUN_NAME
from train import store as mlflow_store

FULL = (errno.ENOSPC, errno.EDQUOT)
PROVING = "proving-"  # prefix of the temporary folders in which models are proved
LOADS_NONE = (
    "and without TorchServe's tokens this server loads no models, because any user of this machine could make it load "
    "code: start it with --tokens (or --model-api), or with this --model"
)
REGISTERED = "models:/"  # prefix of names in MLflow's registry


@contextmanager
def located(runs: Path, model: str | None) -> Iterator[Path]:
    """Yield the archive or artifact that `Settings.model` names; one from the registry is downloaded temporarily.

    Raises:
        UsageError: there is no such model.
    """
    if not is_registered(model):
        yield find(runs, model)
        return
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        fetched = _fetch(model, runs, Path(folder))
        try:
            yield fetched
        except ServeError as problem:  # it may name the copy, of which people know nothing and which is gone
            raise type(problem)(str(problem).replace(str(fetched), model)) from problem


def is_registered(model: str | None) -> TypeGuard[str]:
    return model is not None and model.startswith(REGISTERED)


def find(runs: Path, model: Path | str | None) -> Path:
    """The archive or artifact to serve: `model` itself, what it contains, or for None the newest run's archive.

    Raises:
        UsageError: there is no such model.
    """
    if model is None:
        archives = {path: RUN_NAME.fullmatch(path.parent.name) for path in runs.glob(f"*/{ARCHIVE}")}
        numbers = {path: int(match[1]) for path, match in archives.items() if match}
        if not numbers:
            raise UsageError(f"there is no trained model under {runs}; train one with: make train")
        return max(numbers, key=lambda path: numbers[path])
    path = Path(model)
    for candidate in (path / ARCHIVE, path / ARTIFACT, path):
        if candidate.is_file() or (candidate / CARD).is_file():
            return candidate
    raise UsageError(f"{model}: neither an archive, nor a run directory with one, nor an artifact")


def _fetch(name: str, runs: Path, folder: Path) -> Path:
    """Download a registered model into `folder` and return the directory of its artifact.

    The registry is the one that training uses: MLFLOW_TRACKING_URI, or else the database beside the runs.

    Raises:
        UsageError: there is no registry or no such model, MLflow is not installed, cannot be used or has lost the
            files, or the model is not one of ours.
    """
    database, uri = mlflow_store.beside(runs), mlflow_store.store_uri(runs)
    if uri == mlflow_store.file_uri(database) and not database.is_file():
        raise UsageError(f"{name}: there is no registry at {database}; set MLFLOW_TRACKING_URI, or train first")
    mlflow_store.set_defaults()
    try:
        import mlflow  # here, because it takes seconds and most models are files
    except ModuleNotFoundError as problem:
        raise UsageError(
            f"{name}: MLflow is not installed here; name an archive, a run directory or an artifact"
        ) from problem
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # else it prints addresses, with their passwords
    mlflow.set_tracking_uri(uri)
    try:
        mlflow.artifacts.download_artifacts(artifact_uri=name, dst_path=str(folder))
    except Exception as problem:  # MLflow lets through those of its database and of requests
        raise UsageError(f"{name}: {mlflow_store.one_line(problem)}") from problem
    cards = list(folder.rglob(CARD))
    if len(cards) != 1:
        has_files = any(folder.rglob("MLmodel"))  # as every model of MLflow
        reason = "not a Lookalike model: it holds no artifact" if has_files else "MLflow has no files of it any more"
        raise UsageError(f"{name}: {reason}")
    return cards[0].parent


# --- the store -----------------------------------------------------------------------------------------------


def store(runs: Path) -> Path:
    """The folder of the archives that a server for these runs may serve, each named by its version."""
    return states.directory(runs) / "model-store"


def mar_name(version: str) -> str:
    return f"{MODEL_NAME}-{version}.mar"


def proved(
    runs: Path, wanted: str, loaded: Collection[str], tell: Callable[[str], None], only_loaded: bool = False
) -> dict[str, Any]:
    """The card of a version in the store; a model that is not loaded is first proved and put into the store.

    Args:
        wanted: a version, or a model as in `Settings.model`.
        loaded: the versions that the server has loaded, whose archives must not change.
        tell: is called with a line for people before a slow step.
        only_loaded: whether to refuse a version that the server has not loaded, before the model is proved.

    Raises:
        ServeError: there is no such version, it cannot be proved, or its archive in the store has been damaged.
        UsageError: it is not loaded, but `only_loaded`.
    """
    if wanted not in loaded:
        with _of_version(runs, wanted) as source:
            if only_loaded and (version := archive.stated_version(source)) not in loaded:
                raise UsageError(f"version {version} is not loaded, {LOADS_NONE}")
            return put(source, runs, loaded, tell)[1]
    return archive.read_card(store(runs) / mar_name(wanted))


def _of_version(runs: Path, wanted: str) -> AbstractContextManager[Path]:
    """Find a model: a run of that number, else that version in the store, else a run's folder or as `Settings.model`.

    Runs take precedence over the store: a run may have been exported again, or reuse the number of a deleted one.

    Raises:
        UsageError: there is no such model.
    """
    if archive.VERSION.fullmatch(wanted):
        stored = store(runs) / mar_name(wanted)
        run = next(runs.glob(f"{wanted:0>5}-*/{ARCHIVE}"), None)
        known = run or (stored if stored.is_file() else None)
        if known:
            return nullcontext(known)
    if not Path(wanted).exists() and (runs / wanted).is_dir():
        wanted = str(runs / wanted)
    if not is_registered(wanted) and not Path(wanted).exists():
        hint = f"; a registered model is named {REGISTERED}NAME@ALIAS" if "@" in wanted else ""
        raise UsageError(f"{wanted}: no version of that name was served here, and there is no such run or path{hint}")
    return located(runs, wanted)


def put(
    source: Path,
    runs: Path,
    loaded: Collection[str] = (),
    tell: Callable[[str], None] = lambda line: None,
    seconds: float = 0,
) -> tuple[Path, dict[str, Any]]:
    """Prove an archive or artifact and put it into the store; returns the archive there and its card.

    Args:
        loaded, tell: as for `proved`.
        seconds: as for `archive.verify`.

    Raises:
        ServeError: it cannot be proved, the disk is full, or it differs from a loaded archive of the same version.
        OSError: it cannot be copied for another reason.
    """
    tell("verifying the model: checksums and golden samples")
    for killed in states.directory(runs).glob(f"{PROVING}*"):  # left by killed processes: callers hold the lock
        shutil.rmtree(killed, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=states.directory(runs), prefix=PROVING) as folder:
        copy = Path(folder, ARCHIVE)
        try:
            if source.is_dir():
                archive.build(source, copy)
            else:
                shutil.copyfile(source, copy)
            card = archive.verify(copy, proved=copy, seconds=seconds)
        except (ArchiveError, OSError) as problem:
            cause = problem if isinstance(problem, OSError) else problem.__cause__
            if isinstance(cause, OSError) and cause.errno in FULL:  # Python's message would blame the source
                place = states.directory(runs)
                raise ServeError(f"no room for copies of the model in {place} ({cause.strerror})") from problem
            if isinstance(problem, OSError):
                raise
            raise ServeError(str(problem).replace(str(copy), str(source))) from problem
        target = store(runs) / mar_name(str(card["version"]))
        if str(card["version"]) in loaded and not filecmp.cmp(copy, target, shallow=False):
            raise ServeError(f"{source}: another model with version {card['version']} is being served; stop it first")
        return copy.replace(target), card


def card(runs: Path, version: str) -> dict[str, Any]:
    """The card of a version in the store; empty if the archive is damaged or gone.

    TorchServe has unpacked the archive when it loaded it, so such a version still answers correctly.
    """
    try:
        return archive.read_card(store(runs) / mar_name(version))
    except ArchiveError:
        return {}


def missed_limits(card: Mapping[str, Any]) -> list[str]:
    """The limits of the quality gate that a version missed when it was trained, one sentence each."""
    missed: list[str] = card.get("gate", {}).get("missed", [])
    return missed
