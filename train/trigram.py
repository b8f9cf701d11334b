"""The free baseline for texts: a trigram model, fitted by counting."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from train.codec import END, PADDING, UNKNOWN

DISCOUNT = 0.75  # what is taken from every count for the shorter context: the usual value for absolute discounting
ORDER = 3

Context = tuple[int, ...]


class Trigram:
    """Each token given the two before it, by interpolated absolute discounting (Ney, Essen and Kneser 1994).

    With c the counts after a context and d the discount, a token w comes with the probability

        P(w | u v) = max(c(u v w) - d, 0) / c(u v) + share(u v) P(w | v),    share = d * distinct followers / c(u v)

    and so on down to the counts without context. That is a mixture, and is drawn as one.
    """

    def __init__(self, codes: Tensor) -> None:
        """Count.

        Args:
            codes: token ids, (rows, length), with end tokens and padding.
        """
        self.length = codes.shape[1]
        counts: defaultdict[Context, Counter[int]] = defaultdict(Counter)
        for row in codes.tolist():
            tokens = [PADDING] * (ORDER - 1) + [token for token in row if token != PADDING]
            for i in range(ORDER - 1, len(tokens)):
                if tokens[i] != UNKNOWN:
                    for order in range(ORDER):
                        counts[tuple(tokens[i - order : i])][tokens[i]] += 1
        self.followers = {context: _shares(found) for context, found in counts.items()}

    def sample(self, n: int, seed: int) -> Tensor:
        """Token ids, int32 (n, length)."""
        rng = np.random.default_rng(seed)
        codes = torch.full((n, self.length), PADDING, dtype=torch.int32)
        for row in codes:
            tokens = [PADDING] * (ORDER - 1)
            while len(tokens) < self.length + ORDER - 1 and tokens[-1] != END:
                tokens.append(self._next(tokens, rng))
            drawn = tokens[ORDER - 1 :]
            row[: len(drawn)] = torch.tensor(drawn, dtype=torch.int32)
        return codes

    def _next(self, tokens: Sequence[int], rng: np.random.Generator) -> int:
        for order in reversed(range(ORDER)):
            found = self.followers.get(tuple(tokens[len(tokens) - order :]))
            if found is None:
                continue
            ids, cumulative = found
            share = rng.random() * (1.0 if order else cumulative[-1])  # nothing is shorter than no context
            place = int(np.searchsorted(cumulative, share, side="right"))
            if place < len(ids):
                return ids[place]
        raise AssertionError("some token follows the empty context")


def _shares(counts: Counter[int]) -> tuple[list[int], np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """The tokens after a context and the running sum of their discounted shares; the rest is the shorter context's."""
    discounted = np.array(list(counts.values())) - DISCOUNT
    return list(counts), np.cumsum(discounted) / counts.total()
