"""Rows of 0/1 in NumPy, and packed into 64-bit words, by which rows are compared fast.

Bits are uint8 (n, length).
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Bits = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

WORDS_PER_PASS = 1 << 20  # keeps intermediate results within the cache


def packed_words(bits: Bits) -> Array:
    """Each row's bits packed into 64-bit words, padded with zeros: uint64 (rows, words)."""
    packed = np.packbits(bits, axis=1)
    return np.ascontiguousarray(np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))).view(np.uint64)


def row_keys(bits: Bits) -> Array:
    """One opaque value for each row, equal for equal rows."""
    words = packed_words(bits)
    return words.view(np.dtype((np.void, words.shape[1] * 8))).ravel()


def nearest(rows: Bits, others: Bits) -> tuple[Array, Array, Array]:
    """For each row: the Hamming distance to its nearest others, the index of the first of these, and their number."""
    a, b = packed_words(rows), packed_words(others)
    found = [_nearest(part, b) for part in np.array_split(a, 1 + a.size * len(b) // WORDS_PER_PASS)]
    distance, index, count = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return distance, index, count


def _nearest(a: Array, b: Array) -> tuple[Array, Array, Array]:
    distances = hamming_distances(a, b)
    at_least = distances == distances.min(axis=1, keepdims=True)
    index = at_least.argmax(axis=1)
    return distances[np.arange(len(a)), index], index, at_least.sum(axis=1)


def hamming_distances(a: Array, b: Array) -> Array:
    """Hamming distances between two sets of packed rows: uint32 (rows of a, rows of b)."""
    distances = np.zeros((len(a), len(b)), np.uint32)
    for word in range(a.shape[1]):
        distances += np.bitwise_count(a[:, None, word] ^ b[None, :, word])
    return distances
