"""Writers: generated rows in one file, in the form of the user's data."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from train import atomic
from train.codec import LABEL_COLUMN, Codec, TokensCodec, class_names
from train.errors import InputError
from train.generator import LabelledRows
from train.readers import TEXT_COLUMN

JSONL_ROWS = 10_000  # at a time: as Python objects rows take forty times their bytes


def check_writable(path: Path) -> None:
    """Refuse a file that `write` could not write, before any work is done.

    Raises:
        InputError: the format is unknown, or as for `check_place`.
    """
    if path.suffix.lower() not in WRITERS:
        raise InputError(
            f"--out {path}: the name must end in {', '.join(WRITERS)}, or, for a folder, have no extension"
        )
    check_place(path)


def check_place(path: Path) -> None:
    """Refuse a path that cannot be written as a file, before any work is done.

    Raises:
        InputError: it is a folder, or its folder does not exist.
    """
    if path.is_dir():
        raise InputError(f"--out {path}: a folder; name a file in it")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--out {path}: there is no folder {path.parent}")


def write(path: Path, sample: LabelledRows, codec: Codec) -> None:
    """Write rows as made by `arrow`; the file appears whole or not at all. NPY holds no classes."""
    atomic.clear(path.absolute().parent)
    with atomic.replacing(path) as partial, partial.open("wb") as file:
        WRITERS[path.suffix.lower()](file, arrow(sample, codec))


def arrow(sample: LabelledRows, codec: Codec) -> pa.Table:
    """Rows as an Arrow table.

    For token ids: a column of texts and, if they have classes, one of classes, named as in the training data unless
    that name is `TEXT_COLUMN`. Otherwise a column of 0/1 for each code.
    """
    if not isinstance(codec, TokensCodec):
        return pa.table(list(sample.codes.numpy().T), names=codec.columns)
    columns = codec.decode(sample.codes), class_names(codec, sample.labels)
    return pa.table([column for column in columns if column is not None], schema=schema(codec))


def schema(codec: Codec) -> pa.Schema:
    """The schema of what `arrow` makes for a codec."""
    if not isinstance(codec, TokensCodec):
        return pa.schema([(name, pa.uint8()) for name in codec.columns])
    classes = LABEL_COLUMN if codec.label_column == TEXT_COLUMN else codec.label_column
    return pa.schema([(name, pa.string()) for name in (TEXT_COLUMN, *([classes] if codec.labels else ()))])


def _write_jsonl(file: BinaryIO, rows: pa.Table) -> None:
    for batch in rows.to_batches(max_chunksize=JSONL_ROWS):
        for row in batch.to_pylist():
            file.write(json.dumps(row).encode() + b"\n")


def _write_npy(file: BinaryIO, rows: pa.Table) -> None:
    buffer = io.BytesIO()  # numpy's own errors do not say why a file could not be written
    if pa.string() in rows.schema.types:
        np.save(buffer, np.array(rows[0].to_pylist(), dtype=np.str_))
    else:
        np.save(buffer, np.stack([column.to_numpy() for column in rows.columns], axis=1))
    file.write(buffer.getbuffer())


WRITERS: dict[str, Callable[[BinaryIO, pa.Table], None]] = {
    ".csv": lambda file, rows: pa.csv.write_csv(rows, file),
    ".jsonl": _write_jsonl,
    ".parquet": lambda file, rows: pa.parquet.write_table(rows, file, write_page_checksum=True),
    ".npy": _write_npy,
}
