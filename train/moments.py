"""Moments of rows of 0/1: sums over rows, the statistics that follow from them, and how far two sets are apart."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from train.bits import WORDS_PER_PASS, Array, Bits, Floats, packed_words

COMPARED = ("marginal", "correlation", "triple", "lag", "row_sum")
TRIPLES = 3000
TRIPLES_SEED = 0
PAIRS_AT_ONCE = 2**21  # of columns, in all replicates together


@dataclass(frozen=True)
class Moments:
    """Sums over rows of 0/1 values. Leading axes, if any, are blocks or replicates."""

    pairs: Array  # (2, pairs): the columns i < j of each pair, as `pairs` orders them
    rows: Array  # (...): how many rows
    ones: Array  # (..., length): rows with bit i on
    both: Array  # (..., pairs): rows with bits i and j on
    triples: Array  # (..., triples): rows with three bits on, in the order of `draw_triples`
    totals: Array  # (..., length + 1): rows with that many bits on

    @classmethod
    def of(cls, bits: Bits, chosen: Array | None = None) -> "Moments":
        """The sums of some rows (rows, length), of all pairs of columns or of the chosen ones, (2, pairs)."""
        length = bits.shape[1]
        columns, chosen = packed_words(bits.T), pairs(length) if chosen is None else chosen
        totals = np.bincount(bits.sum(axis=1, dtype=np.int64), minlength=length + 1)
        return cls(
            chosen,
            np.array(len(bits), np.float64),
            bits.sum(axis=0, dtype=np.float64),
            _rows_with_all(columns, chosen),
            _rows_with_all(columns, draw_triples(length).T),
            totals.astype(np.float64),
        )

    @classmethod
    def resampled(cls, blocks: Sequence[Bits], weights: Array, chosen: Array) -> "Moments":
        """The sums with the rows of block b counted weights[r, b] times, for each replicate r."""
        parts = [cls.of(block, chosen) for block in blocks]
        sums = zip(*((part.rows, part.ones, part.both, part.triples, part.totals) for part in parts), strict=True)
        return cls(chosen, *(weights @ np.stack(each).astype(np.float32) for each in sums))


def _rows_with_all(columns: Array, chosen: Array) -> Floats:
    """The number of rows in which all columns of a set are 1, (sets,).

    Args:
        columns: packed columns, uint64 (columns, words).
        chosen: sets of column numbers, (columns in a set, sets).
    """
    sums = []
    for part in np.array_split(chosen, 1 + chosen.shape[1] * columns.shape[1] // WORDS_PER_PASS, axis=1):
        words = functools.reduce(np.bitwise_and, (columns[column] for column in part))
        sums.append(np.bitwise_count(words).sum(axis=1, dtype=np.float64))
    return np.concatenate(sums)


@functools.lru_cache(maxsize=4)
def pairs(length: int) -> Array:
    """The columns i < j of every pair, (2, pairs), ordered by their distance j - i, then by i."""
    lag = np.repeat(np.arange(1, length), np.arange(length - 1, 0, -1))
    first = np.concatenate([np.arange(length - k) for k in range(1, length)]) if length > 1 else lag
    return np.stack([first, first + lag])


@functools.lru_cache(maxsize=4)
def draw_triples(length: int) -> Array:
    """Triples of different columns, (triples, 3): all if there are at most 3,000, else a seeded sample of 3,000."""
    if math.comb(length, 3) <= TRIPLES:
        every = [(i, j, k) for k in range(length) for j in range(k) for i in range(j)]
        return np.array(every, dtype=np.int64).reshape(-1, 3)
    rng = np.random.default_rng(TRIPLES_SEED)
    found = np.empty((0, 3), np.int64)
    while len(found) < TRIPLES:
        candidates = np.sort(rng.integers(0, length, (2 * TRIPLES, 3)), axis=1)
        distinct = (candidates[:, 0] < candidates[:, 1]) & (candidates[:, 1] < candidates[:, 2])
        found = np.unique(np.concatenate([found, candidates[distinct]]), axis=0)
    return rng.permutation(found)[:TRIPLES]


def correlations(moments: Moments) -> Array:
    """Pearson correlation of each pair of columns, (..., pairs); 0 where a column is constant."""
    first, second = moments.pairs
    mean = moments.ones / moments.rows[..., None]
    spread = np.sqrt(mean * (1 - mean))
    covariance = moments.both / moments.rows[..., None] - mean[..., first] * mean[..., second]
    scale = spread[..., first] * spread[..., second]
    return np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0)


def statistics(moments: Moments) -> dict[str, Array]:
    """Everything that has a distance and a ratio, by the names of COMPARED, each along the last axis.

    They are the column means; the Pearson correlation of every pair of columns; E[x_i x_j x_k] over the triples of
    `draw_triples`; the autocorrelation along the sequence, which is the mean correlation of columns k apart, k = 1 ..
    length / 2; and the distribution function of the number of ones in a row.
    """
    between = correlations(moments)
    return {**_without_pairs(moments), "correlation": between, "lag": _summed_by_lag(between, moments) / _lags(moments)}


def _without_pairs(moments: Moments) -> dict[str, Array]:
    """The statistics that do not need pairs of columns."""
    rows = moments.rows[..., None]
    return {
        "marginal": moments.ones / rows,
        "triple": moments.triples / rows,
        "row_sum": np.cumsum(moments.totals, axis=-1) / rows,
    }


def _lags(moments: Moments) -> Array:
    """How many pairs of columns are k apart, k = 1 .. length / 2."""
    length = moments.ones.shape[-1]
    return np.arange(length - 1, 0, -1)[: max(1, length // 2)]


def _summed_by_lag(values: Array, moments: Moments) -> Array:
    """The sums of the values of pairs (..., pairs) that are k apart, (..., lags), k = 1 .. length / 2."""
    lag = moments.pairs[1] - moments.pairs[0]
    first = np.flatnonzero(np.diff(lag, prepend=0))  # pairs come ordered by lag
    sums = np.zeros((*values.shape[:-1], max(0, moments.ones.shape[-1] - 1)))
    if len(first):
        sums[..., lag[first] - 1] = np.add.reduceat(values, first, axis=-1)
    return sums[..., : len(_lags(moments))]


def distances(a: dict[str, Array], b: dict[str, Array]) -> dict[str, Array]:
    """How far the statistics of two sets are apart: their mean absolute differences.

    For the numbers of ones in a row it is their Wasserstein-1 distance, the area between the distribution functions.
    """
    gaps = {name: np.abs(a[name] - b[name]) for name in a}
    row_sum = gaps.pop("row_sum").sum(axis=-1)
    means = {name: gap.mean(axis=-1) if gap.shape[-1] else np.zeros(gap.shape[:-1]) for name, gap in gaps.items()}
    return {**means, "row_sum": row_sum}


def resampled_distances(blocks: list[list[Bits]], weights: list[Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """The distances of synthetic and of training rows to held-out ones, in each replicate (replicates,).

    Pairs of columns come in parts: of thousands of columns, those of all blocks would take gigabytes.

    Args:
        blocks: the blocks of synthetic, held-out and training rows.
        weights: how often each block counts, (replicates, blocks), for each of the three.
    """
    every, replicates = pairs(blocks[0][0].shape[1]), len(weights[0])
    gaps, lags = np.zeros((2, replicates)), [np.zeros(())] * 3
    for part in np.array_split(every, 1 + every.shape[1] * replicates // PAIRS_AT_ONCE, axis=1):
        sets = [Moments.resampled(*each, part) for each in zip(blocks, weights, strict=True)]
        between = made, real, learned = [correlations(each) for each in sets]
        gaps += [np.abs(each - real).sum(axis=-1, dtype=np.float64) for each in (made, learned)]
        lags = [sums + _summed_by_lag(r, each) for sums, r, each in zip(lags, between, sets, strict=True)]
    s, h, t = ({**_without_pairs(each), "lag": sums / _lags(each)} for each, sums in zip(sets, lags, strict=True))
    found, floors = ({"correlation": gap / max(1, every.shape[1])} for gap in gaps)
    return found | distances(s, h), floors | distances(t, h)
