"""Models: which one is meant, and the store of those that were proved.

A model is an archive, an artifact, a run directory that holds one, or a name in MLflow's registry, such as
models:/lookalike@champion or models:/lookalike/3. Served is the very copy that was proved, from the store.
"""

import errno
import filecmp
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeGuard

from serve import archive
from serve import state as states
from serve.errors import ArchiveError, ServeError, UsageError
from train import CARD, MODEL_NAME
from train import store as mlflow_store

RUN = re.compile(r"(\d{5})-.+")
FULL = (errno.ENOSPC, errno.EDQUOT)
PROVING = "proving-"  # how the name of a folder begins in which a model is proved
REGISTERED = "models:/"  # how the names in MLflow's registry begin


@contextmanager
def located(runs: Path, model: str | None) -> Iterator[Path]:
    """The archive or artifact that `Settings.model` means; one from the registry is there for as long as it is used.

    Raises:
        UsageError: there is none.
    """
    if not is_registered(model):
        yield find(runs, model)
        return
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        yield _fetch(model, runs, Path(folder))


def is_registered(model: str | None) -> TypeGuard[str]:
    return model is not None and model.startswith(REGISTERED)


def find(runs: Path, model: Path | str | None) -> Path:
    """The archive or artifact to serve: `model` itself, what a run directory holds, or the newest run's archive.

    Raises:
        UsageError: there is none.
    """
    if model is None:
        archives = [path for path in runs.glob("*/lookalike.mar") if RUN.fullmatch(path.parent.name)]
        if not archives:
            raise UsageError(f"there is no trained model under {runs}; train one with: make train")
        return max(archives, key=lambda path: path.parent.name)
    path = Path(model)
    for candidate in (path / "lookalike.mar", path / "artifact", path):
        if candidate.is_file() or (candidate / CARD).is_file():
            return candidate
    raise UsageError(f"--model {model}: neither an archive, nor a run directory with one, nor an artifact")


def _fetch(name: str, runs: Path, folder: Path) -> Path:
    """Download a registered model into `folder`; the directory of its artifact.

    The registry is the one that training uses: MLFLOW_TRACKING_URI, else the database among the runs.
    """
    database, uri = mlflow_store.beside(runs), mlflow_store.store_uri(runs)
    if uri == mlflow_store.file_uri(database) and not database.is_file():
        raise UsageError(f"--model {name}: there is no registry at {database}; set MLFLOW_TRACKING_URI, or train first")
    mlflow_store.set_defaults()
    try:
        import mlflow  # takes seconds, and most models are files
    except ModuleNotFoundError as problem:
        raise UsageError(
            f"--model {name}: MLflow is not installed here; name an archive, a run directory or an artifact"
        ) from problem
    mlflow.set_tracking_uri(uri)
    try:
        mlflow.artifacts.download_artifacts(artifact_uri=name, dst_path=str(folder))
    except mlflow.MlflowException as problem:
        raise UsageError(f"--model {name}: {problem}") from problem
    cards = list(folder.rglob(CARD))
    if len(cards) != 1:
        raise UsageError(f"--model {name}: a model of something else, without an artifact of Lookalike")
    return cards[0].parent


# --- the store -----------------------------------------------------------------------------------------------


def store(runs: Path) -> Path:
    """Where the archives are that a server for these runs serves, each named by its version."""
    return states.directory(runs) / "model-store"


def mar_name(version: str) -> str:
    return f"{MODEL_NAME}-{version}.mar"


def proved(runs: Path, wanted: str, loaded: Collection[str], tell: Callable[[str], None]) -> dict[str, Any]:
    """The card of a version in the store; a model that is not loaded is proved and put there first.

    Args:
        wanted: the name of a version, or a model as in `Settings.model`.
        loaded: the versions that the server has; these must not change under it.
        tell: is given a line for people before what takes a while.

    Raises:
        ServeError: there is no such version, or it does not prove itself, or its archive has been damaged since.
    """
    if wanted not in loaded:
        with _of_version(runs, wanted) as source:
            return put(source, runs, loaded, tell)[1]
    return archive.read_card(store(runs) / mar_name(wanted))


def _of_version(runs: Path, wanted: str) -> AbstractContextManager[Path]:
    """A model by the name of a version, of a run or else in the store, or of a run's folder, or as in `Settings.model`.

    A run goes first: it may have been exported again, or have taken the number of one that was deleted.
    """
    if archive.VERSION.fullmatch(wanted):
        stored = store(runs) / mar_name(wanted)
        run = next(runs.glob(f"{wanted:0>5}-*/lookalike.mar"), None)
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
    """Prove an archive or artifact and put it into the store: the archive there, and its card.

    Args:
        seconds: as for `archive.verify`.

    Raises:
        ServeError: it does not prove itself, or would replace a version in `loaded` by something else.
    """
    tell("proving the model: checksums and golden samples")
    for killed in states.directory(runs).glob(f"{PROVING}*"):  # nobody else is at work
        shutil.rmtree(killed, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=states.directory(runs), prefix=PROVING) as folder:
        copy = Path(folder, "lookalike.mar")
        try:
            if source.is_dir():
                archive.build(source, copy)
            else:
                shutil.copyfile(source, copy)
            card = archive.verify(copy, proved=copy, seconds=seconds)
        except (ArchiveError, OSError) as problem:
            cause = problem if isinstance(problem, OSError) else problem.__cause__
            if isinstance(cause, OSError) and cause.errno in FULL:  # Python would name the source, which is well
                raise ServeError(f"no room for a copy of the model in {store(runs)} ({cause.strerror})") from problem
            if isinstance(problem, OSError):
                raise
            raise ServeError(str(problem).replace(str(copy), str(source))) from problem
        target = store(runs) / mar_name(str(card["version"]))
        if str(card["version"]) in loaded and not filecmp.cmp(copy, target, shallow=False):
            raise ServeError(f"{source}: another model with version {card['version']} is being served; stop it first")
        return copy.replace(target), card


def card(runs: Path, version: str) -> dict[str, Any]:
    """The card of a version in the store; empty where the archive is damaged or gone.

    TorchServe needs that no longer, so what answers is well.
    """
    try:
        return archive.read_card(store(runs) / mar_name(version))
    except ArchiveError:
        return {}


def missed_limits(card: Mapping[str, Any]) -> list[str]:
    """The limits of the quality gate that a version missed when it was trained, a sentence each."""
    missed: list[str] = card.get("gate", {}).get("missed", [])
    return missed
