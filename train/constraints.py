"""Constraints that all known rows satisfy, such as one-hot groups, and synthetic rows may violate.

Two kinds are found: pairs of values, of two columns, that no row has although by the columns' means many should; and
groups of columns of which each row has exactly one 1. Not every such pair is a constraint of the real process, so rows
that violate any are counted among held-out rows, too.
"""

import math
from dataclasses import dataclass, field
from itertools import combinations_with_replacement

import numpy as np

from train.bits import Array, Bits
from train.copies import excess_scores
from train.intervals import Scores

RISK = 0.001  # the chance that rows with independent columns seem to satisfy any constraint

Pairs = dict[tuple[int, int], Array]


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """What rows satisfy.

    Attributes:
        pairs: pairs of values that no row has: for values a <= b, where [i, j] of a bool (length, length) is about
            value a in column i and value b in column j. Each is told once: for equal values, those with i < j.
        groups: columns, in order, of which each row has exactly one 1: three or more, as pairs tell of two. What they
            exclude is not among the pairs.
    """

    pairs: Pairs
    groups: list[list[int]] = field(default_factory=list)

    def __len__(self) -> int:
        return sum(int(pairs.sum()) for pairs in self.pairs.values()) + len(self.groups)

    def violated_by(self, rows: Bits) -> Array:
        """Whether rows violate any, bool (n,)."""
        found = np.zeros(len(rows), bool)
        for (a, b), pairs in self.pairs.items():
            first, second = pairs.any(axis=1), pairs.any(axis=0)
            reached = (rows[:, first] == a).astype(np.float32) @ pairs[np.ix_(first, second)].astype(np.float32)
            found |= ((reached > 0) & (rows[:, second] == b)).any(axis=1)
        for group in self.groups:
            found |= rows[:, group].sum(axis=1) != 1
        return found


def violation_scores(s: Bits, h: Bits, known: Bits) -> Scores:
    """The shares of synthetic and of held-out rows that violate a constraint which all known rows satisfy.

    Returns:
        `constraints`, their number, and `violation_rate`, `_floor` and `_excess`; nothing if there are none.
    """
    constraints = satisfied_by(known)
    if not len(constraints):
        return {}
    rate, floor = (float(constraints.violated_by(rows).mean()) for rows in (s, h))
    return {"constraints": len(constraints), **excess_scores("violation", rate, floor, len(s))}


def satisfied_by(known: Bits) -> Constraints:
    """The constraints that all known rows satisfy."""
    groups, pairs = _groups_of(known), _pairs_of(known, 0)
    for group in groups:
        pairs[1, 1][np.ix_(group, group)] = False
    return Constraints(pairs=pairs, groups=groups)


def expected_violations(known: Bits) -> float:
    """The share of fresh real rows that violate what known ones satisfy, estimated by leaving out each of them in turn.

    That is the share of rows with a pair of values that no other row has.
    """
    return float(Constraints(pairs=_pairs_of(known, 1)).violated_by(known).mean())


def _pairs_of(rows: Bits, number: int) -> Pairs:
    """The pairs of values that this number of rows have, although many should.

    Of independent columns, a pair of which e rows are expected is missing with a chance of exp(-e); e must be so large
    that this is unlikely for all pairs together (Bonferroni).
    """
    n, length = rows.shape
    values = rows.astype(np.float32)
    ones = values.sum(axis=0, dtype=np.float64)
    having = {0: n - ones, 1: ones}
    both_one = values.T @ values  # exact up to 2^24 rows
    both = {
        (0, 0): n - ones[:, None] - ones + both_one,
        (0, 1): ones - both_one,
        (1, 1): both_one,
    }
    enough = math.log(max(1, 2 * length * (length - 1)) / RISK)
    found = {}
    for a, b in combinations_with_replacement((0, 1), 2):
        pairs = (both[a, b] == number) & (np.outer(having[a], having[b]) >= enough * n)
        np.fill_diagonal(pairs, False)
        found[a, b] = np.triu(pairs) if a == b else pairs
    return found


def _groups_of(rows: Bits) -> list[list[int]]:
    """Groups of three or more columns of which each row has exactly one 1.

    Beginning with each column, the next one that no row combines with any of the group is added, until each row has a
    1. So groups whose columns are mixed with others may be missed.
    """
    (n, length), values, ones = rows.shape, rows.astype(np.float32), rows.sum(axis=0, dtype=np.int64)
    exclusive = values.T @ values == 0
    enough = math.log(max(1, length**2) / RISK)
    groups, left = list[list[int]](), ones > 0
    for first in range(length):
        group, candidates = [first], exclusive[first] & left & (np.arange(length) > first)
        while left[first] and ones[group].sum() < n and candidates.any():
            group.append(int(candidates.argmax()))
            candidates &= exclusive[group[-1]]
        if len(group) > 2 and ones[group].sum() == n and -n * math.log(_one_alone(ones[group] / n)) >= enough:
            groups.append(group)
            left[group] = False
    return groups


def _one_alone(means: Array) -> float:
    """The chance that exactly one of independent columns with these means, none of them 1, is 1."""
    return float((1 - means).prod() * (means / (1 - means)).sum())
