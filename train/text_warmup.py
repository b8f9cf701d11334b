"""The warm start of the text generator: what likelihood can teach, before the adversarial game begins.

N-grams are counted first. The net then learns what they miss: while it trains, the n-grams' probability of each token
comes from the other folds of the training rows, as it would for unseen rows. The weights are averaged over steps, and
those under which the validation rows are likeliest are kept.

Finally the net is sharpened and calibrated; see `text_calibration`.
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

from train import distributed, text_calibration
from train.average import move_average
from train.codec import PADDING, UNKNOWN
from train.game import NonFiniteError
from train.generator import LabelledRows
from train.language_model import Dropped, LanguageModel, backoff_share
from train.ngram import NgramModel, fit_ngrams, windows
from train.phase import Stateful
from train.text_calibration import calibrate, sharpen
from train.text_counts import NGRAM_ROWS
from train.text_generator import TokenGenerator

log = logging.getLogger("lookalike")

FOLDS = 10
BATCH, LEARNING_RATE, WEIGHT_DECAY, AVERAGE = 32, 4e-3, 0.01, 0.995
WORD_DROPOUT, DROPOUT = 0.1, 0.4  # shares of the tokens read and of the features, see `language_model.Dropped`
CHECK_STEPS = 500  # between two checks; an epoch, if that is shorter
PATIENCE = 3  # checks without improvement that end the training
CALIBRATION_SHARE, CALIBRATION_SECONDS = 0.2, 30.0  # reserved for calibration: a share of the time, and the most
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
        rounds: int = text_calibration.ROUNDS,
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
            calibrate(alone, self.train.codes, text_calibration.SEED + self.calibrated)
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
def mean_loss(model: LanguageModel, rows: Rows) -> float:
    """Mean nats per row; unknown tokens do not count. With several processes, each computes its part of the rows."""
    parts, device = torch.arange(len(rows.codes))[distributed.portion(len(rows.codes))].split(64), rows.codes.device
    found = [model(**rows.batch(part.to(device), rows.width(part)))[0].sum() for part in parts if len(part)]
    return -distributed.all_reduce_sum(sum(torch.stack(found).tolist()) if found else 0.0) / len(rows.codes)
