"""What counts as 0 and as 1 in a file, however its format or its program writes them."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from train.bits import Bits

ZERO_ONE = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "-0": 0, "-0.0": 0} | {
    written: bit for bit, word in enumerate(("false", "true")) for written in (word, word.title(), word.upper())
}
ZERO_ONE |= {f" {written}": bit for written, bit in ZERO_ONE.items()}  # as in "1, 0, 1"
NEITHER = 2  # stands for a value that is neither 0 nor 1
VALUE_OF = np.array([*ZERO_ONE.values(), NEITHER], np.uint8)  # the last one is for what ZERO_ONE lacks
BITS_SHARE = 0.9  # the share that must be 0 or 1 for data to count as bits; rows with other values are then bad rows


def bits_of(column: pa.Array | pa.ChunkedArray) -> Bits:
    """A column as 0, 1 and `NEITHER` (also for missing values), (rows,); texts are looked up in `ZERO_ONE`."""
    kind = column.type
    if pa.types.is_nested(kind):
        return np.full(len(column), NEITHER, np.uint8)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        numbers = column.cast(pa.uint8()) if pa.types.is_boolean(kind) else column
        return bits_of_numbers(numbers.to_numpy(zero_copy_only=False))  # nulls become NaN
    texts = pa.array(ZERO_ONE, pa.string()).cast(kind if pa.types.is_binary(kind) else pa.string())
    found = pc.index_in(column if kind == texts.type else column.cast(pa.string()), value_set=texts)
    return VALUE_OF[found.fill_null(len(ZERO_ONE)).to_numpy()]


def bits_of_numbers(numbers: npt.NDArray[np.generic]) -> Bits:
    """Numbers of any shape as 0, 1 and `NEITHER`."""
    values = np.full(numbers.shape, NEITHER, np.uint8)
    values[numbers == 0] = 0
    values[numbers == 1] = 1
    return values


def mostly_bits(columns: Iterable[Bits]) -> bool:
    """Whether at least nine tenths of each column's values are 0 or 1 (rows with others are then bad rows)."""
    return all((values != NEITHER).mean() >= BITS_SHARE for values in columns)
