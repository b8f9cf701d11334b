"""The language model of the text generator: a recurrent net and n-grams, from whose mixture each token is drawn.

This module is a LEAF (see train/__init__.py).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.codec import END, PADDING, UNKNOWN
from train.ngram import NgramModel

BLOCK = 64  # tokens per block in `pick`, which searches first for the block, then for the token in it


class Dropped(NamedTuple):
    """Dropout masks for a batch of the language model.

    The factors are the same at all positions of a row (Gal and Ghahramani 2016).

    Attributes:
        words: the tokens that are read as UNKNOWN, bool (rows, length).
        read, state, features: factors for the embeddings read, the net's state, and the features that tokens are drawn
            from, (rows, 1, embedding), (rows, 1, hidden), (rows, 1, embedding).
    """

    words: Tensor
    read: Tensor
    state: Tensor
    features: Tensor

    def of(self, rows: slice) -> "Dropped":
        """The same for some of the rows."""
        return Dropped(*(each[rows] for each in self))


class Context(NamedTuple):
    """What the next token of each row is drawn from.

    Attributes:
        before, token: the last two tokens (rows,).
        labels: classes (rows,), if the model has classes.
        state: the net's state after these tokens (rows, hidden).
    """

    before: Tensor
    token: Tensor
    labels: Tensor | None
    state: Tensor

    def take(self, rows: Tensor) -> "Context":
        """The same for some of the rows."""
        labels = None if self.labels is None else self.labels[rows]
        return Context(self.before[rows], self.token[rows], labels, self.state[rows])


class LanguageModel(nn.Module):
    """Predicts the next token by a mixture of a recurrent net and an n-gram model, weighted by a gate.

    p(token | before) = (g + (1 - g) * u) * p_net(token | all before) + (1 - g) * p_ngram(token | two before)

    p_ngram is the part of trigrams and bigrams, and u the share that they leave to the net. That share is what they
    would pass on to unigrams, which ignore the context, and what they have counted as PADDING, which stands for the
    tokens that end a row: n-grams do not know how long the row is so far.

    Both predict only the `head` commonest tokens, and UNKNOWN for all others: so the whole sentence so far decides
    where a rare token comes. Which one it is, is drawn from further n-grams, `rare`.

    After training, the log-odds of the tokens that end a row are shifted by position.

    The net is a GRU (Cho et al. 2014) whose input and output share an embedding (Press and Wolf 2017, "Using the output
    embedding to improve language models"). A label adds one embedding to every token read, and another to the features
    that every token is drawn from.
    """

    def __init__(
        self,
        vocabulary: int,
        head: int,
        embedding: int,
        hidden: int,
        classes: int = 0,
        grams: int = 0,
        rare_grams: int = 0,
        length: int = 0,
    ) -> None:
        super().__init__()
        self.head = head
        self.ending: Tensor  # whether a token ends a row
        self.register_buffer("ending", torch.zeros(head, dtype=torch.bool))
        self.ending_shift: Tensor
        self.register_buffer("ending_shift", torch.zeros(length))
        self.embedding = nn.Embedding(head, embedding)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.label = nn.Embedding(classes, embedding) if classes else None
        self.label_output = nn.Embedding(classes, embedding) if classes else None
        if self.label is not None and self.label_output is not None:
            nn.init.normal_(self.label.weight, std=0.1)
            nn.init.zeros_(self.label_output.weight)
        self.gru = nn.GRU(embedding, hidden, batch_first=True)
        self.project = nn.Linear(hidden, embedding)
        self.bias = nn.Parameter(torch.zeros(head))
        self.gate = nn.Linear(hidden + 2, 1)
        self.ngrams = NgramModel(vocabulary, grams) if grams else None
        self.rare = NgramModel(vocabulary, rare_grams) if rare_grams else None

    def forward(
        self,
        codes: Tensor,
        known: Tensor,
        masses: Tensor,
        backoff: Tensor,
        labels: Tensor | None = None,
        dropped: Dropped | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The log-probability of every token of given rows, (rows, length), by the mixture and by the net alone.

        For rare tokens it is that of UNKNOWN. It is 0 for padding, for unknown tokens and, if the model has no n-grams
        for them, for rare ones.

        Args:
            codes: token ids, int64 (rows, length).
            known: the n-gram model's `probability_without_unigrams`, (rows, length).
            masses: its `masses`, (rows, length, 2).
            backoff: the share that it leaves to the net, (rows, length).
            labels: classes (rows,), if the model has classes.
            dropped: dropout masks, in training.
        """
        read = F.pad(codes[:, :-1], (1, 0), value=END)
        if dropped is None:
            state, _ = self.gru(self._embed(read, labels))
            features = self.project(state)
        else:
            read = read.masked_fill(dropped.words, UNKNOWN)
            state, _ = self.gru(self._embed(read, labels) * dropped.read)
            state = state * dropped.state
            features = self.project(state) * dropped.features
        judged = (codes != PADDING) & (codes != UNKNOWN)
        if self.rare is None:
            judged &= codes < self.head
        # Padding is computed, too: there is little of it, and leaving it out would make the CPU wait for the GPU.
        rows, width = codes.shape
        theirs = None if labels is None else labels.repeat_interleave(width)
        logits = self._logits(features.flatten(0, 1), theirs, self.ending_shift[:width].repeat(rows))
        chosen = F.cross_entropy(logits, self.common(codes).flatten(), reduction="none")
        net = torch.where(judged, -chosen.view_as(known), 0.0)
        if self.ngrams is None:
            return net, net
        gate = self.gate(torch.cat([state, masses], 2)).squeeze(2)
        share = torch.logaddexp(F.logsigmoid(gate), F.logsigmoid(-gate) + backoff.clamp(min=1e-12).log())
        table = known.clamp(min=1e-12).log() + F.logsigmoid(-gate)
        return torch.where(judged, torch.logaddexp(net + share, table), 0.0), net

    def start(self, rows: int, labels: Tensor | None) -> Context:
        """The context of rows of which nothing was read; the token to read first is END, as if it stood before them."""
        end = torch.full((rows,), END, device=self.bias.device)
        return Context(end, end, labels, self.bias.new_zeros(rows, self.gru.hidden_size))

    def step(self, context: Context, token: Tensor) -> Context:
        """The context after one more token (rows,)."""
        _, state = self.gru(self._embed(token[:, None], context.labels), context.state[None])
        return Context(context.token, token, context.labels, state[0])

    def draw(self, context: Context, uniform: Tensor, temperature: float, position: int) -> Tensor:
        """The next token of each row.

        Args:
            uniform: uniform numbers (rows, 3): the first chooses between net and n-grams and then the token, the second
                the net's token where the n-grams leave it to the net, the third the rare token.
            position: the token's position in the rows.
        """
        rare_mass = None
        if self.rare is not None and temperature != 1:
            rare_mass = self.rare.tempered_mass(context.before, context.token, temperature).to(uniform)
        drawn = self._draw_common(context, uniform[:, :2], temperature, position, rare_mass)
        if self.rare is not None:
            rare = drawn == UNKNOWN
            before, token = context.before[rare], context.token[rare]
            drawn[rare] = self.rare.draw(before, token, uniform[rare, 2].double(), temperature)
        return drawn

    def common(self, codes: Tensor) -> Tensor:
        """The tokens, with rare ones replaced by UNKNOWN."""
        return codes.masked_fill(codes >= self.head, UNKNOWN)

    def _draw_common(
        self, context: Context, uniform: Tensor, temperature: float, position: int, rare_mass: Tensor | None
    ) -> Tensor:
        """The next common token, or UNKNOWN for a rare one.

        A temperature applies to each token's own probability. Rare tokens together are often likelier than any common
        token, although each is unlikely; so UNKNOWN's tempered weight must be multiplied by `rare_mass`, (rows,).
        """
        before, token, labels, state = context
        shift = self.ending_shift[position].expand(len(token))
        if self.ngrams is None:
            return pick(self._logits(self.project(state), labels, shift).div_(temperature), uniform[:, 0])
        masses = self.ngrams.masses(before, token).to(state)
        gate = self.gate(torch.cat([state, masses], 1)).squeeze(1).sigmoid()
        backoff = backoff_share(masses)
        share = gate + (1 - gate) * backoff
        first, second = uniform.unbind(1)
        by_ngrams = first >= share
        rest = ((1 - backoff) * (first - share) / (1 - share)).double()[by_ngrams]
        drawn = torch.full_like(token, PADDING)
        drawn[by_ngrams] = self.ngrams.draw(before[by_ngrams], token[by_ngrams], rest, temperature)
        if rare_mass is not None:
            # The net decides instead, by what is left of the uniform number.
            refused = (drawn == UNKNOWN) & (second >= rare_mass)
            drawn[refused] = PADDING
            second = torch.where(refused, (second - rare_mass) / (1 - rare_mass), second)
        by_net = drawn == PADDING
        theirs = None if labels is None else labels[by_net]
        logits = self._logits(self.project(state[by_net]), theirs, shift[by_net]).div_(temperature)
        if rare_mass is not None:
            logits[:, UNKNOWN] += rare_mass[by_net].log()
        drawn[by_net] = pick(logits, torch.where(by_ngrams, second, first / share)[by_net])
        return drawn

    def _embed(self, read: Tensor, labels: Tensor | None) -> Tensor:
        embedded = self.embedding(self.common(read))
        return embedded if self.label is None else embedded + self.label(labels)[:, None]

    def _logits(self, features: Tensor, labels: Tensor | None, shift: Tensor) -> Tensor:
        """The net's logits (rows, head) from features (rows, embedding), with each row's `ending_shift` (rows,)."""
        if self.label_output is not None:
            features = features + self.label_output(labels)
        logits = F.linear(features, self.embedding.weight, self._bias())
        if self.ngrams is None:  # without them nothing is shifted
            return logits
        return logits.addr_(shift, self.ending.to(logits))

    def _bias(self) -> Tensor:
        """The output bias with PADDING ruled out, and UNKNOWN too if there are no rare tokens."""
        token = torch.arange(self.head, device=self.bias.device)
        ruled_out = token == PADDING if self.rare is not None else (token == PADDING) | (token == UNKNOWN)
        return self.bias.masked_fill(ruled_out, -1000.0)


def backoff_share(masses: Tensor) -> Tensor:
    """The share that neither trigrams nor bigrams keep for their own grams: (...) from masses (..., 2)."""
    return (1 - masses).prod(-1)


def pick(logits: Tensor, uniform: Tensor) -> Tensor:
    """The token at each uniform number (rows,) by the inverse distribution function of softmax(logits)."""
    # Single precision is much faster here; draws stay reproducible because the *logits* are exact.
    share = logits.float()
    share = (share - share.amax(1, keepdim=True)).exp_()
    share = F.pad(share, (0, -share.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    blocks = share.sum(2, dtype=torch.float64).cumsum(1)
    left = uniform.double() * blocks[:, -1]
    block = (left[:, None] >= blocks).sum(1).clamp(max=blocks.shape[1] - 1)
    rows = torch.arange(len(share), device=share.device)
    left = left - F.pad(blocks, (1, 0))[rows, block]
    within = share[rows, block].double().cumsum(1)
    return BLOCK * block + (left[:, None] >= within).sum(1).clamp(max=BLOCK - 1)
