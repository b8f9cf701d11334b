"""The fit of one net of the generator of 0/1 rows: by maximum likelihood, until rows that it has not seen stop it."""

import copy
import math
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.average import move_average
from train.game import NonFiniteError
from train.mixture import EDGE, Mixture, draw_classes, is_lower
from train.nade import NadeGenerator
from train.phase import Stateful

STEPS, BATCH, LEARNING_RATE, AVERAGE = 1000, 128, 3e-3, 0.99
# Both fall from strong to weak during the fit, so that early stopping also chooses their strength.
DECAY = (4.0, 0.1)
SPARSITY = (1.0, 0.05)  # soft thresholds of weights, in learning rates; see `soft_threshold`
CLASS_BIAS_DECAY = 0.1
# The table of the last bits learns this many times faster than the rest, and faster still in rows of more than 500
# bits, because all positions of a row teach it.
LOCAL_PACE, LOCAL_LENGTH = 5.0, 100
LAG_STEPS, LAG_VALUES = 25, 1 << 19  # steps of the first fit of weights by distance, and the most values it reads
LAG_GAIN = 2.0  # standard errors by which it must make unseen rows likelier
CHECK_STEPS = 25
PATIENCE = (1.7, 300)  # stop at 1.7 times the best step plus 300


class LearningNet(NadeGenerator):
    """A single net while it learns: it has weights between bits by their distance as well, shared by all positions.

    Where the same happens at many positions, such as every day of a week, all of these teach them, so that few rows
    are enough. Afterwards they become a part of `direct`: rows are drawn from the net that `learned` returns, not from
    this one.
    """

    def __init__(self, length: int, hidden: int, classes: int) -> None:
        super().__init__(length=length, hidden=hidden, nets=1, classes=classes)
        self.lags = nn.Parameter(torch.zeros(length))  # the first is for bits next to each other

    def logits(self, rows: Tensor, net: int, latent: Tensor) -> Tensor:
        others = super().logits(rows, net, latent)
        return others + self._by_distance(rows - self.center[net]) if self.lags.requires_grad else others

    def use_lags(self, use: bool) -> None:
        """Whether to have weights by distance: where they tell nothing, they cost up to half of a step."""
        self.lags.requires_grad_(use)
        if not use:
            nn.init.zeros_(self.lags)

    def _by_distance(self, centred: Tensor) -> Tensor:
        """What earlier bits add to each logit, (rows, length): a convolution, by fast Fourier transforms."""
        twice = 2 * self.length  # so that the end does not come round to the beginning
        product = torch.fft.rfft(centred, twice) * torch.fft.rfft(self.lags, twice)
        return F.pad(torch.fft.irfft(product, twice)[:, : self.length - 1], (1, 0))

    def fit_lags(self, rows: Tensor, latent: Tensor) -> None:
        """Set the weights by distance to the likeliest for rows (rows, length) of these classes (rows,).

        The other weights stay; their optimizer would take hundreds of steps to get there. The prior of a weight is
        N(0, 1), since at large distances few pairs of bits tell of it.
        """
        some = slice(max(2, LAG_VALUES // self.length))
        with torch.no_grad():
            others = super().logits(rows[some], 0, latent[some])
        target, centred = rows[some], rows[some] - self.center[0]
        optimizer = torch.optim.LBFGS([self.lags], max_iter=LAG_STEPS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            nats = F.binary_cross_entropy_with_logits(others + self._by_distance(centred), target, reduction="sum")
            found = (nats + self.lags.square().sum() / 2) / len(target)
            found.backward()
            return found

        optimizer.step(loss)

    def learned(self) -> NadeGenerator:
        """The same net with its weights by distance in `direct`."""
        net = NadeGenerator(length=self.length, hidden=self.hidden, nets=1, classes=self.classes)
        weights = self.state_dict()
        lags, place = weights.pop("lags"), torch.arange(self.length)
        distance = place[:, None] - place
        weights["direct"] = weights["direct"] + lags[(distance - 1).clamp(min=0)].tril(-1)
        net.load_state_dict(weights)
        return net.to(lags.device)


class NetFit(Stateful):
    """Fits one net to the seen rows, with classes drawn from the mixture's posterior, until the unseen rows stop it.

    Attributes:
        best: the highest estimate so far of a lower bound on the unseen rows' mean log-likelihood, in nats.
        seconds: spent so far.
    """

    MODULES = ("net", "average", "optimizer")
    VALUES = ("latents", "entropy", "best", "best_step", "best_weights", "steps", "seconds")

    def __init__(self, seen: Tensor, unseen: Tensor, mixture: Mixture, hidden: int) -> None:
        self.seen, self.unseen, self.mixture = seen, unseen, mixture
        self.net = new_net(seen.shape[1], mixture, hidden)
        self.posterior = mixture.joint_log_prob(seen).softmax(1)
        # Four draws of the unseen rows' classes, used in turn; mean log prior - log posterior completes the bound.
        unseen_posterior = mixture.joint_log_prob(unseen).softmax(1)
        self.latents = torch.multinomial(unseen_posterior, 4, replacement=True)
        self.entropy = (
            (mixture.prior[self.latents].log() - unseen_posterior.gather(1, self.latents).log()).mean().item()
        )
        self._fit_lags()
        self.average = copy.deepcopy(self.net)
        self.optimizer = new_optimizer(self.net)
        self.best, self.best_step, self.best_weights = -math.inf, 0, copy.deepcopy(self.average.state_dict())
        self.steps = 0
        self.seconds = 0.0

    def _fit_lags(self) -> None:
        """Start from the likeliest weights by distance, if the unseen rows are clearly likelier for it."""
        before = row_nats(self.net, self.unseen, self.latents[:, 0])
        self.net.fit_lags(self.seen, draw_classes(self.posterior))
        self.net.use_lags(is_lower(row_nats(self.net, self.unseen, self.latents[:, 0]), before, LAG_GAIN))

    def done(self, seconds: float) -> float:
        """The share of the schedule that is over, with at most this many seconds; 1 ends the fit."""
        if self.steps >= PATIENCE[0] * self.best_step + PATIENCE[1]:
            return 1.0
        return min(1.0, max(self.steps / STEPS, self.seconds / max(seconds, 1e-9)))

    def step(self, done: float) -> None:
        """One optimizer step, at this share of the schedule."""
        started = time.monotonic()
        set_schedule(self.optimizer, done)
        chosen = torch.randint(len(self.seen), (BATCH,), device=self.seen.device)
        descend(self.net, self.optimizer, self.seen[chosen], draw_classes(self.posterior[chosen]))
        self.steps += 1
        move_average(self.average, self.net, min(AVERAGE, self.steps / (self.steps + 10)))
        if self.steps % CHECK_STEPS == 0:
            self._check()
        self.seconds += time.monotonic() - started

    def _check(self) -> None:
        latent = self.latents[:, self.steps // CHECK_STEPS % 4]
        score = self.entropy - held_nats(self.average, self.unseen, latent)
        if math.isnan(score):
            raise NonFiniteError(f"the likelihood of unseen rows is NaN after {self.steps} steps of the warm start")
        if score > self.best:
            self.best, self.best_step = score, self.steps
            self.best_weights = copy.deepcopy(self.average.state_dict())

    def best_net(self) -> NadeGenerator:
        self.average.load_state_dict(self.best_weights)
        return self.average.learned()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "prior": self.mixture.prior, "means": self.mixture.means}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue a fit of the same rows; this object must have been made with the saved `prior` and `means`."""
        super().load_state_dict(saved)
        self.latents = self.latents.to(self.seen.device)
        for net in (self.net, self.average):
            net.use_lags(bool(net.lags.any()))


def new_net(length: int, mixture: Mixture, hidden: int) -> LearningNet:
    """A net for one fold that initially equals the mixture."""
    net = LearningNet(length, hidden, len(mixture.prior)).to(mixture.means.device)
    logits = torch.logit(mixture.means.clamp(EDGE, 1 - EDGE))
    with torch.no_grad():
        net.center.copy_((mixture.prior @ mixture.means)[None])
        net.bias.copy_(torch.logit(net.center.clamp(EDGE, 1 - EDGE)))
        net.class_bias.copy_((logits - net.bias)[None])
        net.prior.copy_(mixture.prior[None])
    return net


def descend(net: NadeGenerator, optimizer: torch.optim.Optimizer, rows: Tensor, latent: Tensor) -> None:
    """One optimizer step on the likelihood of rows (rows, length), given their classes (rows,)."""
    loss = F.binary_cross_entropy_with_logits(net.logits(rows, 0, latent), rows)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    soft_threshold(optimizer)


@torch.no_grad()
def soft_threshold(optimizer: torch.optim.Optimizer) -> None:
    """The proximal step of an L1 penalty (Parikh and Boyd 2014, "Proximal algorithms") on the groups with a threshold.

    Adam moves a weight by at most about the learning rate, and by less the more its gradients disagree. So a threshold
    of some share of the learning rate keeps every weight at 0 whose mean gradient is a smaller share of the gradients'
    root mean square. Pairs of bits that occur together about as often as by chance get weights only once the threshold
    has fallen far; early stopping decides how far.
    """
    for group in optimizer.param_groups:
        if "threshold" in group:
            for weight in group["params"]:
                weight.copy_(F.softshrink(weight, group["threshold"]))


def new_optimizer(net: LearningNet) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [
        {"params": [net.output, net.direct], "weight_decay": 0.0, "sparsity": SPARSITY},
        {"params": [net.input, net.class_hidden], "decay": DECAY},
        {"params": [net.class_bias], "weight_decay": CLASS_BIAS_DECAY},
        {"params": [net.bias, net.hidden_bias, net.lags], "weight_decay": 0.0},
        {"params": [net.local], "weight_decay": 0.0, "pace": max(LOCAL_PACE, net.length / LOCAL_LENGTH)},
    ]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.99), fused=True)


def set_schedule(optimizer: torch.optim.Optimizer, done: float) -> None:
    """The learning rate falls to zero over the second half; decay and sparsity fall all the way, by equal factors."""
    for group in optimizer.param_groups:
        group["lr"] = LEARNING_RATE * group.get("pace", 1.0) * min(1.0, 2 * (1 - done))
        if "decay" in group:
            group["weight_decay"] = _geometric(group["decay"], done)
        if "sparsity" in group:
            group["threshold"] = group["lr"] * _geometric(group["sparsity"], done)


def _geometric(ends: tuple[float, float], done: float) -> float:
    start, end = ends
    return start * (end / start) ** done


@torch.no_grad()
def row_nats(net: NadeGenerator, rows: Tensor, latent: Tensor) -> Tensor:
    """The net's negative log-likelihood of each row, given its class, in nats: (rows,)."""
    return F.binary_cross_entropy_with_logits(net.logits(rows, 0, latent), rows, reduction="none").sum(1)


@torch.no_grad()
def held_nats(net: NadeGenerator, rows: Tensor, latent: Tensor) -> float:
    """The net's mean negative log-likelihood in nats per row, of rows (rows, length) given their classes (rows,)."""
    return float(F.binary_cross_entropy_with_logits(net.logits(rows, 0, latent), rows)) * rows.shape[1]
