"""Moments: equal to NumPy's, of different columns."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from train import moments
from train.bits import Bits
from train.moments import Moments

Sets = tuple[Bits, Bits, Bits]


def test_correlations_equal_numpys_where_no_column_is_constant(sets: Sets) -> None:
    rows = sets[0][:, (sets[0].min(axis=0) < sets[0].max(axis=0))]
    first, second = moments.pairs(rows.shape[1])
    expected = np.asarray(np.corrcoef(rows.T))[first, second]
    np.testing.assert_allclose(moments.correlations(Moments.of(rows)), expected, atol=1e-9)


@given(st.integers(0, 12))
def test_triples_are_different_columns(length: int) -> None:
    triples = moments.draw_triples(length)
    assert len({tuple(t) for t in triples.tolist()}) == len(triples) == math.comb(length, 3)
    assert all(len(set(t)) == 3 and max(t) < length for t in triples.tolist())


def test_many_columns_get_three_thousand_triples() -> None:
    triples = moments.draw_triples(64)
    assert len({tuple(sorted(t)) for t in triples.tolist()}) == len(triples) == 3000
    assert all(len(set(t)) == 3 for t in triples.tolist())
