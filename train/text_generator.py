"""The text generator: sentences of token ids, drawn token by token and chosen among candidates by a discriminator.

A row is padded with PADDING after its END; UNKNOWN stands for words that the vocabulary lacks and is never generated.
This module is a LEAF (see train/__init__.py).
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from train.codec import END
from train.generator import CANDIDATES, TEMPERATURE, Generator, Option
from train.language_model import LanguageModel
from train.scorer import Scorer, scores_of

ROWS_PER_PASS = 1024  # candidates; larger passes ask the system for new memory at each token
CLOSE_CALL = 1e-3  # far more than single precision moves the sum of candidates' chances, which is 1


class TokenGenerator(Generator):
    """Sentences: for each row `candidates` are drawn, and one of them is taken in proportion to exp(score).

    This is sampling-importance resampling (Rubin 1987) by a discriminator's density ratio: Azadi et al. (2019) reject
    instead; Deng et al. (2020), "Residual energy-based models for text generation", resample as here. Each token is
    found by inverse distribution functions from three uniform numbers.

    Args:
        length: the most tokens of a sentence.
        vocabulary, head: how many tokens there are, and how many of them the net knows.
        embedding, hidden: sizes of the net.
        labels: how many classes there are.
        grams, rare_grams: how many n-grams have been counted.

    Attributes:
        temperature: divides the net's logits and the logarithms of the n-grams' counts, for rare tokens as for common
            ones; 1 changes nothing.
        candidates: how many sentences are drawn for each one returned.
        label: the class of all rows; None draws classes as often as they occur in the training rows.
    """

    name = "tokens"
    code_type = torch.int32

    def __init__(
        self,
        length: int,
        vocabulary: int,
        head: int,
        embedding: int,
        hidden: int,
        labels: int = 0,
        grams: int = 0,
        rare_grams: int = 0,
        candidates: int = 1,
    ) -> None:
        super().__init__()
        self.length, self.vocabulary, self.head = length, vocabulary, min(head, vocabulary)
        self.embedding, self.hidden = embedding, hidden
        self.labels, self.grams, self.rare_grams, self.candidates = labels, grams, rare_grams, candidates
        self.temperature = 1.0
        self.label: int | None = None
        self.code_values = vocabulary
        self.model = LanguageModel(vocabulary, self.head, embedding, hidden, labels, grams, rare_grams, length)
        self.scorer = Scorer(self.head, labels)
        self.shares: Tensor
        self.register_buffer("shares", torch.full((max(1, labels),), 1 / max(1, labels)))

    def config(self) -> dict[str, Any]:
        sizes = ("length", "vocabulary", "head", "embedding", "hidden", "labels", "grams", "rare_grams", "candidates")
        return {name: getattr(self, name) for name in ("name", *sizes)}

    @property
    def options(self) -> Mapping[str, Option]:
        label = {"label": Option(kind=int, low=0, high=self.labels - 1)} if self.labels else {}
        return {"temperature": TEMPERATURE, "candidates": CANDIDATES, **label}

    @property
    def rows_per_pass(self) -> int:  # type: ignore[override]
        return max(1, ROWS_PER_PASS // self.candidates)

    @property
    def noise_size(self) -> int:  # type: ignore[override]
        return 3 * self.candidates * self.length + 2

    def forward(self, noise: Tensor) -> Tensor:
        """Token ids, (rows, length), for uniform noise: column 0 chooses the candidate, column 1 the class."""
        rows, k = len(noise), self.candidates
        labels = self.labels_of(noise)
        labels = None if labels is None else labels.repeat_interleave(k)
        codes = self._draw(noise[:, 2:].reshape(rows * k, self.length, 3), labels)
        if k == 1:
            return codes.to(noise)
        chosen = self._choose(codes.view(rows, k, -1), None if labels is None else labels.view(rows, k), noise[:, 0])
        return codes.view(rows, k, -1)[torch.arange(rows, device=codes.device), chosen].to(noise)

    def _choose(self, codes: Tensor, labels: Tensor | None, uniform: Tensor) -> Tensor:
        """The candidate at each uniform number (rows,), from (rows, candidates, length).

        Convolutions take four times as long in double precision, so they are in single precision, except for the rows
        whose choice that could change.
        """
        double = uniform.dtype == torch.float64
        # A copy, because another thread may be drawing, too.
        edges = self._edges(copy.deepcopy(self.scorer).float() if double else self.scorer, codes, labels)
        close = (uniform[:, None] - edges).abs().amin(1) < CLOSE_CALL
        if double and close.any():
            edges[close] = self._edges(self.scorer, codes[close], None if labels is None else labels[close])
        return (uniform[:, None] >= edges).sum(1)

    def _edges(self, scorer: Scorer, codes: Tensor, labels: Tensor | None) -> Tensor:
        """Where one candidate's share of [0, 1] ends and the next one's begins, float64 (rows, candidates - 1)."""
        scores = scores_of(scorer, codes.flatten(0, 1), None if labels is None else labels.flatten())
        return scores.view(codes.shape[:2]).double().softmax(1).cumsum(1)[:, :-1]

    def labels_of(self, noise: Tensor) -> Tensor | None:
        if not self.labels:
            return None
        uniform = noise[:, 1].to(self.shares)
        if self.label is not None:
            return torch.full_like(uniform, self.label, dtype=torch.long)
        return (uniform[:, None] >= self.shares.cumsum(0)).sum(1).clamp(max=self.labels - 1)

    def _draw(self, uniform: Tensor, labels: Tensor | None) -> Tensor:
        """Token ids, int64 (rows, length), from uniform (rows, length, 3). Rows that have ended leave the batch."""
        codes = uniform.new_zeros(uniform.shape[:2], dtype=torch.long)
        going = torch.arange(len(uniform), device=uniform.device)
        context = self.model.start(len(uniform), labels)
        token = context.token
        for t in range(self.length):
            context = self.model.step(context, token)
            token = self.model.draw(context, uniform[going, t], self.temperature, t)
            codes[going, t] = token
            kept = (token != END).nonzero().squeeze(1)
            if len(kept) < len(token):
                going, token, context = going[kept], token[kept], context.take(kept)
            if not len(going):
                break
        return codes
