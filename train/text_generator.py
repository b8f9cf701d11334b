"""The text generator: sentences of token ids, drawn token by token and chosen among candidates by a discriminator.

A row is padded with PADDING after its END; UNKNOWN stands for words that the vocabulary lacks and is never generated.
This module is a LEAF (see train/__init__.py).
"""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.codec import END, PADDING, UNKNOWN
from train.generator import CANDIDATES, TEMPERATURE, Generator, Option
from train.ngram import NgramModel

ROWS_PER_PASS = 1024  # candidates; larger passes ask the system for new memory at each token
SCORED_ROWS = 256  # at once
CLOSE_CALL = 1e-3  # far more than single precision moves the sum of candidates' chances, which is 1
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
