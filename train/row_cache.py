"""Data sets larger than memory: converted once into a file of packed bits, which training maps into memory.

The file lies in the cache directory under a hash of the shards' paths, sizes and modification times, so a second start
reads only its description. The cache may be deleted at any time; it is rebuilt.
"""

import codecs
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import torch
from filelock import FileLock

from train import atomic, csv_text
from train.bits import Bits
from train.builtin import cache_directory
from train.csv_text import SAME_NAMES
from train.errors import InputError, JobError
from train.packed import PackedRows
from train.progress import Progress
from train.readers import OTHER_COLUMNS, UNREADABLE, check_bad_rows, column_names, format_of, in_a_line, is_gzip
from train.zero_one import NEITHER, bits_of, bits_of_numbers, mostly_bits

LARGE = 2**26  # values; smaller sets are read into memory
BATCH_ROWS = 2**15  # read at once; a multiple of eight
CSV_BATCH = 2**22  # bytes of CSV read at once
FORMAT = 1  # version of the cache's format
TEXT_BYTES = 2  # per value in a CSV file: a digit and a separator
GZIP_FACTOR = 8  # rough compression ratio of CSV files of bits


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A converted data set, as the cache describes it.

    Attributes:
        fingerprint: what `Dataset.fingerprint` would be if the rows were in memory.
        skipped: one line for each row that could not be used.
    """

    columns: tuple[str, ...]
    rows: int
    fingerprint: str
    skipped: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some rows of a file: their numbers in it and their values, uint8 (rows, columns), which may be `NEITHER`."""

    row_numbers: npt.NDArray[np.int64]
    values: Bits


def is_large(files: Sequence[Path]) -> bool:
    """Whether the files can be converted and are too large to be read into memory."""
    try:
        return all(_kind(file) in SOURCES for file in files) and sum(map(_size, files)) > LARGE
    except UNREADABLE:
        return False  # the readers of small files say what is wrong


def _kind(file: Path) -> str:
    return format_of(file) + (".gz" if is_gzip(file) else "")


def _size(file: Path) -> int:
    """How many values a file holds; an estimate for CSV and TSV."""
    match _kind(file):
        case ".parquet":
            metadata = pa.parquet.read_metadata(file)
            return int(metadata.num_rows * metadata.num_columns)
        case ".npy":
            return int(np.lib.format.open_memmap(file, mode="r").size)
        case kind:
            return file.stat().st_size * (GZIP_FACTOR if kind.endswith(".gz") else 1) // TEXT_BYTES


def load(files: Sequence[Path], *, codec: str, max_bad_rows: int) -> tuple[Stored, PackedRows] | None:
    """The files' rows from the cache, converted first if they are not there; None if they do not hold bits.

    Args:
        codec: "bits" means that they hold bits; otherwise the first rows decide.
        max_bad_rows: more unusable rows than this end the conversion.

    Raises:
        InputError: a file cannot be read, has other columns than the first, or too many rows cannot be used.
        JobError: the rows are not in the cache, which cannot be written.
    """
    first = _Source(files[0])
    if codec != "bits" and not _look_like_bits(files):
        return None
    place = cache_directory() / "rows" / _key(files)
    # Before the lock, which a cache that may only be read does not give.
    stored = _stored(place) or _converted(files, first.columns, place, max_bad_rows)
    return stored, _mapped(place / "rows.bin", stored.rows, len(stored.columns))


def _converted(files: Sequence[Path], columns: tuple[str, ...], place: Path, max_bad_rows: int) -> Stored:
    """Convert the files, unless another process is doing so: then wait for it."""
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # the rows may be private
        lock = FileLock(place.with_suffix(".lock")).acquire()
    except OSError as problem:
        raise JobError(
            f"so many rows are packed on disk first, but {place.parent} cannot be written ({problem.strerror}): name "
            "another folder by LOOKALIKE_CACHE"
        ) from problem
    with lock:
        if (stored := _stored(place)) is None:
            with atomic.replacing_folder(place) as partial:
                _convert(files, columns, partial, max_bad_rows)
            stored = _stored(place)
            assert stored is not None, place
    return stored


def _stored(place: Path) -> Stored | None:
    """The description of a folder of the cache; None if the folder does not exist or is damaged.

    A file of rows that is too short must not be mapped: reading past its end would kill the process.
    """
    try:
        found = json.loads((place / "stored.json").read_text())
        stored = Stored(**{**found, "columns": tuple(found["columns"]), "skipped": tuple(found["skipped"])})
        size = (place / "rows.bin").stat().st_size
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return stored if size == stored.rows * _width(len(stored.columns)) else None


def _key(files: Sequence[Path]) -> str:
    facts = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr((FORMAT, facts)).encode()).hexdigest()[:32]


def _width(length: int) -> int:
    """Bytes of a packed row."""
    return -(-length // 8)


def _mapped(path: Path, rows: int, length: int) -> PackedRows:
    width = _width(length)
    packed = torch.from_file(str(path), shared=False, size=rows * width, dtype=torch.uint8)
    return PackedRows(packed.view(rows, width), length)


def _look_like_bits(files: Iterable[Path]) -> bool:
    """Whether the files begin with bits; the first ones may have no rows."""
    batches = (batch for file in files for batch in _Source(file).batches())
    first = next((batch for batch in batches if len(batch.values)), None)
    return first is not None and mostly_bits(first.values.T)


def _convert(files: Sequence[Path], columns: tuple[str, ...], folder: Path, max_bad_rows: int) -> None:
    """Write the packed rows and their description."""
    skipped: list[str] = []
    rows = 0
    with (
        (folder / "rows.bin").open("wb") as packed,
        Progress("converting", sum(map(_size, files)) // len(columns)) as progress,
    ):
        for file in files:
            source = _Source(file)
            if source.columns != columns:
                raise InputError(OTHER_COLUMNS.format(path=file.parent, file=file.name))
            for batch in source.batches():
                usable = (batch.values != NEITHER).all(1)
                skipped += _named(file, columns, batch, usable)
                packed.write(np.packbits(batch.values[usable], axis=1).tobytes())
                rows += int(usable.sum())
                progress.add(len(usable))
                check_bad_rows(str(file), [*skipped, *source.bad], max_bad_rows, so_far=True)
            skipped += source.bad
    mapped = _mapped(folder / "rows.bin", rows, len(columns))
    starts = range(0, rows, BATCH_ROWS)
    parts = (mapped[torch.arange(start, min(start + BATCH_ROWS, rows))].numpy() for start in starts)
    digest = fingerprint(columns, (rows, len(columns)), parts)
    stored = Stored(columns=columns, rows=rows, fingerprint=digest, skipped=tuple(skipped))
    (folder / "stored.json").write_text(json.dumps(asdict(stored)) + "\n")


def _named(file: Path, columns: tuple[str, ...], batch: Batch, usable: npt.NDArray[np.bool_]) -> Iterator[str]:
    for row in np.flatnonzero(~usable):
        column = columns[int((batch.values[row] == NEITHER).argmax())]
        yield f"{file.name} row {batch.row_numbers[row]}: column {column} holds neither 0 nor 1"


def fingerprint(columns: Sequence[str], shape: tuple[int, ...], parts: Iterable[Bits]) -> str:
    """SHA-256 of rows of 0/1 and of their columns' names.

    Args:
        shape: (rows, columns).
        parts: the rows in order; each part but the last has a multiple of eight rows.
    """
    digest = hashlib.sha256("\0".join(columns).encode())
    digest.update(repr(shape).encode())
    for part in parts:
        digest.update(np.packbits(part).tobytes())
    return digest.hexdigest()


# --- formats -------------------------------------------------------------------------------------------------


class _Source:
    """One file, read a batch at a time.

    Attributes:
        bad: a line for each row that was left out of the batches; complete once all batches have been read.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.bad: list[str] = []
        try:
            self.columns, self._tables = SOURCES[_kind(file)](file, self.bad)
        except UNREADABLE as problem:
            raise self._refusal(problem) from problem

    def batches(self) -> Iterator[Batch]:
        try:
            yield from self._tables()
        except (InputError, *UNREADABLE) as problem:
            raise self._refusal(problem) from problem

    def _refusal(self, problem: Exception) -> InputError:
        return InputError(f"--data {self.file}: {in_a_line(problem)}")


Opened = tuple[tuple[str, ...], Callable[[], Iterator[Batch]]]  # column names, and a function that reads the batches


def _open_parquet(file: Path, bad: list[str]) -> Opened:
    def batches() -> Iterator[Batch]:
        done = 0
        with pa.parquet.ParquetFile(file, page_checksum_verification=True) as opened:
            for batch in opened.iter_batches(batch_size=BATCH_ROWS):
                values = np.stack([bits_of(column) for column in batch.columns], axis=1)
                yield Batch(row_numbers=np.arange(done + 1, done + len(values) + 1), values=values)
                done += len(values)

    names = tuple(pa.parquet.read_schema(file).names)
    if len(set(names)) < len(names):
        raise ValueError(SAME_NAMES)
    return names, batches


def _open_npy(file: Path, bad: list[str]) -> Opened:
    array = np.lib.format.open_memmap(file, mode="r")
    if array.ndim != 2 or array.dtype.kind not in "buif":
        raise ValueError(f"an array of shape {array.shape} and type {array.dtype}; rows of 0/1 are needed")

    def batches() -> Iterator[Batch]:
        for start in range(0, len(array), BATCH_ROWS):
            values = bits_of_numbers(array[start : start + BATCH_ROWS])
            yield Batch(row_numbers=np.arange(start + 1, start + len(values) + 1), values=values)

    return column_names(array.shape[1]), batches


def _open_csv(file: Path, bad: list[str]) -> Opened:
    short: list[int] = []  # numbers of the rows with too few or too many values, in order

    def skip(row: pa.csv.InvalidRow) -> str:
        short.append(row.number - 1)
        bad.append(f"{file.name} row {row.number - 1}: {row.actual_columns} columns, not {row.expected_columns}")
        return "skip"

    with pa.input_stream(file) as start:  # decompresses .gz
        content = start.read(CSV_BATCH).removeprefix(codecs.BOM_UTF8).lstrip(b"\r\n")
    delimiter = "\t" if format_of(file) == ".tsv" else ","
    names, options = csv_text.options(content, delimiter, skip, CSV_BATCH)

    def batches() -> Iterator[Batch]:
        short.clear()
        bad.clear()
        done = rows = 0
        try:
            with pa.csv.open_csv(file, **options) as opened:
                for batch in opened:
                    numbers = np.setdiff1d(np.arange(done + 1, done + len(batch) + len(short) + 1), short)[: len(batch)]
                    values = np.stack([bits_of(column) for column in batch.columns], axis=1)
                    yield Batch(row_numbers=numbers, values=values)
                    done = int(numbers[-1]) if len(numbers) else done
                    rows += len(batch)
        except pa.ArrowInvalid as problem:
            if csv_text.STRADDLING not in str(problem):
                raise
            _check_lines(file, delimiter)
            raise ValueError(f"a row is longer than {2 * CSV_BATCH:,} bytes") from problem
        if _lines(file) > rows + len(short) + 1:  # there are blank lines, or rows of several lines
            _check_lines(file, delimiter)

    return tuple(names), batches


def _lines(file: Path) -> int:
    """How many line ends a file holds; 0 if it has no quotation marks, since each line end then ends a row."""
    lines, quoted = 0, False
    with pa.input_stream(file) as content:
        while block := content.read(CSV_BATCH):
            lines += csv_text.line_ends(block)
            quoted = quoted or b'"' in block
    return lines if quoted else 0


def _check_lines(file: Path, delimiter: str) -> None:
    """Refuse a quotation mark that swallows further rows; values of 0 or 1 never span lines."""
    with pa.input_stream(file) as content:
        text = io.TextIOWrapper(content, encoding="utf-8", errors="replace", newline="")
        csv_text.check_quotes(text, delimiter, several_lines=False)


SOURCES: dict[str, Callable[[Path, list[str]], Opened]] = {
    ".parquet": _open_parquet,
    ".npy": _open_npy,
    **dict.fromkeys((".csv", ".csv.gz", ".tsv", ".tsv.gz"), _open_csv),
}
