"""CSV as PyArrow reads it: the options that it needs, and the mistakes in a file that it does not report."""

import collections
import csv
import io
import re
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa
import pyarrow.csv

from train.errors import InputError
from train.zero_one import ZERO_ONE

BLOCK = 2**24  # bytes read at once; PyArrow refuses a row longer than two blocks
STRADDLING = "straddling"  # a word in PyArrow's message about such a row
SAME_NAMES = "two columns have the same name (is the header line missing?)"


def options(
    content: bytes, delimiter: str, skip: Callable[[pa.csv.InvalidRow], str], block: int
) -> tuple[list[str], dict[str, Any]]:
    """The columns' names, and PyArrow's options for reading the rows: values as bytes, `block` bytes at once.

    Args:
        content: the file, or at least its header line.

    Raises:
        InputError: two columns have the same name, or the names are values or not UTF-8.
    """
    reading = pa.csv.ReadOptions(use_threads=False, block_size=block)  # with threads, bad rows would have no number
    parsing = pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip)
    first = _first_line(content)
    if not is_utf8(first):
        raise InputError("the names of the columns are not UTF-8; save the file as UTF-8")
    # Not open_csv, which would read on in the background: if that outlives Python after an error, the process aborts.
    names = pa.csv.read_csv(io.BytesIO(first), reading, parsing).column_names
    if len(set(names)) < len(names):
        raise InputError(SAME_NAMES)
    if names[0].lower().startswith("sep="):
        raise InputError("delete its first line, sep=…, which only Excel understands")
    if all(name in ZERO_ONE for name in names):
        raise InputError("the first line holds values; put the names of the columns before it")
    parsing.ignore_empty_lines = len(names) > 1  # with a single column they are rows without a value
    converting = pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.binary()), strings_can_be_null=False)
    return names, {"read_options": reading, "parse_options": parsing, "convert_options": converting}


def line_ends(content: bytes) -> int:
    """How many line ends there are, each LF, CR LF, or CR alone (as old programs for the Mac write)."""
    return content.count(b"\n") + content.count(b"\r") - content.count(b"\r\n")


def check(content: bytes, delimiter: str, rows: int) -> None:
    """Refuse what PyArrow silently reads as other rows than were meant.

    Args:
        content: the file, in UTF-8.
        rows: how many rows PyArrow has found, with those that it refused.

    Raises:
        InputError: it names the line.
    """
    if b'"' in content and line_ends(content) > rows + 1:  # some rows may have several lines
        check_quotes(io.StringIO(content.decode(), newline=""), delimiter)
    if b'\\"' in content:
        _check_escapes(io.StringIO(content.decode(), newline=""), delimiter)
    if _first_line(content).endswith(b"\n") and content.count(b"\r") > content.count(b"\r\n"):
        _check_returns(io.StringIO(content.decode(), newline="\n"), delimiter)


def check_quotes(lines: Iterable[str], delimiter: str, *, several_lines: bool = True) -> None:
    """Refuse a quotation mark that swallows further rows because it is closed nowhere, or only within a later value.

    PyArrow reports neither.

    Args:
        lines: the lines of a CSV file, with their line ends.
        several_lines: whether values may contain line breaks; names always may.

    Raises:
        InputError: there is one; it names the lines.
    """
    reader, ended = _reader(lines, delimiter), False
    while not ended:
        first, fits = reader.line_num + 1, True
        try:
            ended = next(reader, None) is None
        except csv.Error:
            fits = False
        if reader.line_num > first and not (fits and (several_lines or first == 1 or ended)):
            raise InputError(
                f"line {first}: a quoted value runs on to line {reader.line_num}; put quotation marks around a value "
                f'that contains some, and double those inside: """Great"", he said"'
            )


def _check_escapes(lines: Iterable[str], delimiter: str) -> None:
    """Refuse quotation marks that are escaped by backslashes: for PyArrow they silently end the value.

    Raises:
        InputError: there is one; it names the line.
    """
    reader = _reader(lines, delimiter)
    try:
        collections.deque(reader, maxlen=0)
    except csv.Error as problem:
        raise InputError(
            f"line {reader.line_num}: text follows the closing quotation mark of a value; double quotation marks "
            f'inside a value, since a backslash does not escape them: """Great"", he said"'
        ) from problem


def _check_returns(lines: Iterable[str], delimiter: str) -> None:
    """Refuse a carriage return in a value without quotation marks, as in files of pandas: PyArrow ends the row there.

    Args:
        lines: the lines of a CSV file, with their line ends, of which a carriage return alone is none.

    Raises:
        InputError: there is one; it names the line.
    """
    reader = _reader(lines, delimiter, strict=False)
    try:
        collections.deque(reader, maxlen=0)
    except csv.Error as problem:
        raise InputError(
            f"line {reader.line_num}: a carriage return within a value would end the row; put quotation marks around "
            "such values, or end all lines alike"
        ) from problem


def _reader(lines: Iterable[str], delimiter: str, *, strict: bool = True) -> Any:
    """Python's own reader, for values as long as PyArrow's may be."""
    csv.field_size_limit(2 * BLOCK)
    return csv.reader(lines, delimiter=delimiter, strict=strict)


def _first_line(content: bytes) -> bytes:
    """The first line of a CSV file, up to the first line break that is not between quotation marks."""
    marks = 0
    for found in re.finditer(rb'"|\r\n?|\n', content):
        if found[0] == b'"':
            marks += 1
        elif marks % 2 == 0:
            return content[: found.end()]
    return content


def is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
