"""The warm start of the text generator: what likelihood can teach, before the adversarial game begins.

N-grams are counted first. The net then learns what they miss: while it trains, the n-grams' probability of each token
comes from the other folds of the training rows, as it would for unseen rows. The weights are averaged over steps, and
those under which the validation rows are likeliest are kept.

Finally the net is sharpened, because likelihood spreads it over too many tokens, and draws have too few of the phrases
that real texts share (Braverman et al. 2020, "Calibration, entropy rates, and memory in language models"). Sharpening
makes common tokens commoner still, so the net's output is then shifted over some rounds until draws contain each token
about as often as the training rows do, and end where those end.

Once validation rows have nothing more to decide, `recount` includes them in the counts.
"""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train import cpus, distributed
from train.average import move_average
from train.codec import END, PADDING, UNKNOWN
from train.game import NonFiniteError
from train.generator import LabelledRows, Map
from train.ngram import NgramModel, fit_ngrams, windows
from train.phase import Stateful
from train.progress import Progress
from train.text_draws import chances, draw_together
from train.text_generator import Dropped, LanguageModel, TokenGenerator, backoff_share

log = logging.getLogger("lookalike")

NGRAM_ROWS = 20_000  # at most this many rows are counted, because the table ships with the generator
FOLDS = 10
BATCH, LEARNING_RATE, WEIGHT_DECAY, AVERAGE = 32, 4e-3, 0.01, 0.995
WORD_DROPOUT, DROPOUT = 0.1, 0.4  # shares of the tokens read and of the features, see `text_generator.Dropped`
CHECK_STEPS = 500  # between two checks; an epoch, if that is shorter
PATIENCE = 3  # checks without improvement that end the training
TEMPERATURE = 0.8  # the net's logits are divided by it after training
CALIBRATION_ROUNDS, RECOUNT_ROUNDS = 12, 8
CALIBRATION_ROWS = 4000
CALIBRATION_TOKENS = 200_000  # fewer rows of long texts, which take longer to draw
# More draws than this for each given row, beyond the fewest, tell little: the given rows are the smaller sample then.
DRAWS_A_ROW, FEWEST_CALIBRATION_ROWS = 10, 500
CALIBRATION_SEED = 777_777  # of the first round's draws; the game's passes use --seed and the numbers after it
CALIBRATION_SHARE, CALIBRATION_SECONDS = 0.2, 30.0  # reserved for calibration: a share of the time, and the most
PSEUDOCOUNT = 10.0  # dampens corrections of tokens drawn less often, which are mostly chance
ENDING_PSEUDOCOUNT = 30.0  # the same for the rows that end at a position
ENDING_COUNT = 10  # occurrences that a token needs to count as one that ends rows
JITTER = 3.0  # tokens of random noise in the sorting of rows by length


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of token ids with what the n-grams say about each token, and the rows' classes, on the device that trains.

    Attributes:
        codes: int64 (rows, length).
        known, masses, backoff: see `LanguageModel.forward`.
        labels: int64 (rows,), or None.
        lengths: tokens per row, (rows,), always on the CPU, so that a batch's width need not wait for the device.
    """

    codes: Tensor
    known: Tensor
    masses: Tensor
    backoff: Tensor
    labels: Tensor | None
    lengths: Tensor

    @classmethod
    def of(cls, rows: LabelledRows, model: LanguageModel, *, counted: bool = False, device: str = "cpu") -> "Rows":
        """Look up the rows in the model's n-grams, all on the CPU, and move what was found to the device.

        Args:
            counted: whether the n-grams are of these rows, or of the first `NGRAM_ROWS`. Each of those is then looked
                up in n-grams of the other folds.
        """
        codes = rows.codes.long()
        known, backoff = torch.zeros(2, *codes.shape)
        masses = torch.zeros(*codes.shape, 2)
        for chosen, ngrams in _lookups(codes, model, counted):
            known[chosen], masses[chosen], backoff[chosen] = _look_up(codes[chosen], ngrams, model.head)
        return cls(
            codes=codes.to(device),
            known=known.to(device),
            masses=masses.to(device),
            backoff=backoff.to(device),
            labels=None if rows.labels is None else rows.labels.to(device),
            lengths=(codes != PADDING).sum(1),
        )

    def width(self, rows: Tensor) -> int:
        """The length of the longest of some rows, whose indices are on the CPU."""
        return int(self.lengths[rows].max())

    def batch(self, rows: Tensor, width: int) -> dict[str, Any]:
        """The arguments of `LanguageModel.forward` for some rows, whose indices are on the rows' device."""
        labels = None if self.labels is None else self.labels[rows]
        values = {"codes": self.codes, "known": self.known, "masses": self.masses, "backoff": self.backoff}
        return {**{name: value[rows, :width] for name, value in values.items()}, "labels": labels}


def _lookups(codes: Tensor, model: LanguageModel, counted: bool) -> Iterator[tuple[Tensor, NgramModel]]:
    """Which rows, as a mask, to look up in which n-grams."""
    if model.ngrams is None:
        return
    row, own = torch.arange(len(codes)), codes[: NGRAM_ROWS if counted else 0]
    yield row >= len(own), model.ngrams
    for each in range(min(FOLDS, len(own))):
        fold = (row % FOLDS == each) & (row < len(own))
        others = fit_ngrams(own[~fold[: len(own)]], model.ngrams.vocabulary, model.head, deferred=model.ending)
        yield fold, others


def _look_up(codes: Tensor, ngrams: NgramModel, head: int) -> tuple[Tensor, Tensor, Tensor]:
    """What n-grams say about each token: `known`, `masses` and `backoff` of `LanguageModel.forward`."""
    first, second, token = (each.flatten() for each in windows(codes))
    token = token.masked_fill(token >= head, UNKNOWN)
    masses = ngrams.masses(first, second)
    padding = torch.full_like(token, PADDING)  # stands for the tokens that are left to the net
    backoff = backoff_share(masses) + ngrams.probability_without_unigrams(first, second, padding)
    known = ngrams.probability_without_unigrams(first, second, token)
    return known.view_as(codes).float(), masses.view(*codes.shape, 2).float(), backoff.view_as(codes).float()


class TextWarmStart(Stateful):
    """Fits the generator's language model to the training rows by likelihood; see `phase.Phase`.

    Args:
        generator: its n-grams, if it has any, must have been counted.
        train, validation: token ids, with classes if the model has classes.
        rounds: of calibration after sharpening; with 0 the net is not sharpened, either.
        device: where to train; the generator is moved there.
    """

    MODULES = ("model", "average", "optimizer")
    VALUES = ("step", "seconds", "failures", "best", "best_weights", "calibrated")

    def __init__(
        self,
        generator: TokenGenerator,
        train: LabelledRows,
        validation: LabelledRows,
        *,
        rounds: int = CALIBRATION_ROUNDS,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.generator, self.rounds, self.seed = generator, rounds, seed
        self.limit = math.inf
        model = self.model = generator.model
        self.train = Rows.of(train, model, counted=True, device=device)
        self.validation = Rows.of(validation, model, device=device)
        generator.to(device)
        self.average = copy.deepcopy(model)
        self.average.gru.flatten_parameters()  # cuDNN wants contiguous weights, and copying has scattered them
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.99), weight_decay=WEIGHT_DECAY, fused=True
        )
        self.tokens_a_batch = BATCH * float(self.train.lengths.float().mean())
        self.batches = -(-len(self.train.lengths) // BATCH)
        self.check_steps = min(self.batches, CHECK_STEPS)
        self._ordered_epoch, self._order = -1, list[tuple[Tensor, int]]()
        self.step, self.seconds, self.failures, self.best, self.calibrated = 0, 0.0, 0, math.inf, 0
        self.best_weights = copy.deepcopy(self.average.state_dict())

    @property
    def progress(self) -> float:
        return min(1.0, self.seconds / self.limit) if math.isfinite(self.limit) else 0.0

    def run(self, seconds: float, interrupted: Callable[[], bool]) -> bool:
        self.limit = seconds
        calibrating = min(CALIBRATION_SHARE * seconds, CALIBRATION_SECONDS) if self.rounds else 0.0
        return self._learn(seconds - calibrating, interrupted) and self._calibrate(seconds, interrupted)

    def _learn(self, seconds: float, interrupted: Callable[[], bool]) -> bool:
        """Train until done; returns whether it is, with the best weights loaded."""
        if self.calibrated:
            return True
        started = time.monotonic() - self.seconds
        while self.failures < PATIENCE and self.seconds < seconds:
            self._step(*self._next_rows())
            self.step += 1
            if self.step % self.check_steps == 0:
                self._check()
            stop, self.seconds = distributed.all_reduce_max(interrupted(), time.monotonic() - started)
            if stop:
                return False
        self._choose_weights()
        (self.seconds,) = distributed.all_reduce_max(time.monotonic() - started)
        return True

    def _calibrate(self, seconds: float, interrupted: Callable[[], bool]) -> bool:
        """Sharpen and calibrate, if there is time; returns whether all rounds that there is time for are done."""
        started = time.monotonic() - self.seconds
        alone = self.generator.with_options(candidates=1)  # the scorer cannot choose yet
        while self.calibrated < self.rounds and self.seconds < seconds:
            if not self.calibrated:
                sharpen(self.model)
            calibrate(alone, self.train.codes, CALIBRATION_SEED + self.calibrated)
            self.calibrated += 1
            stop, self.seconds = distributed.all_reduce_max(interrupted(), time.monotonic() - started)
            if stop:
                return False
        log.debug("warm start: calibrated %d times", self.calibrated)
        if self.rounds and not self.calibrated and distributed.is_main():
            log.warning(
                "the warm start had no time left to sharpen and calibrate the net; more --max-minutes would help"
            )
        return True

    def _next_rows(self) -> tuple[Tensor, int]:
        """The indices of the current step's rows, and their width; each epoch has its own order.

        The indices of a whole epoch move to the device at once, so that no step waits for them.
        """
        epoch, position = divmod(self.step, self.batches)
        if epoch != self._ordered_epoch:
            self._ordered_epoch = epoch
            parts = batches_by_length(self.train.lengths, BATCH, self.seed + epoch)
            moved = torch.cat(parts).to(self.train.codes.device).split([len(part) for part in parts])
            self._order = list(zip(moved, map(self.train.width, parts), strict=True))
        return self._order[position]

    def _step(self, rows: Tensor, width: int) -> None:
        """One update; with several processes, each computes on its part of the rows."""
        dropped = draw_dropped(self.model, len(rows), width)
        mine, weight = distributed.weighted_portion(len(rows))
        self.optimizer.zero_grad()
        both, net = self.model(**self.train.batch(rows[mine], width), dropped=dropped.of(mine))
        # The net's own likelihood is added: from the mixture's alone it would never start to learn.
        # Divided by the mean number of tokens: batches hold rows of similar length, so dividing by a batch's own number
        # would give tokens of short rows more weight.
        (-weight * (both + net).sum() / self.tokens_a_batch).backward()
        distributed.average_gradients(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        move_average(self.average, self.model, min(AVERAGE, (self.step + 1) / (self.step + 10)))

    def _choose_weights(self) -> None:
        if self.step % self.check_steps:
            self._check()
        self.model.load_state_dict(self.best_weights)

    def _check(self) -> None:
        loss = mean_loss(self.average, self.validation)
        if math.isnan(loss):
            raise NonFiniteError(f"the loss of validation texts is NaN after {self.step} steps of the warm start")
        self.failures += 1
        if loss < self.best:
            self.best, self.failures, self.best_weights = loss, 0, copy.deepcopy(self.average.state_dict())
        log.debug("warm start: step %d, %.2f nats a row", self.step, loss)


def new_generator(
    codes: Tensor,
    *,
    vocabulary: int,
    head: int,
    embedding: int = 128,
    hidden: int,
    labels: Tensor | None = None,
    classes: int = 0,
    candidates: int,
) -> TokenGenerator:
    """A generator with the n-grams of the training rows and an untrained net.

    Args:
        codes: token ids, (rows, length); the commoner a token, the lower its id.
        vocabulary: how many tokens there are.
        head: how many of them the net knows; the rest are left to the n-grams.
        labels: the rows' classes, from 0 on (rows,); None without classes.
        classes: how many there are.
    """
    ending = ending_tokens(codes, min(head, vocabulary))
    ngrams, rare = count_ngrams(codes, vocabulary, head, ending)
    grams = len(ngrams.grams), len(rare.grams)
    generator = TokenGenerator(codes.shape[1], vocabulary, head, embedding, hidden, classes, *grams, candidates)
    for ours, counted in ((generator.model.ngrams, ngrams), (generator.model.rare, rare)):
        if ours is not None:
            ours.load_state_dict(counted.state_dict())
    generator.model.ending.copy_(ending)
    if labels is not None:
        generator.shares.copy_(labels.bincount(minlength=classes) / len(labels))
    return generator


def count_ngrams(codes: Tensor, vocabulary: int, head: int, ending: Tensor) -> tuple[NgramModel, NgramModel]:
    """The n-grams of token ids, (rows, length): those that predict common tokens, and those that predict rare ones.

    Args:
        ending: whether a common token is left to the net, (head,).
    """
    counted = codes[:NGRAM_ROWS]
    return fit_ngrams(counted, vocabulary, head, deferred=ending), fit_ngrams(counted, vocabulary, head, rare=True)


def ending_tokens(codes: Tensor, head: int) -> Tensor:
    """Whether a token ends a row, bool (head,): END, and tokens that END follows more often than not.

    Args:
        codes: token ids, (rows, length).
    """
    codes = codes.long()
    last = F.pad(codes[:, 1:], (0, 1)) == END
    found, ended = (each.bincount(minlength=head)[:head] for each in (codes.flatten(), codes[last]))
    ending = (found >= ENDING_COUNT) & (2 * ended > found)
    ending[[PADDING, END, UNKNOWN]] = torch.tensor([False, True, False])
    return ending


def recount(generator: TokenGenerator, codes: Tensor, *, chosen: bool = True) -> None:
    """Replace the n-grams by those of these rows, and calibrate to these rows; the net's other weights stay.

    Args:
        codes: token ids, (rows, length), on the generator's device.
        chosen: calibrate what is chosen among candidates, else single draws.
    """
    model = generator.model
    model.gru.flatten_parameters()  # cuDNN wants contiguous weights, and copying has scattered them
    if model.rare is None:  # the model cannot draw rare tokens
        codes = codes.masked_fill(codes >= model.head, UNKNOWN)
    if model.ngrams is not None:
        counted = count_ngrams(codes.cpu(), generator.vocabulary, model.head, model.ending.cpu())
        ngrams, rare = (each.to(codes.device) for each in counted)
        model.ngrams, generator.grams = ngrams, len(ngrams.grams)
        if model.rare is not None:
            model.rare, generator.rare_grams = rare, len(rare.grams)
    drawing = generator if chosen else generator.with_options(candidates=1)
    each: Map = map if codes.is_cuda else cpus.in_threads
    work = "calibrating" if chosen else "calibrating the warm start"
    with Progress(work, RECOUNT_ROUNDS, unit="round") as progress:
        for done in range(RECOUNT_ROUNDS):
            seed = CALIBRATION_SEED + CALIBRATION_ROUNDS + done
            calibrate(drawing, codes, seed, rate=1 / max(1, done - 1), each=each)
            progress.add(1)


def draw_dropped(model: LanguageModel, rows: int, width: int) -> Dropped:
    """Random dropout masks for a batch of `rows` rows of `width` tokens."""
    weight = model.embedding.weight
    words = torch.rand(rows, width, device=weight.device) < WORD_DROPOUT
    sizes = model.gru.input_size, model.gru.hidden_size, model.project.out_features
    return Dropped(words, *(F.dropout(weight.new_ones(rows, 1, size), DROPOUT) for size in sizes))


def batches_by_length(lengths: Tensor, size: int, seed: int) -> list[Tensor]:
    """The indices of all rows in batches of rows with similar `lengths` (rows,), the batches in random order."""
    rng = torch.Generator().manual_seed(seed)
    order = (lengths + JITTER * torch.rand(len(lengths), generator=rng)).argsort()
    parts = order.split(size)
    return [parts[i] for i in torch.randperm(len(parts), generator=rng).tolist()]


@torch.no_grad()
def sharpen(model: LanguageModel) -> None:
    """Divide the net's logits by `TEMPERATURE`, without changing what it reads and what the gate sees."""
    label = () if model.label_output is None else model.label_output.parameters()
    for parameter in (*model.project.parameters(), model.bias, *label):
        parameter.div_(TEMPERATURE)


@torch.no_grad()
def calibrate(generator: TokenGenerator, codes: Tensor, seed: int, rate: float = 1.0, each: Map = map) -> None:
    """Shift the net's output towards draws that contain each token as often as the given rows, and end where they do.

    With several candidates, draws are weighted by their chance of being chosen. Rare tokens are counted as one. The
    tokens that end a row are shifted by position instead, so that of the rows that reach a position, the same share
    begins to end there. Several rounds are needed, because the n-grams' share of the draws is not shifted, and because
    a shifted token also changes what follows it.

    Args:
        codes: token ids, (rows, length).
        seed: of the draws.
        rate: the share of the estimated shift that is applied.
        each: how passes are mapped to draws; in training one after the other, because the minutes that a baseline gets
            are spent by one thread, too.
    """
    model, k = generator.model, generator.candidates
    affordable = min(CALIBRATION_ROWS, -(-CALIBRATION_TOKENS // generator.length))
    telling = max(FEWEST_CALIBRATION_ROWS, DRAWS_A_ROW * len(codes))
    drawn = draw_together(generator, max(k, min(affordable, telling)), seed, each).to(codes.device)
    chosen = chances(generator, drawn, seed)
    shares = None if chosen is None else chosen.to(codes.device)
    wanted, found = _counts(model, codes), _counts(model, drawn.codes, shares)
    wanted *= found.sum() / wanted.sum().clamp(min=1)  # in one-word texts all tokens may be ones that end a row
    model.bias.add_(rate * ((wanted + PSEUDOCOUNT) / (found + PSEUDOCOUNT)).log())
    (wanted, lasting), (found, going_on) = _ends(model, codes), _ends(model, drawn.codes, shares)
    wanted *= going_on / lasting.clamp(min=1)
    model.ending_shift.add_(rate * ((wanted + ENDING_PSEUDOCOUNT) / (found + ENDING_PSEUDOCOUNT)).log())


def _counts(model: LanguageModel, rows: Tensor, weights: Tensor | None = None) -> Tensor:
    """How often each token occurs in rows of token ids, UNKNOWN standing for all rare ones: float64 (head,).

    Tokens that end a row are not counted.

    Args:
        weights: how much each row counts, (rows,); None for 1.
    """
    known = (rows != PADDING) & (rows != UNKNOWN)
    each = None if weights is None else weights[:, None].expand_as(rows)[known]
    counts = model.common(rows[known].long()).bincount(each, minlength=len(model.bias))
    return counts.double().masked_fill(model.ending, 0)


def _ends(model: LanguageModel, rows: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How many rows of token ids begin to end at each position, and how many reach it: both float64 (length,).

    A row begins to end after its last token that does not end rows. The weights are as in `_counts`.
    """
    going = (rows != PADDING) & ~model.ending[model.common(rows.long())]
    first = (going * torch.arange(1, rows.shape[1] + 1, device=rows.device)).amax(1)
    ends = first.bincount(weights, minlength=rows.shape[1] + 1).double()
    return ends[:-1], ends.flip(0).cumsum(0).flip(0)[:-1]


@torch.no_grad()
def mean_loss(model: LanguageModel, rows: Rows) -> float:
    """Mean nats per row; unknown tokens do not count. With several processes, each computes its part of the rows."""
    parts, device = torch.arange(len(rows.codes))[distributed.portion(len(rows.codes))].split(64), rows.codes.device
    found = [model(**rows.batch(part.to(device), rows.width(part)))[0].sum() for part in parts if len(part)]
    return -distributed.all_reduce_sum(sum(torch.stack(found).tolist()) if found else 0.0) / len(rows.codes)
