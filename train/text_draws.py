"""Draws of the text generator: by its language model alone, in place of unknown tokens, and how likely each is chosen.

Calibration and the game both use them.
"""

from functools import partial

import torch
from torch import Tensor

from train import distributed
from train.codec import END, PADDING
from train.generator import LabelledRows, Map, draw_noise, generate_labelled
from train.scorer import scores_of
from train.text_generator import TokenGenerator

REDRAWS = 8
GROUPINGS = 16  # random groups of candidates for each draw, to estimate how often it would be chosen


def draw(generator: TokenGenerator, rows: int, seed: int, wanted: slice = slice(None), each: Map = map) -> LabelledRows:
    """Rows drawn by the language model alone: token ids, int64, and their classes.

    Args:
        wanted: which of the rows to return.
        each: how passes are mapped to rows, one after the other or several at a time.
    """
    alone = generator.with_options(candidates=1)
    passes = draw_noise(alone, rows, seed)[wanted].split(alone.rows_per_pass)
    made = LabelledRows.joined(list(each(partial(generate_labelled, alone), passes)))
    return LabelledRows(codes=made.codes.long(), labels=made.labels)


def draw_together(generator: TokenGenerator, rows: int, seed: int, each: Map = map) -> LabelledRows:
    """As `draw`, but each process draws a part; all processes must call it."""
    mine = draw(generator, rows, seed, distributed.portion(rows), each)
    drawn = distributed.all_gather((mine.codes, mine.labels))
    return LabelledRows.joined([LabelledRows(codes=codes, labels=labels) for codes, labels in drawn])


@torch.no_grad()
def filled(generator: TokenGenerator, rows: LabelledRows, unknown: Tensor, seed: int) -> LabelledRows:
    """Rows in which the tokens that the generator cannot draw are replaced by what it would draw there.

    Otherwise the discriminator would recognise real rows by tokens that no choice among candidates can produce.

    Args:
        rows: token ids, on the generator's device.
        unknown: which tokens to replace, bool (rows, length).
    """
    model, rng = generator.model, torch.Generator().manual_seed(seed)
    affected = unknown.any(1).nonzero().squeeze(1)
    codes, unknown = rows.codes[affected].long(), unknown[affected]
    labels = None if rows.labels is None else rows.labels[affected]
    context = model.start(len(codes), labels)
    token = context.token
    for t in range(codes.shape[1] if len(affected) else 0):
        context = model.step(context, token)
        here = unknown[:, t]
        for _ in range(REDRAWS):  # END is drawn again, because it would cut the row off
            uniform = torch.rand(len(codes), 3, generator=rng).to(codes.device)[here]
            codes[here, t] = model.draw(context.take(here), uniform, 1.0, t)
            here = here & (codes[:, t] == END)
        token = codes[:, t]
    ended = (codes == END).cumsum(1) - (codes == END).long() > 0
    codes = rows.codes.long().index_copy(0, affected, codes.masked_fill(ended, PADDING))
    return LabelledRows(codes=codes, labels=rows.labels)


@torch.no_grad()
def chances(generator: TokenGenerator, draws: LabelledRows, seed: int) -> Tensor | None:
    """Each draw's relative chance of being chosen, 1 on average: (rows,), on the CPU; None with one candidate.

    With these weights a few draws tell as much about what the generator returns as many more would without.

    Args:
        draws: as made by `draw`, at least as many as there are candidates.
        seed: of the random groups in which they compete, mostly within their class.
    """
    k, rng = generator.candidates, torch.Generator().manual_seed(seed)
    if k == 1:
        return None
    scores = scores_of(generator.scorer, draws.codes, draws.labels).double().cpu()
    total = torch.zeros_like(scores)
    for _ in range(GROUPINGS):
        groups = torch.randperm(len(scores), generator=rng)[: len(scores) // k * k]
        if draws.labels is not None:
            groups = groups[draws.labels.cpu()[groups].argsort(stable=True)]
        groups = groups.view(-1, k)
        total[groups] += scores[groups].softmax(1)
    return total / total.mean()
