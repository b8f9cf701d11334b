"""Readers: one for each file format, from bytes to a `Table` of texts.

What cannot be read as text is left out and reported here; data.py decides what the columns mean.
"""

import codecs
import dataclasses
import functools
import gzip
import io
import itertools
import json
import tokenize
import zlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from train import csv_text
from train.csv_text import SAME_NAMES, is_utf8
from train.errors import InputError
from train.zero_one import BITS_SHARE

Shape = TypeVar("Shape", bound=Hashable)

# What other packages' readers raise for damaged files; the last three are caused by the header of an NPY file.
UNREADABLE = (OSError, EOFError, ValueError, pa.ArrowException, OverflowError, MemoryError, tokenize.TokenError)

TEXT_COLUMN = "text"  # the column of texts that has no name of its own
PROBE_ROWS = 1000  # how many rows decide what kind of data a file holds
TEXT_SHARE = 0.9  # the share of a column's first values that must be text
BINARY = (".parquet", ".npy")
# First bytes of binary files that are sometimes given a text format's name; some of their bytes would pass for rows.
NO_TEXT = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"PAR1": "a Parquet file",
    b"\x93NUMPY": "an NPY file",
}
PROBE_BYTES = 4096  # of a text, to guess its encoding
MARK = "\ufffd".encode()  # what decoding puts in place of invalid bytes
NO_ROWS = "no row can be used: there are only column names"
OTHER_COLUMNS = "--data {path}: {file} does not have the same columns in the same order as the first shard"
NAMED_BAD_ROWS = 3  # how many an error message names


@dataclass(frozen=True, kw_only=True)
class Table:
    """One file as columns of text.

    Attributes:
        row_numbers: each row's number in the file, from 1 on, int64 (rows,).
        bad: one line for each row that was left out.
        left_out: the columns that are missing because they do not hold text, but lists or images, say.
    """

    columns: dict[str, pa.ChunkedArray]
    row_numbers: npt.NDArray[np.int64]
    bad: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def read(path: Path, *, may_be_empty: bool = False) -> Table:
    """What a file holds.

    Args:
        may_be_empty: whether it may have column names but no rows, as one of several shards.

    Raises:
        InputError: it cannot be read.
    """
    reader = READERS.get(format_of(path))
    if reader is None:
        raise InputError(f"--data {path}: the name must end in {', '.join(READERS)} (or one of these and .gz)")
    try:
        content = gzip.decompress(path.read_bytes()) if is_gzip(path) else path.read_bytes()
        if not content.removeprefix(codecs.BOM_UTF8).strip():
            raise InputError("the file is empty")
        if format_of(path) not in BINARY:
            _check_encoding(content)
        table = reader(content, path.name)
        if len(table.row_numbers) == 0 and not may_be_empty:
            raise InputError(f"no row can be used: {table.bad[0]}" if table.bad else NO_ROWS)
    except (InputError, zlib.error, *UNREADABLE) as problem:
        raise InputError(f"--data {path}: {in_a_line(problem)}") from problem
    return table


def in_a_line(problem: Exception) -> str:
    """A problem's message in one line (PyArrow's have several), without the file name, which the caller adds."""
    if isinstance(problem, MemoryError) and not problem.args:
        return "it is larger than memory, which only rows of 0/1 in CSV, Parquet or NPY may be"
    return " ".join(str(getattr(problem, "strerror", None) or problem).split())


def _check_encoding(content: bytes) -> None:
    if content.startswith(b"\x1f\x8b"):
        raise InputError("it is compressed by gzip; its name must end in .gz")
    if what := next((what for magic, what in NO_TEXT.items() if content.startswith(magic)), None):
        raise InputError(f"it is {what}, whatever its name says")
    begins = content[:PROBE_BYTES]
    if begins.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or begins.count(0) > len(begins) // 4:
        raise InputError("the text is UTF-16 or UTF-32; save it as UTF-8")


def format_of(file: Path) -> str:
    """A file name's last suffix other than .gz: .parquet of part-0.snappy.parquet, .csv of rows.2024.csv.gz."""
    return Path(file.name.lower().removesuffix(".gz")).suffix


def is_gzip(file: Path) -> bool:
    return file.suffix.lower() == ".gz"


@functools.lru_cache  # called for every row of a file of lists
def column_names(length: int) -> tuple[str, ...]:
    """Names for columns that have none."""
    return tuple(f"x{i + 1}" for i in range(length))


def check_bad_rows(data: str, bad: Sequence[str], limit: int, *, so_far: bool = False) -> None:
    """Refuse more unusable rows than `limit`.

    Args:
        bad: one line for each of them.
        so_far: whether there may be more in what has not been read yet.

    Raises:
        InputError: there are more; it names the first of them.
    """
    if len(bad) > limit:
        count = f"at least {len(bad)}" if so_far else len(bad)
        raise InputError(f"--data {data}: {count} unusable rows, more than --max-bad-rows {limit}: {first_of(bad)}")


def first_of(bad: Sequence[str]) -> str:
    """The first bad rows, as messages name them."""
    return "; ".join(bad[:NAMED_BAD_ROWS])


def shown(value: str | None) -> str:
    """A value as messages name it."""
    return "nothing" if not value else repr(value if len(value) <= 20 else value[:20] + "…")


def _read_csv(content: bytes, file: str, delimiter: str = ",") -> Table:
    bad: dict[int, str] = {}

    def skip(row: pa.csv.InvalidRow) -> str:
        bad[row.number - 1] = f"{row.actual_columns} columns where the header names {row.expected_columns}"
        return "skip"

    content = content.removeprefix(codecs.BOM_UTF8).lstrip(b"\r\n")
    names, options = csv_text.options(content, delimiter, skip, csv_text.BLOCK)
    # PyArrow cannot pass a row that is not UTF-8 to `skip`, so invalid bytes are replaced by MARK first.
    damaged = not is_utf8(content)
    content = content.decode(errors="replace").encode() if damaged else content
    if len(names) == 1 and (found := set(names[0]) & (set(",;\t|") - {delimiter})):
        raise InputError(
            f"the columns seem to be separated by {found.pop()!r}; save them with commas as .csv, or with tabs as .tsv"
        )
    bad.clear()  # reading the header may already have found bad rows
    try:
        table = pa.csv.read_csv(io.BytesIO(content), **options)
    except pa.ArrowInvalid as problem:
        if csv_text.STRADDLING not in str(problem):
            raise
        raise InputError(f"a row is longer than {2 * csv_text.BLOCK:,} bytes") from problem
    csv_text.check(content, delimiter, rows=table.num_rows + len(bad))
    numbers = np.setdiff1d(np.arange(1, table.num_rows + len(bad) + 1), list(bad))
    return _decoded({name: table[name] for name in names}, numbers, bad, file, damaged)


def _decoded(
    columns: dict[str, pa.ChunkedArray],
    row_numbers: npt.NDArray[np.int64],
    bad: dict[int, str],
    file: str,
    damaged: bool = False,
) -> Table:
    """Columns of bytes as text; rows that are not UTF-8, or hold MARK in a damaged file, are added to the bad ones."""
    good = np.ones(len(row_numbers), bool)
    for name, values in columns.items():
        for row, value in enumerate(values.to_pylist()) if damaged or not _is_text(values) else ():
            if value is not None and (not is_utf8(value) or (damaged and MARK in value)):
                good[row] = False
                bad[int(row_numbers[row])] = f"column {name} is not UTF-8"
    mask = pa.array(good)
    return Table(
        columns={name: values.filter(mask).cast(pa.string()) for name, values in columns.items()},
        row_numbers=row_numbers[good],
        bad=tuple(f"{file} row {number}: {why}" for number, why in sorted(bad.items())),
    )


def _is_text(values: pa.ChunkedArray) -> bool:
    try:
        values.cast(pa.string())
    except pa.ArrowInvalid:
        return False
    return True


def _read_tsv(content: bytes, file: str) -> Table:
    return _read_csv(content, file, delimiter="\t")


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers."""
    return ((number, line) for number, line in enumerate(content.splitlines(), start=1) if line.strip())


def _read_txt(content: bytes, file: str) -> Table:
    """A text per line; or, if nearly all lines consist of the same number of 0s and 1s, a row of bits per line."""
    lines = dict(_lines(content.removeprefix(codecs.BOM_UTF8)))
    values = pa.chunked_array([pa.array(lines.values(), pa.binary())])
    table = _decoded({TEXT_COLUMN: values}, np.array(list(lines)), {}, file)
    texts = table.columns[TEXT_COLUMN].to_pylist()
    rows = ["".join(text.replace(",", " ").split()) for text in texts]
    widths = np.array([len(row) if set(row) <= {"0", "1"} else -1 for row in rows])
    width = _commonest(widths[widths != 0].tolist())
    if width is None or width < 0:
        return table
    good = widths == width
    kept = list(itertools.compress(rows, good))
    columns = [pa.chunked_array([pa.array([row[i] for row in kept])]) for i in range(width)]
    bad = [
        f"{file} row {table.row_numbers[row]}: holds {widths[row] if widths[row] > 0 else shown(texts[row])}, "
        f"not {width} values of 0 or 1"
        for row in np.flatnonzero(~good)
    ]
    named = dict(zip(column_names(width), columns, strict=True))
    return Table(columns=named, row_numbers=table.row_numbers[good], bad=(*table.bad, *bad))


def _commonest(shapes: Iterable[Shape]) -> Shape | None:
    """The shape that at least `BITS_SHARE` of the rows have, or None."""
    counts = Counter(shapes)
    return next((shape for shape, count in counts.most_common(1) if count >= BITS_SHARE * counts.total()), None)


def _read_jsonl(content: bytes, file: str) -> Table:
    """An object, a text or a list of 0/1 per line."""
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
    # The other columns hold nothing but lists, objects and null.
    told = {name for row in rows for name, cell in row.items() if cell is not None}
    kept = [name for name in names if name in told]
    columns = {name: pa.chunked_array([pa.array([row.get(name) for row in rows], pa.string())]) for name in kept}
    if names and not columns:
        raise InputError("no column holds text")
    if not columns:
        why = next((f" (row {number}: {why})" for number, why in bad.items()), "")
        raise InputError(f"no line holds a JSON object, text or list{why}")
    return Table(
        columns=columns,
        row_numbers=np.array(list(records)),
        bad=tuple(f"{file} row {number}: {why}" for number, why in sorted(bad.items())),
        left_out=tuple(name for name in names if name not in told),
    )


def _json_records(content: bytes, bad: dict[int, str]) -> Iterator[tuple[int, dict[str, str | None]]]:
    for number, line in _lines(content):
        try:
            value = json.loads(line, parse_constant=lambda name: None)  # Python writes missing values as NaN
        except (ValueError, RecursionError):
            bad[number] = "not JSON"
            continue
        match value:
            case dict():
                yield number, {name: _cell(cell) for name, cell in value.items()}
            case str():
                yield number, {TEXT_COLUMN: value}
            case list() if any(isinstance(cell, dict) for cell in value):
                bad[number] = "a list of objects; put each object on a line of its own"
            case list():
                names = column_names(len(value))
                yield number, {name: _cell(cell) for name, cell in zip(names, value, strict=True)}
            case _:
                bad[number] = "neither an object, a text nor a list"


def _is_unicode(record: dict[str, str | None]) -> bool:
    """Whether all is valid Unicode: JSON's escapes can also produce half of a surrogate pair."""
    try:
        "".join([*record, *filter(None, record.values())]).encode()
    except UnicodeEncodeError:
        return False
    return True


def _cell(value: object) -> str | None:
    """A value as text; None for lists, objects and null."""
    return None if value is None or isinstance(value, list | dict) else str(value)


def _read_parquet(content: bytes, file: str) -> Table:
    names = pa.parquet.read_schema(io.BytesIO(content)).names
    if len(set(names)) < len(names):  # PyArrow can read such a file, but not tell its columns apart by name
        raise InputError(SAME_NAMES)
    # Arrow's threads could still hold Python's bytes when an error ends the process, which would then abort.
    with pa.parquet.ParquetFile(io.BytesIO(content), pre_buffer=False, page_checksum_verification=True) as opened:
        table = opened.read(use_threads=False)
    columns = {name: _as_text(table[name]) for name in table.column_names}
    texts = {name: values for name, values in columns.items() if values is not None}
    if not texts:
        raise InputError("no column holds text")
    found = _decoded(texts, np.arange(1, table.num_rows + 1), {}, file)
    return dataclasses.replace(found, left_out=tuple(name for name in columns if name not in texts))


def _as_text(values: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """A column's texts as bytes, some of which may not be UTF-8; None if it holds something else, such as dates."""
    if pa.types.is_temporal(values.type):
        return None
    if pa.types.is_floating(values.type):  # some writers leave NaN where a number is missing
        values = pc.if_else(pc.is_nan(values), None, values)
    try:
        return values.cast(pa.string()).cast(pa.binary())  # even a column of type string may not be UTF-8
    except pa.ArrowNotImplementedError:  # lists or objects
        return None
    except pa.ArrowException:
        first: list[Any] = values.slice(0, PROBE_ROWS).to_pylist()
        known = [value is None or (isinstance(value, bytes) and is_utf8(value)) for value in first]
        return values if sum(known) >= TEXT_SHARE * len(known) else None


def _read_npy(content: bytes, file: str) -> Table:
    if not content.startswith(np.lib.format.MAGIC_PREFIX):
        raise InputError("not a file that numpy.save has written (from an .npz archive, save one array)")
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except ValueError as problem:
        raise InputError(f"{problem}; save it as an array of numbers or of texts") from problem
    array = array.astype(array.dtype.newbyteorder("="), copy=False)  # PyArrow accepts only the native byte order
    if array.ndim == 1 and array.dtype.kind == "U":
        texts = [text.encode(errors="surrogatepass") for text in array.tolist()]  # half of a pair makes a bad row
        columns = {TEXT_COLUMN: pa.chunked_array([pa.array(texts, pa.binary())])}
    elif array.ndim == 2 and array.shape[1] and array.dtype.kind in "buif" and array.dtype.itemsize <= 8:
        named = zip(column_names(array.shape[1]), array.T, strict=True)
        columns = {name: pa.chunked_array([pa.array(values).cast(pa.string())]) for name, values in named}
    else:
        raise InputError(f"an array of shape {array.shape} and type {array.dtype}; rows of 0/1 or texts are needed")
    return _decoded(columns, np.arange(1, len(array) + 1), {}, file)


READERS: dict[str, Callable[[bytes, str], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
    ".txt": _read_txt,
    ".npy": _read_npy,
}


def is_shard(file: Path) -> bool:
    """Whether a file is read as a part of its folder."""
    return format_of(file) in READERS and not file.name.startswith(".") and not file.is_dir()
