"""What the columns of a table hold: texts, their classes or bits; and which of its rows cannot be used."""

import itertools
import logging
import math
import re
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from train.dataset import Dataset
from train.errors import InputError, did_you_mean
from train.readers import PROBE_ROWS, Table, shown
from train.zero_one import NEITHER, ZERO_ONE, bits_of, mostly_bits

log = logging.getLogger("lookalike")

WHOLE_NUMBER = re.compile(r"(-?\d+)\.0+")  # as files of some formats write whole numbers
SOME = 5  # column names in a message
LIKE_A_KEY = r"^\s*[\w.:/@+-]+\s*$"  # one word of ASCII characters: likely a row's key, such as P0017
NUMBER = r"(?i)^\s*[-+]?((\d+\.?\d*|\.\d+)(e[-+]?\d+)?|nan|inf)\s*$"


def to_dataset(
    table: Table, path: Path, *, column: str | None, label_column: str | None, codec: str, keep_empty: bool
) -> Dataset:
    """The data set that a file's table holds; the arguments are those of `data.load`.

    Raises:
        InputError: there is no such column, or the columns do not fit the codec.
    """
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
            raise InputError(f"{option} {name}: {no_such_column(name, table.columns)}")
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


def _bits_dataset(table: Table, path: Path) -> Dataset:
    if table.left_out:
        raise InputError(f"column {table.left_out[0]} holds neither 0 and 1 nor text")
    columns = [bits_of(values) for values in table.columns.values()]
    usable, bad = _usable(table, path.name, (values != NEITHER for values in columns), "0 or 1")
    bits = np.stack(columns, axis=1)[usable]
    return Dataset(name=path.name, source=str(path), bits=bits, columns=tuple(table.columns), skipped=bad)


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
        name=path.name,
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


def _looks_like_bits(columns: dict[str, pa.ChunkedArray]) -> bool:
    return mostly_bits(bits_of(values.slice(0, PROBE_ROWS)) for values in columns.values())


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
        raise InputError(
            f"which column holds the text? Name it with --column: {some_names(columns)}{_why_no_bits(every)}"
        )
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


def to_values(table: Table, file: str) -> tuple[npt.NDArray[np.float64], tuple[str, ...]]:
    """A table's usable rows as numbers from 0 to 1, (rows, columns), and one line for each of the others."""
    values = np.stack([_column_values(column) for column in table.columns.values()], axis=1)
    usable, bad = _usable(table, file, ~np.isnan(values).T, "a number from 0 to 1")
    return values[usable], bad


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


def some_names(names: Collection[str]) -> str:
    """The first few column names, for a message, and how many more there are."""
    more = f" and {len(names) - SOME} more" if len(names) > SOME else ""
    return ", ".join(name or "one without a name" for name in itertools.islice(names, SOME)) + more


def no_such_column(name: str, columns: Collection[str]) -> str:
    """Which columns there are instead, and which one may have been meant."""
    return f"the columns are {some_names(columns)}{did_you_mean(name, columns)}"
