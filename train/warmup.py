"""The warm start of 0/1 rows: what likelihood can teach, before the adversarial game begins.

The training rows are cut into folds. For each fold one net is fitted to the other folds and stopped where its own,
unseen fold is likeliest; the generator draws every row from one of the nets. Averaging over folds removes part of what
each net mistook for a pattern.
"""

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train import calibration, distributed, metrics, net_fit
from train.generator import sample
from train.judges import auc_error
from train.mixture import Choice, Mixture, choose_mixture, fit_mixture, is_lower
from train.nade import NadeGenerator
from train.net_fit import NetFit
from train.phase import restore_rng_states, rng_states

log = logging.getLogger("lookalike")

FIRST_NETS = 2  # nets of the first fold: one with one class, one with many; see `WarmStart`
HIDDEN_VALUES = 1 << 16  # most hidden units times bits: smaller nets for long rows, to have time for more steps
STEPS_ALONE = 10  # with several processes: steps after which they tell each other whether they go on
FEWEST_STEPS = 300  # if there is no time for this many steps for each net, there are fewer nets
CHECKED_ROWS = 2000
COMPARED_VALUES = 1 << 24  # most rows times bits times classes for comparing nets of one class and of many
COMPARED_SEED, COMPARED_GAIN = 888_888, 2.0  # their draws, and how many standard errors one score must be better by


class WarmStart:
    """The warm start as a `train.phase.Phase`: net after net, step by step.

    The first fold has two nets, with one class and with many; the other folds' nets use the better number of classes.
    With several processes, each fits a different net at the same time. Every net has its own random numbers, so without
    a time limit the generator is the same for any number of processes.

    Attributes:
        choices: the two choices of classes that are tried on the first fold.
        better: the index of the better choice, and of the first fold's net that used it; None until both are fitted.
        fitted: the nets that are done.
        count: how many folds there is time for; None without a time limit.
        round: the numbers of the nets being fitted, one for each process in order of rank; empty between rounds.
        fit: this process's fit among them; None if it has none.
        begun: states of the nets that an earlier session had begun, in order; they come next.
    """

    def __init__(self, rows: Tensor, *, hidden: int, folds: int) -> None:
        """Prepare to fit.

        Args:
            rows: training codes, uint8 (rows, length), on the device that trains.
            hidden: hidden units of each net; limited to `HIDDEN_VALUES` divided by the length of the rows.
            folds: how many parts the rows are cut into, and the most nets that the generator has.
        """
        self.rows = rows.float()
        self.hidden, self.folds = min(hidden, math.ceil(HIDDEN_VALUES / rows.shape[1])), min(folds, len(rows))
        self.count: int | None = None
        self.part = torch.randperm(len(rows)) % self.folds
        self.seed = int(torch.randint(1 << 62, ()))
        self.seconds = 0.0
        self.choices: list[Choice] = []
        self.better: int | None = None
        self.fitted: list[NadeGenerator] = []
        self.round = range(0)
        self.fit: NetFit | None = None
        self.begun: list[dict[str, Any]] = []
        self.joined: NadeGenerator | None = None

    @property
    def generator(self) -> NadeGenerator:
        assert self.joined is not None, "the warm start is not finished"
        return self.joined

    @property
    def progress(self) -> float:
        current = 0.0 if self.fit is None else min(1.0, self.fit.steps / net_fit.STEPS)
        return (len(self.fitted) + current * len(self.round)) / self._nets_in_all()

    def run(self, seconds: float, interrupted: Callable[[], bool]) -> bool:
        while self.joined is None:
            started = time.monotonic()
            if self.count is None and math.isfinite(seconds):
                count = affordable_folds(self.rows, self.hidden, self.folds, seconds)
                # A run that began without a time limit may already have fitted more.
                self.count = max(distributed.broadcast(count), len(self.fitted) + 1 - FIRST_NETS)
            if not self.round:
                self._begin_round()
            going = self._advance(seconds)
            stop, someone_going = distributed.all_reduce_max(interrupted(), going)
            if not someone_going:
                self._end_round()
            self.seconds += time.monotonic() - started
            if stop:
                break
        return self.joined is not None

    def _advance(self, seconds: float) -> bool:
        """One step of this process's net (with several processes, a few); False as for `_step`."""
        return all(self._step(seconds) for _ in range(1 if distributed.world_size() == 1 else STEPS_ALONE))

    def _step(self, seconds: float) -> bool:
        """One step of this process's net; False if it has none, or its fit is done."""
        if self.fit is None:
            return False
        done = self.fit.done(self._limit(self.fit, seconds))
        if done < 1:
            self.fit.step(done)
        return done < 1

    def _limit(self, fit: NetFit, seconds: float) -> float:
        """The seconds that this net may take: what earlier rounds have left, divided by the rounds to come."""
        return (seconds - (self.seconds - fit.seconds)) / rounds(self._nets_in_all(), len(self.fitted))

    def _nets_in_all(self) -> int:
        """How many nets are fitted: one for each fold that there is time for, and a second one for the first fold."""
        return 1 + (self.folds if self.count is None else self.count)

    def _begin_round(self) -> None:
        if not self.choices:
            torch.manual_seed(self.seed)
            choice = dataclasses.asdict(choose_mixture(*self._fold(0)))
            self.choices = [Choice(), Choice(**distributed.broadcast(choice))]
        first = len(self.fitted)
        end = FIRST_NETS if first < FIRST_NETS else self._nets_in_all()
        self.round = range(first, min(end, first + distributed.world_size()))
        if (mine := distributed.rank()) < len(self.round):
            self.fit = self._new_fit(first + mine, self.begun[mine] if mine < len(self.begun) else None)
        self.begun = self.begun[len(self.round) :]

    def _new_fit(self, number: int, saved: dict[str, Any] | None) -> NetFit:
        seen, unseen = self._fold(max(0, number + 1 - FIRST_NETS))
        if saved is not None:
            mixture = Mixture(prior=saved["prior"].to(seen), means=saved["means"].to(seen))
            fit = NetFit(seen, unseen, mixture, self.hidden)
            fit.load_state_dict(saved)
            return fit
        started = time.monotonic()
        torch.manual_seed(self.seed + 1 + number)
        choice = self.choices[number if self.better is None else self.better]
        fit = NetFit(seen, unseen, fit_mixture(seen, choice), self.hidden)
        fit.seconds = time.monotonic() - started  # else it would be missing in the end, to the last nets
        return fit

    def _end_round(self) -> None:
        mine = None if self.fit is None else (self.fit.best, self.fit.best_net().state_dict())
        for number, (score, weights) in zip(self.round, distributed.all_gather(mine), strict=True):
            self.fitted.append(self._net(weights))
            log.debug("warm start: net %d, %.3f nats a row", number, -score)
        self.round, self.fit = range(0), None
        if len(self.fitted) == FIRST_NETS:
            one, many = self.fitted
            self.better = distributed.broadcast(better_classes(one, many, *self._fold(0)))
        if len(self.fitted) == self._nets_in_all():
            assert self.better is not None
            self.joined = join([self.fitted[self.better], *self.fitted[FIRST_NETS:]])
            calibration.calibrate(self.joined, calibration.likely_means(self.rows), len(self.rows))
            # Seeded so that what follows is the same for any number of processes, too.
            torch.manual_seed(self.seed + 1 + len(self.fitted))

    def _fold(self, number: int) -> tuple[Tensor, Tensor]:
        """The rows that a fold's nets learn from, and the unseen rows that stop them."""
        unseen = (self.part == number).to(self.rows.device)
        return self.rows[~unseen], self.rows[unseen][:CHECKED_ROWS]

    def state_dict(self) -> dict[str, Any]:
        """The state; during a round, all processes must call this."""
        mine = None if self.fit is None else self.fit.state_dict()
        return {
            "part": self.part,
            "seed": self.seed,
            "count": self.count,
            "seconds": self.seconds,
            "choices": [dataclasses.asdict(choice) for choice in self.choices],
            "better": self.better,
            "fitted": [net.state_dict() for net in self.fitted],
            "begun": [*(distributed.all_gather(mine) if self.round else ()), *self.begun],
            "joined": None if self.joined is None else self.joined.state_dict(),
            "streams": rng_states(),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        for name in ("part", "seed", "count", "seconds", "better"):
            setattr(self, name, saved[name])
        self.choices = [Choice(**choice) for choice in saved["choices"]]
        self.fitted = [self._net(weights) for weights in saved["fitted"]]
        self.round, self.fit, self.begun = range(0), None, saved["begun"]
        self.joined = None if saved["joined"] is None else self._net(saved["joined"])
        restore_rng_states(saved["streams"])

    def _net(self, weights: dict[str, Tensor]) -> NadeGenerator:
        nets, classes = weights["prior"].shape
        net = NadeGenerator(length=self.rows.shape[1], hidden=self.hidden, nets=nets, classes=classes)
        net.load_state_dict(weights)
        return net.to(self.rows.device)


def affordable_folds(rows: Tensor, hidden: int, folds: int, seconds: float) -> int:
    """For how many folds there is time to train nets of FEWEST_STEPS steps; at least one."""
    net = net_fit.new_net(rows.shape[1], fit_mixture(rows, Choice()), hidden)
    batch, optimizer = rows[: net_fit.BATCH], net_fit.new_optimizer(net)
    net_fit.set_schedule(optimizer, 0.0)
    latent = torch.zeros(len(batch), dtype=torch.long, device=rows.device)
    for _ in range(2):  # the first one also warms up
        started = time.monotonic()
        net_fit.descend(net, optimizer, batch, latent)
        net.bias.sum().item()  # waits for the GPU, whose work is only queued until then
    affordable = seconds / (FEWEST_STEPS * (time.monotonic() - started))
    return max((nets for nets in range(1, folds + 1) if rounds(nets + 1) <= affordable), default=1)


def rounds(nets: int, done: int = 0) -> int:
    """The rounds that fitting `nets` nets takes, after `done` of them: the first two must come before the others."""
    first, others = max(0, FIRST_NETS - done), nets - max(FIRST_NETS, done)
    return -(-first // distributed.world_size()) + -(-others // distributed.world_size())


def better_classes(one: NadeGenerator, many: NadeGenerator, seen: Tensor, unseen: Tensor) -> int:
    """Which net to keep: 1 (many classes), or 0 (one) if unseen rows are clearly less likely under the other.

    Clearly means by more than three standard errors. Many classes are favoured because a single net estimates them less
    reliably than the whole generator will, and because at equal likelihood judges find their rows harder to tell from
    real ones (EXPERIMENTS.md). With hundreds of columns that is so even where the rows are less likely; so many classes
    are also kept if their draws have a clearly better score, by two standard errors of the AUC in it.
    """
    compared = unseen[: max(2, COMPARED_VALUES // (unseen.shape[1] * many.classes))]
    if not is_lower(log_likelihoods(many, compared), log_likelihoods(one, compared), 3):
        return 1
    n = max(len(unseen), metrics.QUICK_ROWS)
    real, learned = (rows.cpu().numpy().astype(np.uint8) for rows in (unseen, seen))
    scores = [metrics.quick_score(sample(net, n, COMPARED_SEED).numpy(), real, learned)["score"] for net in (one, many)]
    return int(scores[0] - scores[1] > COMPARED_GAIN * auc_error(len(real), n))


@torch.no_grad()
def log_likelihoods(net: NadeGenerator, rows: Tensor) -> Tensor:
    """log p(row) in nats, over all classes of a single net: (rows,)."""
    every = torch.arange(net.classes, device=rows.device)
    nats = torch.stack([net_fit.row_nats(net, rows, latent.expand(len(rows))) for latent in every])
    return (net.prior[0].log()[:, None] - nats).logsumexp(0)


def join(nets: list[NadeGenerator]) -> NadeGenerator:
    """One generator that draws every row from one of the nets."""
    first = nets[0]
    joined = NadeGenerator(length=first.length, hidden=first.hidden, nets=len(nets), classes=first.classes)
    states = [net.state_dict() for net in nets]
    joined.load_state_dict({name: torch.cat([state[name] for state in states]) for name in states[0]})
    return joined.to(first.bias.device)
