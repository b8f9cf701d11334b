"""The game of the text generator: a discriminator learns to tell real rows from fresh draws, and ships as the scorer.

The generator draws several candidates for each row and takes one in proportion to the discriminator's density ratio,
exp(score). An overconfident discriminator would therefore do harm: the one that ships is from the pass after which it
best tells draws from validation rows, which neither side has learned from, and its scores are then scaled on those
rows. With classes, it sees each row together with a class: a real row with its own, a draw with the one that it was
drawn for.
"""

import copy
import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from train import distributed
from train.codec import PADDING, UNKNOWN
from train.config import Config
from train.game import Ending, GameState, Tick, check_finite
from train.generator import LabelledRows
from train.scorer import Scorer, scores_of
from train.text_draws import draw_together
from train.text_generator import TokenGenerator

PASS_ROWS = 5000  # real rows in a pass, and as many draws
BATCH, LEARNING_RATE, WEIGHT_DECAY = 64, 2e-3, 0.1
LINEAR_RATE, LINEAR_DECAY = 3e-3, 0.1  # for the weights of n-grams
DROPOUT, WORD_DROPOUT = 0.5, 0.1  # of the discriminator's features, and of the tokens that it reads
CHECK_SEED = 999_983  # of the draws for checks; passes use --seed and the numbers after it
CHECKED_DRAWS = 4  # draws for each validation row
SCALES = torch.linspace(0, 1.5, 61)


class TextState(GameState):
    """Everything that the game changes; weights are not averaged. `passes` counts the passes so far."""

    MODULES = ("generator", "optimizer")
    VALUES = ("passes", *GameState.VALUES)

    generator: TokenGenerator

    def __init__(self, generator: TokenGenerator) -> None:
        super().__init__(generator=generator, averaged=generator)
        net = [weights for name, weights in generator.scorer.named_parameters() if name != "weights"]
        linear = {"params": [generator.scorer.weights], "lr": LINEAR_RATE, "weight_decay": LINEAR_DECAY}
        groups: list[dict[str, Any]] = [{"params": net}, linear]
        self.optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
        self.passes = 0


def play(
    state: TextState,
    rows: LabelledRows,
    config: Config,
    *,
    on_tick: Callable[[Tick], bool],
    interrupted: Callable[[], bool],
) -> Ending:
    """Make passes over training rows until the budget is used up, a tick says stop, or somebody interrupts.

    Each pass is a tick and shows `PASS_ROWS` random rows, or all if there are fewer; `config.epochs` counts passes. An
    interrupted pass is undone and repeated when the game resumes. Otherwise as `loop.train`.

    Args:
        rows: token ids of the training rows, and their classes where they have any.

    Raises:
        NonFiniteError: a loss or a weight is infinite or NaN at the end of a pass.
    """
    total = math.inf if config.epochs is None else config.epochs
    limit = math.inf if config.max_minutes is None else 60 * config.max_minutes
    while state.passes < total and state.seconds < limit:
        started, before = time.monotonic(), copy.deepcopy(state.state_dict())
        losses = one_pass(state, rows, config.seed + state.passes, interrupted)
        if losses is None:
            state.load_state_dict(before)
            return "interrupted"
        check_finite(losses, state.seen, state.generator.scorer)
        (elapsed,) = distributed.all_reduce_max(time.monotonic() - started)
        shown = min(len(rows.codes), PASS_ROWS)
        state.passes, state.seen, state.seconds = state.passes + 1, state.seen + shown, state.seconds + elapsed
        tick = Tick(
            seen=state.seen,
            epoch=state.passes,
            seconds=state.seconds,
            sequences_per_second=shown / elapsed,
            losses=losses,
            last_losses=losses,
        )
        (enough,) = distributed.all_reduce_max(on_tick(tick))
        if enough:
            return "stopped"
    return "epochs" if state.passes >= total else "minutes"


def one_pass(
    state: TextState, rows: LabelledRows, seed: int, interrupted: Callable[[], bool]
) -> dict[str, float] | None:
    """Show the discriminator training rows and as many fresh draws; returns the mean losses, or None if interrupted.

    With several processes, each draws a part of the rows and computes on its part of each batch.
    """
    scorer = state.generator.scorer
    device = scorer.weights.device
    chosen = torch.randperm(len(rows.codes))[:PASS_ROWS]
    both = LabelledRows.joined([rows.take(chosen), draw_together(state.generator, len(chosen), seed)]).to(device)
    real = (torch.arange(len(both.codes), device=device) < len(chosen)).float()
    losses: list[tuple[Tensor, Tensor]] = []
    for batch in torch.randperm(len(both.codes)).to(device).split(BATCH):
        (stop,) = distributed.all_reduce_max(interrupted())
        if stop:
            return None
        losses.append(update(state, both.take(batch), real[batch]))
    discriminator, generator = map(torch.stack, zip(*losses, strict=True))
    distributed.all_reduce_mean([discriminator, generator])
    # In a batch without draws the generator's loss is 0 / 0.
    return {"generator_loss": generator.nanmean().item(), "discriminator_loss": discriminator.mean().item()}


def update(state: TextState, rows: LabelledRows, real: Tensor) -> tuple[Tensor, Tensor]:
    """One step of the discriminator's optimizer.

    Args:
        real: whether each row is real, as 0 or 1, (rows,).

    Returns:
        The losses of discriminator and generator; with several processes, their mean over the processes is the loss.
    """
    scorer = state.generator.scorer
    hidden = (torch.rand(rows.codes.shape, device=real.device) < WORD_DROPOUT) & (rows.codes != PADDING)
    kept = F.dropout(real.new_ones(len(real), scorer.features), DROPOUT)
    mine, weight = distributed.weighted_portion(len(real))
    labels = None if rows.labels is None else rows.labels[mine]
    scores = scorer(rows.codes.masked_fill(hidden, UNKNOWN)[mine], labels, kept[mine])
    loss = weight * len(scores) / len(real) * F.binary_cross_entropy_with_logits(scores, real[mine])
    state.optimizer.zero_grad()
    loss.backward()
    distributed.average_gradients(state.optimizer)
    state.optimizer.step()
    fooled = weight * (F.softplus(-scores.detach()) * (1 - real[mine])).sum() / (1 - real).sum()
    return loss.detach(), fooled


@torch.no_grad()
def nats_won(scorer: Scorer, validation: LabelledRows, draws: LabelledRows) -> tuple[float, float]:
    """The nats that a validation row gains if draws are weighted by exp(scale * score), at the best scale.

    For resampling only ratios between draws of the same class matter, since these compete as candidates. So for each
    scale and class there is an offset that makes the weights average 1 over the class's draws, as a density ratio does.
    Rows of a class without draws win nothing.

    Returns:
        The nats per row, and the scale (Platt 1999 scales classifiers in the same way).
    """
    real, made = (scores_of(scorer, rows.codes, rows.labels).cpu() for rows in (validation, draws))
    won = torch.zeros_like(SCALES)
    for ours, theirs in _by_class(validation, draws):
        if len(made[theirs]):
            offset = torch.logsumexp(SCALES[:, None] * made[theirs], 1) - math.log(len(made[theirs]))
            won += SCALES * real[ours].sum() - len(real[ours]) * offset
    won /= len(real)
    best = int(won.argmax())
    return float(won[best]), float(SCALES[best])


def _by_class(first: LabelledRows, second: LabelledRows) -> list[tuple[Any, Any]]:
    """For each class among the first rows, masks of its rows in both sets; without classes, all rows of both."""
    if first.labels is None or second.labels is None:
        return [(slice(None), slice(None))]
    labels, others = first.labels.cpu(), second.labels.cpu()
    return [(labels == label, others == label) for label in labels.unique()]
