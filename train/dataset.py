"""What a data set is once it has been read, and how it is cut into parts."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from train import row_cache
from train.bits import Bits
from train.errors import InputError
from train.packed import PackedRows

MAX_CLASSES = 100


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
