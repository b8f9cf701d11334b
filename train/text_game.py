"""The game of the text generator: a discriminator learns to tell real rows from fresh draws, and ships as the scorer.

The generator answers by drawing several candidates for each row and taking one in proportion to the discriminator's
density ratio, exp(score). So the discriminator must not be trusted where it is sure of itself without reason: the pass
ships after which validation rows, from which neither side has learned, are told from draws best, and its scale is then
set on those rows. With classes, both sides show it rows together with their classes: real ones with their own, draws
with the one that they were drawn for.
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
from train.codec import END, PADDING, UNKNOWN
from train.config import Config
from train.generator import LabelledRows, draw_noise, generate_labelled
from train.loop import NonFiniteError, Tick
from train.phase import GameState
from train.text_generator import Scorer, TokenGenerator

PASS_ROWS = 5000  # real rows in a pass, and as many draws
BATCH, LEARNING_RATE, WEIGHT_DECAY = 64, 2e-3, 0.1
LINEAR_RATE, LINEAR_DECAY = 3e-3, 0.1  # of the weights of n-grams
DROPOUT, WORD_DROPOUT = 0.5, 0.1  # of the discriminator's features, and of the tokens that it sees
CHECK_SEED = 999_983  # of the draws that checks use; passes use --seed and the numbers after it
CHECKED_DRAWS = 4  # draws for each validation row
SCORED_ROWS = 256  # at once
SCALES = torch.linspace(0, 1.5, 61)
REDRAWS = 8
GROUPINGS = 16  # among how many groups of candidates it is found out how often a draw would be chosen


class TextState(GameState):
    """Everything that the game changes; there is no average. `passes` counts those over the training rows."""

    MODULES = ("generator", "optimizer")
    VALUES = ("passes", *GameState.VALUES)

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
) -> str:
    """Pass over the training rows until the budget is used up, a tick says stop, or somebody interrupts.

    A pass is a tick and shows `PASS_ROWS` rows, or all where they are fewer; `config.epochs` counts passes.

    An interrupted pass begins again when the game goes on; otherwise as `loop.train`.

    Args:
        rows: token ids of the training rows, and their classes where they have any.

    Raises:
        NonFiniteError: at the end of the pass in which it happened.
    """
    total = math.inf if config.epochs is None else config.epochs
    limit = math.inf if config.max_minutes is None else 60 * config.max_minutes
    while state.passes < total and state.seconds < limit:
        started, before = time.monotonic(), copy.deepcopy(state.state_dict())
        losses = one_pass(state, rows, config.seed + state.passes, interrupted)
        if losses is None:
            state.load_state_dict(before)
            return "interrupted"
        if not all(map(math.isfinite, losses.values())):
            raise NonFiniteError(f"the losses are {losses} after {state.seen:,} sequences")
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
    """Show the discriminator training rows and as many fresh draws; None if interrupted.

    Of several processes each draws a part of the rows, and computes on its part of each batch.
    """
    scorer = state.generator.scorer
    device = scorer.weights.device
    chosen = torch.randperm(len(rows.codes))[:PASS_ROWS]
    both = joined(rows.take(chosen), draw_together(state.generator, len(chosen), seed)).to(device)
    real = (torch.arange(len(both.codes), device=device) < len(chosen)).float()
    losses: list[tuple[Tensor, Tensor]] = []
    for batch in torch.randperm(len(both.codes)).to(device).split(BATCH):
        (stop,) = distributed.all_reduce_max(interrupted())
        if stop:
            return None
        losses.append(update(state, both.take(batch), real[batch]))
    discriminator, generator = map(torch.stack, zip(*losses, strict=True))
    distributed.all_reduce_mean([discriminator, generator])
    # A batch without draws has no loss of the generator: it is 0 / 0.
    return {"generator_loss": generator.nanmean().item(), "discriminator_loss": discriminator.mean().item()}


def update(state: TextState, rows: LabelledRows, real: Tensor) -> tuple[Tensor, Tensor]:
    """One step of the discriminator's optimizer.

    Args:
        real: whether each row is one, as 0 or 1, (rows,).

    Returns:
        The losses of discriminator and generator. Of several processes each has its part; their mean is the loss.
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


def draw(generator: TokenGenerator, rows: int, seed: int, wanted: slice = slice(None)) -> LabelledRows:
    """So many rows as the language model alone draws them, or a part of these: token ids, int64, and their classes."""
    alone = generator.with_options(candidates=1)
    made = generate_labelled(alone, draw_noise(alone, rows, seed)[wanted])
    return LabelledRows(codes=made.codes.long(), labels=made.labels)


def draw_together(generator: TokenGenerator, rows: int, seed: int) -> LabelledRows:
    """The same, of which each process draws a part: all of them must ask for it."""
    mine = draw(generator, rows, seed, distributed.portion(rows))
    codes, labels = zip(*distributed.all_gather((mine.codes, mine.labels)), strict=True)
    return LabelledRows(codes=torch.cat(codes), labels=None if mine.labels is None else torch.cat(labels))


@torch.no_grad()
def filled(generator: TokenGenerator, rows: LabelledRows, unknown: Tensor, seed: int) -> LabelledRows:
    """Rows in which tokens that the generator cannot draw are replaced by what it would draw there.

    Else the discriminator would know real rows by these tokens, and no choice among candidates can give them.

    Args:
        rows: token ids, on the generator's device.
        unknown: which of the tokens are replaced, bool (rows, length).
    """
    model, rng = generator.model, torch.Generator().manual_seed(seed)
    affected = unknown.any(1).nonzero().squeeze(1)
    codes, unknown = rows.codes[affected].long(), unknown[affected]
    labels = None if rows.labels is None else rows.labels[affected]
    before = token = torch.full_like(affected, END)
    state = torch.zeros(1, len(codes), generator.hidden, device=codes.device)
    for t in range(codes.shape[1] if len(affected) else 0):
        state = model.step(token, labels, state)
        here = unknown[:, t]
        for _ in range(REDRAWS):  # an end within a row would cut it off
            theirs = None if labels is None else labels[here]
            uniform = torch.rand(len(codes), 3, generator=rng).to(codes.device)[here]
            codes[here, t] = model.draw(before[here], token[here], theirs, state[0, here], uniform, 1.0, t)
            here = here & (codes[:, t] == END)
        before, token = token, codes[:, t]
    ended = (codes == END).cumsum(1) - (codes == END).long() > 0
    codes = rows.codes.long().index_copy(0, affected, codes.masked_fill(ended, PADDING))
    return LabelledRows(codes=codes, labels=rows.labels)


def joined(first: LabelledRows, second: LabelledRows) -> LabelledRows:
    """The rows of both, with classes where both have them; token ids are int64."""
    labels = None
    if first.labels is not None and second.labels is not None:
        labels = torch.cat([first.labels, second.labels])
    return LabelledRows(codes=torch.cat([first.codes.long(), second.codes]), labels=labels)


@torch.no_grad()
def nats_won(scorer: Scorer, validation: LabelledRows, draws: LabelledRows) -> tuple[float, float]:
    """How many nats likelier a validation row becomes at the best by weighting draws with exp(scale * score).

    Only ratios between draws matter for resampling, and only between those of a class, in which candidates compete. So
    each scale has an offset for each class: the one with which the weights average 1 over its draws, as a density ratio
    does. Rows of a class without draws win nothing.

    Returns:
        The nats, and the scale (Platt 1999 scales classifiers in the same way).
    """
    real, made = (_scores(scorer, rows) for rows in (validation, draws))
    won = torch.zeros_like(SCALES)
    for ours, theirs in _by_class(validation, draws):
        if len(made[theirs]):
            offset = torch.logsumexp(SCALES[:, None] * made[theirs], 1) - math.log(len(made[theirs]))
            won += SCALES * real[ours].sum() - len(real[ours]) * offset
    won /= len(real)
    best = int(won.argmax())
    return float(won[best]), float(SCALES[best])


def _by_class(first: LabelledRows, second: LabelledRows) -> list[tuple[Any, Any]]:
    """For each class that the first rows have, which of either are of that class; without classes, all of both."""
    if first.labels is None or second.labels is None:
        return [(slice(None), slice(None))]
    labels, others = first.labels.cpu(), second.labels.cpu()
    return [(labels == label, others == label) for label in labels.unique()]


@torch.no_grad()
def chances(generator: TokenGenerator, draws: LabelledRows, seed: int) -> Tensor | None:
    """Each draw's relative chance of being chosen, 1 on average: (rows,), on the CPU; None with one candidate.

    So a few draws weighed by their chances tell as much of what the generator returns as many times more would.

    Args:
        draws: as `draw` makes them, at least as many as there are candidates.
        seed: of the random groups in which they compete, within their class.
    """
    k, rng = generator.candidates, torch.Generator().manual_seed(seed)
    if k == 1:
        return None
    scores, total = _scores(generator.scorer, draws).double(), torch.zeros(len(draws.codes), dtype=torch.float64)
    for _ in range(GROUPINGS):
        groups = torch.randperm(len(scores), generator=rng)[: len(scores) // k * k]
        if draws.labels is not None:
            groups = groups[draws.labels.cpu()[groups].argsort(stable=True)]
        groups = groups.view(-1, k)
        total[groups] += scores[groups].softmax(1)
    return total / total.mean()


def _scores(scorer: Scorer, rows: LabelledRows) -> Tensor:
    """(rows,), on the CPU."""
    return torch.cat([scorer(part.codes, part.labels) for part in rows.split(SCORED_ROWS)]).cpu()
