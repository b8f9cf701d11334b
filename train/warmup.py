"""The warm start of 0/1 rows: what likelihood can teach, before the adversarial game begins.

The training rows are cut into folds. For each fold one net is fitted to the other folds and stopped where its own,
unseen fold is likeliest; the generator draws every row from one of the nets. Averaging over folds removes part of what
each net mistook for a pattern.
"""

import copy
import dataclasses
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train import distributed, metrics
from train.average import move_average
from train.constraints import Constraints, expected_violations, satisfied_by
from train.game import NonFiniteError
from train.generator import draw_noise, sample
from train.judges import auc_error
from train.mixture import EDGE, Choice, Mixture, choose_mixture, draw_classes, fit_mixture, is_lower
from train.nade import NadeGenerator
from train.phase import Stateful, restore_rng_states, rng_states

log = logging.getLogger("lookalike")

FIRST_NETS = 2  # nets of the first fold: one with one class, one with many; see `WarmStart`
HIDDEN_VALUES = 1 << 16  # most hidden units times bits: smaller nets for long rows, to have time for more steps
STEPS, BATCH, LEARNING_RATE, AVERAGE = 1000, 128, 3e-3, 0.99
# Both fall from strong to weak during the fit, so that early stopping also chooses their strength.
DECAY = (4.0, 0.1)
SPARSITY = (1.0, 0.05)  # soft thresholds of weights, in learning rates; see `soft_threshold`
CLASS_BIAS_DECAY = 0.1
# The table of the last bits learns this many times faster than the rest, and faster still in rows of more than 500
# bits, because all positions of a row teach it.
LOCAL_PACE, LOCAL_LENGTH = 5.0, 100
LAG_STEPS, LAG_VALUES = 25, 1 << 21  # steps of the first fit of weights by distance, and the most values it reads
CHECK_STEPS = 25
STEPS_ALONE = 10  # with several processes: steps after which they tell each other whether they go on
FEWEST_STEPS = 300  # if there is no time for this many steps for each net, there are fewer nets
PATIENCE = (1.7, 300)  # stop at 1.7 times the best step plus 300
CHECKED_ROWS = 2000
COMPARED_VALUES = 1 << 24  # most rows times bits times classes for comparing nets of one class and of many
COMPARED_SEED, COMPARED_GAIN = 888_888, 2.0  # their draws, and how many standard errors one score must be better by
CALIBRATION_ROWS, CALIBRATION_ROUNDS = 20_000, 6
CALIBRATION_VALUES = 5_000_000  # fewer of long rows, which take longer to draw
FEWEST_VIOLATIONS = 0.05  # of constraints, among as many draws as there are known rows, where none are expected
CALIBRATION_SEED = 777_777  # of the first round, plus 1 for each further one; judges use other seeds, so other rows


class LearningNet(NadeGenerator):
    """A single net while it learns: it has weights between bits by their distance as well, shared by all positions.

    Where the same happens at many positions, such as every day of a week, all of these teach them, so that few rows are
    enough. Afterwards they become a part of `direct`.
    """

    def __init__(self, length: int, hidden: int, classes: int) -> None:
        super().__init__(length=length, hidden=hidden, nets=1, classes=classes)
        self.lags = nn.Parameter(torch.zeros(length))  # the first is for bits next to each other

    def logits(self, rows: Tensor, net: int, latent: Tensor) -> Tensor:
        return super().logits(rows, net, latent) + self._by_distance(rows - self.center[net])

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
        seconds: spent in steps so far.
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
        """Start from the likeliest weights by distance, unless the unseen rows are no likelier for it."""
        latent = self.latents[:, 0]
        before = held_nats(self.net, self.unseen, latent)
        self.net.fit_lags(self.seen, draw_classes(self.posterior))
        if held_nats(self.net, self.unseen, latent) >= before:
            nn.init.zeros_(self.net.lags)

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


def affordable_folds(rows: Tensor, hidden: int, folds: int, seconds: float) -> int:
    """For how many folds there is time to train nets of FEWEST_STEPS steps; at least one."""
    net = new_net(rows.shape[1], fit_mixture(rows, Choice()), hidden)
    batch, optimizer = rows[:BATCH], new_optimizer(net)
    set_schedule(optimizer, 0.0)
    latent = torch.zeros(len(batch), dtype=torch.long, device=rows.device)
    for _ in range(2):  # the first one also warms up
        started = time.monotonic()
        descend(net, optimizer, batch, latent)
        net.bias.sum().item()  # waits for the GPU, whose work is only queued until then
    affordable = seconds / (FEWEST_STEPS * (time.monotonic() - started))
    return max((nets for nets in range(1, folds + 1) if rounds(nets + 1) <= affordable), default=1)


def rounds(nets: int, done: int = 0) -> int:
    """The rounds that fitting `nets` nets takes, after `done` of them: the first two must come before the others."""
    first, others = max(0, FIRST_NETS - done), nets - max(FIRST_NETS, done)
    return -(-first // distributed.world_size()) + -(-others // distributed.world_size())


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
def held_nats(net: NadeGenerator, rows: Tensor, latent: Tensor) -> float:
    """The net's mean negative log-likelihood in nats per row, of rows (rows, length) given their classes (rows,)."""
    return float(F.binary_cross_entropy_with_logits(net.logits(rows, 0, latent), rows)) * rows.shape[1]


@torch.no_grad()
def log_likelihoods(net: NadeGenerator, rows: Tensor) -> Tensor:
    """log p(row) in nats, over all classes of a single net: (rows,)."""
    every = torch.arange(net.classes, device=rows.device)
    nats = torch.stack([_nats(net, rows, latent.expand(len(rows))) for latent in every])
    return (net.prior[0].log()[:, None] - nats).logsumexp(0)


def _nats(net: NadeGenerator, rows: Tensor, latent: Tensor) -> Tensor:
    """The net's negative log-likelihood of each row, given its class, in nats: (rows,)."""
    return F.binary_cross_entropy_with_logits(net.logits(rows, 0, latent), rows, reduction="none").sum(1)


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


def join(nets: list[NadeGenerator]) -> NadeGenerator:
    """One generator that draws every row from one of the nets."""
    first = nets[0]
    joined = NadeGenerator(length=first.length, hidden=first.hidden, nets=len(nets), classes=first.classes)
    states = [net.state_dict() for net in nets]
    joined.load_state_dict({name: torch.cat([state[name] for state in states]) for name in states[0]})
    return joined.to(first.bias.device)


def likely_means(rows: Tensor) -> Tensor:
    """The column means of the rows, (length,), shrunk towards each other as far as their differences may be chance.

    The estimator of James and Stein (Efron and Morris 1975, "Data analysis using Stein's estimator and its
    generalizations"), with the mean of the variances p (1 - p) / (rows - 1) for all columns: a single factor keeps the
    total number of ones. With its own variance, a column that is low by chance would pass for certain, and rare ones
    would become too rare. Constant columns stay as they are.
    """
    means = rows.float().mean(0)
    varying = (means > 0) & (means < 1)
    if varying.sum() < 4:  # up to three columns say nothing about the spread
        return means
    found = means[varying]
    centre, chance = found.mean(), (found * (1 - found)).mean() / (len(rows) - 1)
    spread = (found - centre).square().sum() / (len(found) - 3)
    means[varying] = found.lerp(centre, (chance / spread).clamp(max=1))
    return means


@torch.no_grad()
def calibrate(generator: NadeGenerator, means: Tensor, rows: int) -> None:
    """Shift the output biases until the generated column means are the wanted ones.

    All bits are shifted at once, each by the difference between the logits of the wanted and the generated mean.
    Several rounds are needed, because later bits depend on earlier ones. Each round draws new rows and, from the third
    on, moves a smaller part of the way, so that sampling noise averages out (stochastic approximation, Robbins and
    Monro 1951).

    Args:
        means: the wanted column means, (length,).
        rows: the number of rows that they were estimated from; means are kept half a row away from 0 and 1.
    """
    edge = 0.5 / rows
    drawn = _affordable_rows(generator)
    wanted = torch.logit(means.clamp(edge, 1 - edge))
    for step in range(CALIBRATION_ROUNDS):
        noise = draw_noise(generator, drawn, CALIBRATION_SEED + step).to(generator.bias)
        blocks = noise.split(generator.rows_per_pass)
        found = torch.cat([generator.probabilities(block) for block in blocks]).mean(0)
        generator.bias.add_((wanted - torch.logit(found.clamp(edge, 1 - edge))) / max(1, step))


@torch.no_grad()
def keep_constraints(generator: NadeGenerator, rows: Tensor) -> None:
    """Let draws violate the constraints that all rows satisfy as rarely as fresh real rows are expected to.

    Likelihood teaches them slowly, since no row that satisfies them says much. If exp(m) times too many draws violate
    them, the odds of a bit that would, given the earlier ones, fall by exp(m).

    Args:
        rows: the codes that are known, (rows, length).
    """
    known = rows.cpu().numpy().astype(np.uint8)
    found = satisfied_by(known)
    if not len(found):
        return
    drawn = sample(generator, _affordable_rows(generator), CALIBRATION_SEED + CALIBRATION_ROUNDS).numpy()
    least = FEWEST_VIOLATIONS / len(known)

    def excess(some: Constraints, expected: float) -> float:
        return max(0.0, math.log((float(some.violated_by(drawn).mean()) + least) / (expected + least)))

    # What is added to the logit of a bit (first index) for each 1 among the earlier bits (second), and anyway.
    given, always = np.zeros((generator.length, generator.length)), np.zeros(generator.length)
    m = excess(Constraints(pairs=found.pairs), expected_violations(known))
    for (a, b), pairs in found.pairs.items():
        for those, earlier, later in ((np.triu(pairs).T, a, b), (np.tril(pairs), b, a)):
            shift = np.where(those, -m if later else m, 0.0)
            given += shift if earlier else -shift
            always += 0 if earlier else shift.sum(axis=1)
    m = excess(Constraints(pairs={}, groups=found.groups), 0.0)
    for group in found.groups:
        given[np.ix_(group, group)] -= m  # no second one
        # The last one is m likelier if there is none yet, and must still be m less likely if there is one.
        given[group[-1], group] -= m
        always[group[-1]] += m
    shifts = torch.from_numpy(np.tril(given, -1)).to(generator.direct)
    generator.direct.add_(shifts)
    # `direct` multiplies centred bits.
    generator.bias.add_(torch.from_numpy(always).to(generator.bias) + generator.center @ shifts.T)


def _affordable_rows(generator: NadeGenerator) -> int:
    return min(CALIBRATION_ROWS, -(-CALIBRATION_VALUES // generator.length))


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
        current = 0.0 if self.fit is None else min(1.0, self.fit.steps / STEPS)
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
        torch.manual_seed(self.seed + 1 + number)
        choice = self.choices[number if self.better is None else self.better]
        return NetFit(seen, unseen, fit_mixture(seen, choice), self.hidden)

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
            calibrate(self.joined, likely_means(self.rows), len(self.rows))
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
