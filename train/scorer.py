"""The discriminator of texts, which the generator takes with it: it chooses among candidates.

This module is a LEAF (see train/__init__.py).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.codec import END, PADDING, UNKNOWN

SCORED_ROWS = 256  # at once


class Scorer(nn.Module):
    """How real a row looks: the logit of a convolutional net (Kim 2014) plus one that is linear in 1- to 3-grams.

    The n-grams' weights are hashed into one table (Weinberger et al. 2009), so two n-grams may share a weight. Token
    ids from `vocabulary` on are read as UNKNOWN: rare tokens would only help it to recognise its training rows.

    With classes, it says how real a row looks as one of its class: the class adds the inner product of the net's
    features with its own embedding (Miyato and Koyama 2018, "cGANs with projection discriminator"), and each n-gram
    adds a further weight for the class.
    """

    WIDTHS = (2, 3, 4, 5)
    EMBEDDING, CHANNELS = 64, 64
    BUCKETS = 1 << 17
    MULTIPLIERS = (1, 40503, 69069)
    CLASS_STEP = 40009  # offset between the n-gram weights of successive classes in the table

    def __init__(self, vocabulary: int, classes: int = 0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, self.EMBEDDING, padding_idx=PADDING)
        nn.init.normal_(self.embedding.weight, std=0.3)
        self.convolutions = nn.ModuleList(nn.Conv1d(self.EMBEDDING, self.CHANNELS, width) for width in self.WIDTHS)
        self.features = self.CHANNELS * len(self.WIDTHS)
        self.output = nn.Linear(self.features, 1)
        for parameter in self.output.parameters():  # so that before training all rows look equally real
            nn.init.zeros_(parameter)
        self.weights = nn.Parameter(torch.zeros(self.BUCKETS))
        self.label = nn.Embedding(classes, self.features) if classes else None
        if self.label is not None:
            nn.init.zeros_(self.label.weight)

    def forward(self, codes: Tensor, labels: Tensor | None = None, kept: Tensor | None = None) -> Tensor:
        """The logits of token ids (rows, length): (rows,).

        Args:
            labels: classes (rows,), if the model has classes.
            kept: dropout factors for the features, (rows, `features`).
        """
        codes = codes.masked_fill(codes >= self.embedding.num_embeddings, UNKNOWN)
        padded = F.pad(codes, (1, max(self.WIDTHS) - 1))  # marks the start, and makes room for the widest window
        embedded = self.embedding(padded).transpose(1, 2)
        features = torch.cat([convolution(embedded).amax(2) for convolution in self.convolutions], 1).relu()
        if kept is not None:
            features = features * kept
        score = self.output(features).squeeze(1) + self._linear(codes)
        if self.label is None:
            return score
        return score + (features * self.label(labels)).sum(1) + self._linear(codes, labels)

    def _linear(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """The mean weight of a row's n-grams, times the root of their number; with labels, of the class's weights."""
        here = codes != PADDING
        before = codes
        total = self.weights.new_zeros(len(codes))
        key = torch.zeros_like(codes) if labels is None else self.CLASS_STEP * (labels[:, None] + 1)
        for order, multiplier in enumerate(self.MULTIPLIERS):
            key = key + multiplier * before + 7919 * order
            total = total + (self.weights[key % self.BUCKETS] * here).sum(1)
            before = F.pad(before[:, :-1], (1, 0), value=END)
        return total / (len(self.MULTIPLIERS) * here.sum(1)).sqrt()

    @torch.no_grad()
    def rescale(self, factor: float) -> None:
        """Multiply all scores."""
        label = () if self.label is None else self.label.parameters()
        for parameter in (*self.output.parameters(), self.weights, *label):
            parameter.mul_(factor)


def scores_of(scorer: Scorer, codes: Tensor, labels: Tensor | None = None) -> Tensor:
    """The discriminator's scores of token ids (rows, length): (rows,). Rows of similar length share a batch.

    Args:
        labels: classes (rows,), if the model has classes.
    """
    lengths = (codes != PADDING).sum(1)
    order, scores = lengths.argsort(), list[Tensor]()
    for rows in order.split(SCORED_ROWS):
        # Enough padding for a window of nothing else, as all rows have but the longest possible.
        width = int(lengths[rows[-1]]) + max(Scorer.WIDTHS)
        scores.append(scorer(codes[rows, :width], None if labels is None else labels[rows]))
    return torch.cat(scores)[order.argsort()]
