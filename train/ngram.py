"""An n-gram model of token ids: trigrams with interpolated Kneser-Ney smoothing, scored and drawn in batches.

Chen and Goodman (1999), "An empirical study of smoothing techniques for language modeling": the counts in a context
are lowered by discounts, and the freed probability goes to the context without its first token, where distinct
continuations are counted. A row starts as if END stood before it. This module is a LEAF (see train/__init__.py).
"""

from typing import Any, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.codec import END, PADDING, UNKNOWN


class Level(NamedTuple):
    """The n-grams of one order, sorted by context and token."""

    keys: Tensor  # context * vocabulary + token of each gram (grams,)
    tokens: Tensor  # (grams,)
    discounted: Tensor  # counts less the discounts (grams,)
    contexts: Tensor  # (contexts,)
    first: Tensor  # each context's first gram, then the number of grams (contexts + 1,)
    mass: Tensor  # the share of probability that discounting leaves to each context's own grams (contexts,)
    total: Tensor  # each context's count (contexts,)

    def find(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """The index of each context (rows,), and its mass, 0 if it was never seen."""
        if not len(self.contexts):
            return torch.zeros_like(context), torch.zeros_like(context, dtype=torch.float64)
        at = torch.searchsorted(self.contexts, context).clamp(max=len(self.contexts) - 1)
        return at, torch.where(self.contexts[at] == context, self.mass[at], 0)

    def discounted_probability(self, context: Tensor, token: Tensor, vocabulary: int) -> Tensor:
        """The token's discounted count over the count of its context (rows,)."""
        if not len(self.contexts):
            return torch.zeros_like(context, dtype=torch.float64)
        key = context * vocabulary + token
        gram = torch.searchsorted(self.keys, key).clamp(max=len(self.keys) - 1)
        at = torch.searchsorted(self.contexts, context).clamp(max=len(self.contexts) - 1)
        return torch.where(self.keys[gram] == key, self.discounted[gram] / self.total[at], 0)

    def draw(self, at: Tensor, uniform: Tensor, summed: Tensor) -> Tensor:
        """One token of each context by the inverse distribution function, given the grams' `running_sum`."""
        low, high = summed[self.first[at]], summed[self.first[at + 1]]
        gram = torch.searchsorted(summed, low + uniform * (high - low), right=True) - 1
        return self.tokens[torch.minimum(torch.maximum(gram, self.first[at]), self.first[at + 1] - 1)]

    def running_sum(self, temperature: float) -> Tensor:
        """The running sum, from 0, of the discounted counts to the power of 1 / temperature (grams + 1,).

        Counts are relative to the context's highest; otherwise powers of large counts would swamp all later ones.
        """
        context = self.context_of_grams()
        highest = self.discounted.new_zeros(len(self.total)).scatter_reduce(0, context, self.discounted, "amax")
        positive = highest.clamp(min=torch.finfo(highest.dtype).tiny)  # all may be 0
        relative = self.discounted / positive[context]
        return F.pad((relative ** (1 / temperature)).cumsum(0), (1, 0))

    def tempered_mass(self, temperature: float) -> Tensor:
        """The sum over each context's own grams of their probabilities to the power of 1 / temperature (contexts,)."""
        context = self.context_of_grams()
        probability = self.discounted / self.total[context]
        return torch.zeros_like(self.mass).index_add_(0, context, probability ** (1 / temperature))

    def context_of_grams(self) -> Tensor:
        """The index of each gram's context (grams,)."""
        sizes = self.first.diff()
        return torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)


class NgramModel(nn.Module):
    """Trigrams with Kneser-Ney smoothing.

    Attributes:
        grams: distinct trigrams and their counts, int64 (grams, 4), sorted.
    """

    def __init__(self, vocabulary: int, grams: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.grams: Tensor
        self.register_buffer("grams", torch.zeros(grams, 4, dtype=torch.int64))
        self._levels: list[Level] = []
        self._sums: tuple[float, list[Tensor], list[Tensor]] = (0.0, [], [])
        self.register_load_state_dict_post_hook(lambda module, keys: module._forget())

    def levels(self) -> list[Level]:
        """Trigrams, bigrams, unigrams."""
        levels = self._levels
        if not levels:
            grams, count = self.grams[:, :3], self.grams[:, 3]
            levels = [_level(grams, count, self.vocabulary)]
            while grams.shape[1] > 1:
                grams, count = _distinct(grams[:, 1:], self.vocabulary)
                levels.append(_level(grams, count, self.vocabulary))
            self._levels = levels  # assigned when complete, because another thread may read it
        return levels

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        before = self.grams.device
        moved = super()._apply(fn, recurse)
        if self.grams.device != before:
            self._forget()  # what was derived from the grams is still on the old device
        return moved

    def _forget(self) -> None:
        self._levels, self._sums = [], (0.0, [], [])

    def _at(self, temperature: float) -> tuple[list[Tensor], list[Tensor]]:
        """Running sums and tempered masses of the three levels; those of the latest temperature are cached."""
        known = self._sums  # read once, because another thread may replace it
        if known[0] != temperature:
            sums = [level.running_sum(temperature) for level in self.levels()]
            known = self._sums = temperature, sums, [level.tempered_mass(temperature) for level in self.levels()]
        return known[1:]

    def masses(self, first: Tensor, second: Tensor) -> Tensor:
        """The masses of the trigram and the bigram context, 0 if it was never seen: (rows, 2)."""
        trigrams, bigrams, _ = self.levels()
        return torch.stack([trigrams.find(first * self.vocabulary + second)[1], bigrams.find(second)[1]], 1)

    def probability(self, first: Tensor, second: Tensor, token: Tensor) -> Tensor:
        """The probability of a token after two others, float64 (rows,)."""
        alone = self.levels()[2].discounted_probability(torch.zeros_like(token), token, self.vocabulary)
        return self._interpolated(first, second, token, alone)

    def probability_without_unigrams(self, first: Tensor, second: Tensor, token: Tensor) -> Tensor:
        """The same without the unigram term, so without the share that trigrams and bigrams pass on to unigrams."""
        return self._interpolated(first, second, token, torch.zeros_like(token, dtype=torch.float64))

    def _interpolated(self, first: Tensor, second: Tensor, token: Tensor, known: Tensor) -> Tensor:
        trigrams, bigrams, _ = self.levels()
        for level, context in ((bigrams, second), (trigrams, first * self.vocabulary + second)):
            known = level.discounted_probability(context, token, self.vocabulary) + (1 - level.find(context)[1]) * known
        return known

    def tempered_mass(self, first: Tensor, second: Tensor, temperature: float) -> Tensor:
        """The sum over tokens of their probabilities after two others to the power of 1 / temperature, float64 (rows,).

        It is 1 at temperature 1. At lower temperatures it is less, the more so the more tokens there are to choose
        from. A token that both a context's own grams and a shorter context can give counts as two different ones.
        """
        found = torch.zeros_like(first, dtype=torch.float64)
        contexts = (torch.zeros_like(first), second, first * self.vocabulary + second)
        for level, context, tempered in zip(self.levels()[::-1], contexts, self._at(temperature)[1][::-1], strict=True):
            at, mass = level.find(context)
            found = torch.where(mass > 0, tempered[at], 0) + (1 - mass) ** (1 / temperature) * found
        return found

    def draw(self, first: Tensor, second: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
        """A token after two others, from one float64 uniform number each (rows,).

        The temperature affects the choice among a context's own tokens, not how often a shorter context is used.
        """
        token = torch.zeros_like(first)
        undecided = torch.ones_like(first, dtype=torch.bool)
        contexts = (first * self.vocabulary + second, second, torch.zeros_like(first))
        for level, context, summed in zip(self.levels(), contexts, self._at(temperature)[0], strict=True):
            if not undecided.any():
                break
            at, mass = level.find(context)
            here = undecided & (uniform < mass)
            token[here] = level.draw(at[here], (uniform / mass)[here], summed)
            undecided = undecided & ~here
            uniform = ((uniform - mass) / (1 - mass).clamp(min=1e-300)).clamp(0, 1)
        return token


def fit_ngrams(
    codes: Tensor, vocabulary: int, head: int | None = None, *, rare: bool = False, deferred: Tensor | None = None
) -> NgramModel:
    """Count the trigrams of (rows, length) token ids; those with an unknown token are left out.

    Args:
        head: if given, token ids from `head` on are predicted as UNKNOWN; contexts still hold them.
        rare: instead, count only such tokens: the model then says which one UNKNOWN stands for.
        deferred: whether a token is left to the net, (vocabulary,) or (head,): it is predicted as PADDING; contexts
            still hold it.
    """
    first, second, token = windows(codes)
    usable = (token != PADDING) & (first != UNKNOWN) & (second != UNKNOWN) & (token != UNKNOWN)
    if head is not None and rare:
        usable &= token >= head
    elif head is not None:
        token = token.masked_fill(token >= head, UNKNOWN)
    if deferred is not None:
        token = token.masked_fill(deferred[token], PADDING)
    grams, counts = _distinct(torch.stack([first, second, token], -1)[usable], vocabulary)
    model = NgramModel(vocabulary, len(grams))
    model.grams.copy_(torch.cat([grams, counts[:, None]], 1))
    return model


def windows(codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The two tokens before each token, and the token itself: each (rows, length)."""
    codes = codes.long()
    return F.pad(codes, (2, 0), value=END)[:, :-2], F.pad(codes, (1, 0), value=END)[:, :-1], codes


def _distinct(grams: Tensor, vocabulary: int) -> tuple[Tensor, Tensor]:
    """The distinct rows of token ids, sorted, and their counts; `torch.unique` on rows takes ten times as long."""
    key = torch.zeros_like(grams[:, 0])
    for column in grams.T:
        key = key * vocabulary + column
    key, counts = torch.unique(key, return_counts=True)
    columns = []
    for _ in grams.T:
        columns.append(key % vocabulary)
        key = key // vocabulary
    return torch.stack(columns[::-1], 1), counts


def _level(grams: Tensor, count: Tensor, vocabulary: int) -> Level:
    context = torch.zeros_like(count)
    for column in grams.T[:-1]:
        context = context * vocabulary + column
    contexts, sizes = torch.unique_consecutive(context, return_counts=True)
    owner = torch.arange(len(contexts), device=grams.device).repeat_interleave(sizes)
    discounted = count - _discounts(count)[count.clamp(max=3)] if grams.shape[1] > 1 else count.double()
    total, left = (
        count.new_zeros(len(contexts), dtype=torch.float64).index_add_(0, owner, x)
        for x in (count.double(), discounted)
    )
    return Level(
        keys=context * vocabulary + grams[:, -1],
        tokens=grams[:, -1],
        discounted=discounted,
        contexts=contexts,
        first=F.pad(sizes.cumsum(0), (1, 0)),
        mass=left / total,
        total=total,
    )


def _discounts(count: Tensor) -> Tensor:
    """Discounts for counts of 0, 1, 2, and 3 or more, float64 (4,)."""
    n = [max(1, int((count == c).sum())) for c in (1, 2, 3, 4)]
    share = n[0] / (n[0] + 2 * n[1])
    amounts = [(c + 1) - (c + 2) * share * n[c + 1] / n[c] for c in range(3)]
    return torch.tensor(
        [0.0, *(min(max(a, 0.0), c + 0.99) for c, a in enumerate(amounts))], dtype=torch.float64, device=count.device
    )
