"""The adversarial training loop for rows of 0/1. It knows nothing of MLflow, commands or files.

Work is counted in sequences seen. Everything that decides the outcome (data order, noise, weights, optimizer moments)
follows from `State`, so that a restored state goes on exactly where it was saved.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from train import distributed, losses
from train.average import move_average
from train.config import Config
from train.game import Ending, GameState, Tick, check_finite
from train.generator import Generator
from train.packed import PackedRows
from train.rules import RULES

PENALTY_EVERY = 16  # turns between penalties, weighted as much more: "lazy regularisation" (Karras et al. 2020)


@dataclass(kw_only=True, eq=False)
class State(GameState):
    """Everything that the game on rows of 0/1 changes; without averaging, `averaged` is the generator itself."""

    MODULES = ("generator", "discriminator", "averaged", "generator_optimizer", "discriminator_optimizer")

    discriminator: nn.Module
    generator_optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer

    @classmethod
    def new(cls, config: Config, generator: Generator, device: torch.device) -> "State":
        """A fresh state around a generator; the discriminator's first weights follow from torch's global seed."""
        generator = generator.to(device)
        rules = RULES[config.generator]
        discriminator = rules.discriminator(config, generator.length).to(device)
        return cls(
            generator=generator,
            discriminator=discriminator,
            averaged=copy.deepcopy(generator).requires_grad_(False) if config.average else generator,
            generator_optimizer=torch.optim.Adam(
                generator.parameters(), lr=config.generator_rate, betas=rules.betas, fused=True
            ),
            discriminator_optimizer=torch.optim.Adam(
                discriminator.parameters(), lr=config.discriminator_rate, betas=rules.betas, fused=True
            ),
        )


def train(
    state: State,
    rows: Tensor | PackedRows,
    config: Config,
    *,
    on_tick: Callable[[Tick], bool],
    interrupted: Callable[[], bool] = lambda: False,
) -> Ending:
    """Train until the epochs or the minutes are used up, a tick says stop, or somebody interrupts.

    Args:
        state: changed in place.
        rows: training codes, uint8 (rows, length) or packed, on the device that trains or on the CPU.
        on_tick: called every `config.tick` sequences (every epoch if it is None) and at the end, but not at an
            interruption between two ticks, on which what ships must not depend. True stops training.
        interrupted: asked after every step.

    Returns:
        Why it ended: "epochs", "minutes", "stopped" or "interrupted".

    Raises:
        NonFiniteError: a loss or a weight is not finite, found at the next tick or at an interruption.
    """
    total = math.inf if config.epochs is None else config.epochs * len(rows)
    limit = math.inf if config.max_minutes is None else config.max_minutes * 60
    every = config.tick or len(rows)
    order = data_order(len(rows), config)
    meter = Meter(state)
    device = next(state.generator.parameters()).device
    for batch in batches(order, rows, state.seen, config.step_rows, total):
        (used,) = distributed.all_reduce_max(progress(state, total, limit, meter))
        set_rates(state, config, used)
        meter.add(step(state, send(batch, device), config))
        update_average(state, config.average)
        state.seen += len(batch)

        done = state.seen >= total
        stop, late = distributed.all_reduce_max(interrupted(), state.seconds + meter.elapsed() >= limit)
        is_tick = done or late or state.seen // every > meter.seen // every
        if not (is_tick or stop):
            continue

        tick = meter.read(len(rows))
        check_finite(tick.losses, state.seen, state.generator, state.discriminator)
        (enough,) = distributed.all_reduce_max(is_tick and on_tick(tick))
        if done or stop or enough or late:
            # What the tick says comes before an interruption: a resumed job would not know that this tick was the last.
            return "epochs" if done else "stopped" if enough else "interrupted" if stop else "minutes"
        meter = Meter(state)
    return "epochs"


def step(state: State, real: Tensor, config: Config) -> dict[str, Tensor]:
    """Turns of the discriminator, each with real rows of its own, then one of the generator. Losses stay on the device.

    All turns see the same generated rows: drawing them and backpropagating through them takes as long as a dozen turns.
    Each of several processes draws the noise of the whole batch, and computes on its share.

    Args:
        real: a batch for each turn, float (rows, length); the last step of all may have fewer.
    """
    size = min(config.batch_size, len(real))
    noise = torch.rand(size, state.generator.noise_size, device=real.device)
    drawn = state.seen // config.turns
    fake = state.generator.stratified(distributed.shard(noise), drawn + distributed.shard_start(size))
    batches = [batch for batch in real.split(size) if len(batch) == size]  # the last step may end in a part of one
    every = min(PENALTY_EVERY, len(batches))
    turns = []
    for turn, batch in enumerate(batches):
        shown_real, shown_fake = show(batch, fake, config)
        weight = 0.0 if turn % every else every * config.penalty
        turns.append(update_discriminator(state, shown_real, shown_fake.detach(), config, weight))
    discriminator_losses, penalties = zip(*turns, strict=True)

    with torch.no_grad():
        real_scores = state.discriminator(shown_real)
    generator_loss = RULES[config.generator].generator_loss(real_scores, state.discriminator(shown_fake))
    if state.seen >= config.head_start:
        descend(state.generator_optimizer, generator_loss)
    return {
        "generator_loss": generator_loss.detach(),
        "discriminator_loss": torch.stack(discriminator_losses).mean(),
        "gradient_penalty": torch.stack(penalties[::every]).mean(),
    }


def show(real: Tensor, fake: Tensor, config: Config) -> tuple[Tensor, Tensor]:
    """This process's share of a real batch, and its generated rows, as the discriminator sees them."""
    chances = [distributed.shard(torch.rand_like(real)) for _ in range(2 if config.flip else 0)]
    real = distributed.shard(real)
    if config.flip:
        # Random flips keep the discriminator from memorising the training rows.
        real, fake = flip(real, chances[0] < config.flip), flip(fake, chances[1] < config.flip)
    return real, fake


def update_discriminator(
    state: State, real: Tensor, fake: Tensor, config: Config, weight: float
) -> tuple[Tensor, Tensor]:
    """One step of the discriminator's optimizer, with this weight on the gradient penalties.

    Returns:
        Its loss, and the sum of the penalties; with weight 0 they are not computed, and are 0.
    """
    shown = torch.cat([real, fake]).requires_grad_(weight > 0)
    scores = state.discriminator(shown)
    loss, penalty = RULES[config.generator].discriminator_loss(*scores.chunk(2)), scores.new_zeros(())
    if weight:
        penalty = 2 * losses.gradient_penalty(shown, scores)  # R1 + R2, each a mean over its half of the rows
    descend(state.discriminator_optimizer, loss + weight * penalty)
    return loss.detach(), penalty.detach()


def flip(rows: Tensor, where: Tensor) -> Tensor:
    """Exchange 0 and 1 in some of the values; gradients pass through."""
    return torch.where(where, 1 - rows, rows)


def progress(state: State, total: float, limit: float, meter: "Meter") -> float:
    """The share of the budget used: of the sequences or of the seconds, whichever is further."""
    return max(state.seen / total, (state.seconds + meter.elapsed()) / limit)


def set_rates(state: State, config: Config, done: float) -> None:
    """Let learning rates fall to zero over the second half of the budget, if the rules say so."""
    if not RULES[config.generator].anneals:
        return
    factor = max(0.0, min(1.0, 2 * (1 - done)))
    for optimizer, rate in (
        (state.generator_optimizer, config.generator_rate),
        (state.discriminator_optimizer, config.discriminator_rate),
    ):
        for group in optimizer.param_groups:
            group["lr"] = rate * factor


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    # Only these: the generator's loss has a gradient for the discriminator's weights, too, which is not wanted.
    loss.backward(inputs=[parameter for group in optimizer.param_groups for parameter in group["params"]])
    distributed.average_gradients(optimizer)
    optimizer.step()


def update_average(state: State, decay: float) -> None:
    """Move the averaged weights towards the current ones."""
    if state.averaged is not state.generator:
        move_average(state.averaged, state.generator, decay)


def data_order(n: int, config: Config) -> Callable[[int], Tensor]:
    """Which rows to show: `order(epoch)` is that epoch's permutation, or the rows as they come, as the rules say."""
    if not RULES[config.generator].shuffles:
        return lambda epoch: torch.arange(n, dtype=torch.int32)
    return lambda epoch: torch.randperm(
        n, generator=torch.Generator().manual_seed(config.seed * 1_000_003 + epoch), dtype=torch.int32
    )


def batches(
    order: Callable[[int], Tensor], rows: Tensor | PackedRows, seen: int, batch_size: int, total: float
) -> Iterator[Tensor]:
    """Float batches (rows, length) from the endless stream of epochs, from position `seen` to `total`.

    A batch may continue into the next epoch, so that small sets need no partial batches.
    """
    epoch, offset = divmod(seen, len(rows))
    pending = order(epoch)[offset:]
    while seen < total:
        size = int(min(batch_size, total - seen))
        while len(pending) < size:
            epoch += 1
            pending = torch.cat([pending, order(epoch)])
        chosen, pending = pending[:size], pending[size:]
        yield rows[send(chosen, rows.device).long()].float()
        seen += size


def send(values: Tensor, device: torch.device) -> Tensor:
    """The values on the device. To a GPU they are copied from pinned memory asynchronously, so that nothing waits."""
    if values.device.type == device.type:
        return values
    return values.pin_memory().to(device, non_blocking=True)


class Meter:
    """Adds up what happens between two ticks; reads the device once, at the tick."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.seen = state.seen
        self.started = time.monotonic()
        self.steps = 0
        self.sums: dict[str, Tensor] = {}
        self.last: dict[str, Tensor] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        self.steps += 1
        self.sums = {name: self.sums[name] + value for name, value in values.items()} if self.sums else values
        self.last = values

    def elapsed(self) -> float:
        """Seconds since the last tick."""
        return time.monotonic() - self.started

    def read(self, epoch_size: int) -> Tick:
        """The tick; its time is added to the state's."""
        distributed.all_reduce_mean([*self.sums.values(), *self.last.values()])
        sums, last = torch.stack([*self.sums.values(), *self.last.values()]).view(2, -1).tolist()
        (elapsed,) = distributed.all_reduce_max(self.elapsed())
        self.state.seconds += elapsed
        seen = self.state.seen
        return Tick(
            seen=seen,
            epoch=seen / epoch_size,
            seconds=self.state.seconds,
            sequences_per_second=(seen - self.seen) / max(elapsed, 1e-9),
            losses={name: total / self.steps for name, total in zip(self.sums, sums, strict=True)},
            last_losses=dict(zip(self.last, last, strict=True)),
        )
