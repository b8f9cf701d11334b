"""The warm start: the generator learns by likelihood what likelihood can teach, before the adversarial game begins.

The training rows are cut into folds. For each fold one net is fitted to the other folds and stopped where its own
fold, which it has not seen, is likeliest; the generator draws every row from one of the nets. Averaging over folds
takes away part of what each net mistook for a pattern.
"""

import copy
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from train.generator import NadeGenerator, draw_noise, generate

log = logging.getLogger("lookalike")

CLASSES = (8, 16, 32, 64)
PSEUDO_ROWS = (1.0, 5.0)  # how strongly a class is drawn towards the column means
ROWS_A_CLASS = 10  # fewer training rows a class than this are not tried
EM_STEPS = 60
STEPS, BATCH, LEARNING_RATE, AVERAGE = 1000, 128, 3e-3, 0.99
# The weight decay falls from strong to weak while a net learns: early stopping then chooses the strength as well.
DECAY = (4.0, 0.1)
CLASS_BIAS_DECAY = 0.1
CHECK_STEPS = 25
PATIENCE = (1.7, 300)  # stop after 1.7 times the best step and 300 more
CHECKED_ROWS = 2000
CALIBRATION_ROWS, CALIBRATION_ROUNDS = 20_000, 6
EDGE = 1e-4  # probabilities are kept this far from 0 and 1


@dataclass(frozen=True, kw_only=True)
class Classes:
    """A mixture of Bernoulli products: `prior` (classes,) and the columns' `means` in each class, (classes, length)."""

    prior: Tensor
    means: Tensor

    def joint(self, rows: Tensor) -> Tensor:
        """log p(row, class), (rows, classes)."""
        means = self.means.clamp(EDGE, 1 - EDGE)
        return rows @ torch.logit(means).T + torch.log1p(-means).sum(1) + self.prior.log()

    def log_likelihood(self, rows: Tensor) -> float:
        """Mean nats a row."""
        return float(self.joint(rows).logsumexp(1).mean())


def warm_start(
    rows: Tensor,
    *,
    hidden: int,
    folds: int,
    seconds: float = math.inf,
    tell: Callable[[int], object] = lambda nets: None,
) -> NadeGenerator:
    """Fit a generator by likelihood.

    Args:
        rows: training codes, uint8 (rows, length), on the device that trains.
        hidden: hidden units of each net.
        folds: how many nets.
        seconds: at most this long; the schedule is shortened to fit.
        tell: given the number of nets that have become ready.
    """
    x = rows.float()
    part = torch.randperm(len(x)).to(x.device) % folds
    started = time.monotonic()
    nets: list[NadeGenerator] = []
    chosen: Choice | None = None
    for fold in range(folds):
        seen, unseen = x[part != fold], x[part == fold][:CHECKED_ROWS]
        # The first fold decides between one class and many, so it fits two nets.
        choices = [chosen] if chosen else [Choice(), choose_classes(seen, unseen)]
        left = (seconds - (time.monotonic() - started)) / (folds - fold + len(choices) - 1)
        fitted = [fit_net(seen, unseen, fit_classes(seen, choice), hidden, left) for choice in choices]
        best = max(range(len(fitted)), key=lambda i: fitted[i][0])
        chosen = choices[best]
        nets.append(fitted[best][1])
        log.debug("warm start: fold %d, %d classes, %.3f nats a row", fold, chosen.classes, -fitted[best][0])
        tell(1)
    generator = join(nets)
    calibrate(generator, x.mean(0), len(x))
    return generator


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How many classes, and how strongly each is drawn towards the column means."""

    classes: int = 1
    pseudo_rows: float = 1.0


def choose_classes(seen: Tensor, unseen: Tensor) -> Choice:
    """The choice under which the unseen rows are likeliest."""
    tried = [
        Choice(classes=classes, pseudo_rows=pseudo)
        for classes in CLASSES
        for pseudo in PSEUDO_ROWS
        if classes * ROWS_A_CLASS <= len(seen)
    ]
    return max(tried, key=lambda choice: fit_classes(seen, choice).log_likelihood(unseen), default=Choice())


def fit_classes(rows: Tensor, choice: Choice) -> Classes:
    """Expectation maximisation (Dempster, Laird and Rubin 1977) from random rows as first class means."""
    mean = (rows.sum(0) + 0.5) / (len(rows) + 1)
    if choice.classes == 1:
        return Classes(prior=rows.new_ones(1), means=mean[None])
    found = Classes(
        prior=rows.new_full((choice.classes,), 1 / choice.classes),
        means=0.5 * rows[torch.randperm(len(rows))[: choice.classes].to(rows.device)] + 0.5 * mean,
    )
    for _ in range(EM_STEPS):
        belongs = found.joint(rows).softmax(1)
        size = belongs.sum(0)
        means = (belongs.T @ rows + choice.pseudo_rows * mean) / (size[:, None] + choice.pseudo_rows)
        found = Classes(prior=(size + 1e-3) / (size + 1e-3).sum(), means=means)
    return found


def fit_net(seen: Tensor, unseen: Tensor, classes: Classes, hidden: int, seconds: float) -> tuple[float, NadeGenerator]:
    """One net, fitted to the seen rows with classes drawn from the mixture's posterior, stopped by the unseen ones.

    Returns:
        A lower bound on the unseen rows' mean log-likelihood in nats, and the net.
    """
    net = new_net(seen.shape[1], classes, hidden)
    average = copy.deepcopy(net)
    optimizer = new_optimizer(net)
    belongs = classes.joint(seen).softmax(1)
    # Four draws of the unseen rows' classes, taken in turn; their entropy completes the bound.
    unseen_belongs = classes.joint(unseen).softmax(1)
    kinds = torch.multinomial(unseen_belongs, 4, replacement=True)
    entropy = (classes.prior[kinds].log() - unseen_belongs.gather(1, kinds).log()).mean().item()
    best, best_step, best_weights = -math.inf, 0, copy.deepcopy(average.state_dict())
    started, step = time.monotonic(), 0
    while step < PATIENCE[0] * best_step + PATIENCE[1]:
        done = max(step / STEPS, (time.monotonic() - started) / max(seconds, 1e-9))
        if done >= 1:
            break
        set_schedule(optimizer, done)
        chosen = torch.randint(len(seen), (BATCH,)).to(seen.device)
        kind = torch.multinomial(belongs[chosen], 1)[:, 0]
        loss = F.binary_cross_entropy_with_logits(net.logits(seen[chosen], 0, kind), seen[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        move_average(average, net, min(AVERAGE, step / (step + 10)))
        if step % CHECK_STEPS == 0:
            score = entropy - held_nats(average, unseen, kinds[:, step // CHECK_STEPS % 4])
            if score > best:
                best, best_step, best_weights = score, step, copy.deepcopy(average.state_dict())
    average.load_state_dict(best_weights)
    return best, average


def new_net(length: int, classes: Classes, hidden: int) -> NadeGenerator:
    """A net of one fold that starts as the mixture itself."""
    count = len(classes.prior)
    net = NadeGenerator(length=length, hidden=hidden, nets=1, classes=count).to(classes.means.device)
    logits = torch.logit(classes.means.clamp(EDGE, 1 - EDGE))
    with torch.no_grad():
        net.bias.copy_(torch.logit((classes.prior @ classes.means).clamp(EDGE, 1 - EDGE))[None])
        net.class_bias.copy_((logits - net.bias)[None])
        net.prior.copy_(classes.prior[None])
    return net


def new_optimizer(net: NadeGenerator) -> torch.optim.Optimizer:
    strong = [net.output, net.direct, net.input, net.class_hidden]
    groups = [
        {"params": strong, "weight_decay": DECAY[0]},
        {"params": [net.class_bias], "weight_decay": CLASS_BIAS_DECAY},
        {"params": [net.bias, net.hidden_bias, net.local], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.99))


def set_schedule(optimizer: torch.optim.Optimizer, done: float) -> None:
    """The learning rate falls to zero over the second half; the weight decay falls all the way, by equal factors."""
    for group in optimizer.param_groups:
        group["lr"] = LEARNING_RATE * min(1.0, 2 * (1 - done))
    optimizer.param_groups[0]["weight_decay"] = DECAY[0] * (DECAY[1] / DECAY[0]) ** done


@torch.no_grad()
def move_average(average: torch.nn.Module, net: torch.nn.Module, decay: float) -> None:
    for ours, current in zip(average.parameters(), net.parameters(), strict=True):
        ours.lerp_(current, 1 - decay)


@torch.no_grad()
def held_nats(net: NadeGenerator, rows: Tensor, kind: Tensor) -> float:
    """Mean nats a row that the net needs for the rows, given their classes."""
    return float(F.binary_cross_entropy_with_logits(net.logits(rows, 0, kind), rows)) * rows.shape[1]


def join(nets: list[NadeGenerator]) -> NadeGenerator:
    """One generator that draws every row from one of the nets."""
    first = nets[0]
    joined = NadeGenerator(length=first.length, hidden=first.hidden, nets=len(nets), classes=first.classes)
    states = [net.state_dict() for net in nets]
    joined.load_state_dict({name: torch.cat([state[name] for state in states]) for name in states[0]})
    return joined.to(first.bias.device)


@torch.no_grad()
def calibrate(generator: NadeGenerator, means: Tensor, rows: int) -> None:
    """Shift the output biases until the generated column means are those of the training rows.

    All bits are shifted at once, each by the difference of the logits of wanted and found mean; later bits answer to
    earlier ones, hence the rounds. The noise is the same in each round, so that the rounds converge.

    Args:
        means: the wanted column means, (length,), of `rows` training rows.
    """
    edge = 0.5 / rows
    wanted = torch.logit(means.clamp(edge, 1 - edge))
    for _ in range(CALIBRATION_ROUNDS):
        found = generate(generator, draw_noise(generator, CALIBRATION_ROWS, seed=0)).float().mean(0).to(means)
        generator.bias.add_(wanted - torch.logit(found.clamp(edge, 1 - edge)))
