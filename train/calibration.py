"""What is put right in a fitted generator of 0/1 rows: column means, and constraints that all rows satisfy."""

import math

import numpy as np
import torch
from torch import Tensor

from train.constraints import Constraints, expected_violations, satisfied_by
from train.generator import draw_noise, sample
from train.nade import NadeGenerator

ROWS, ROUNDS = 20_000, 6
VALUES = 5_000_000  # fewer of long rows, which take longer to draw
FEWEST_VIOLATIONS = 0.05  # of constraints, among as many draws as there are known rows, where none are expected
SEED = 777_777  # of the first round, plus 1 for each further one; judges use other seeds, so other rows


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
    for step in range(ROUNDS):
        noise = draw_noise(generator, drawn, SEED + step).to(generator.bias)
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
    drawn = sample(generator, _affordable_rows(generator), SEED + ROUNDS).numpy()
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
    return min(ROWS, -(-VALUES // generator.length))
