"""Baselines: standard generators, fitted to the same rows as the GAN: training and validation rows.

    fit_marginals       independent columns
    fit_gaussian        pairwise correlations as well, within seconds
    fit_autoregressive  one bit after another by maximum likelihood: the counterpart of a recurrent net for rows of bits

Hyperparameters are chosen by validation rows; the baseline is then refitted to both, as the GAN is. Codes are uint8
tensors (rows, length) with values 0 and 1; there is at least one training row. The first two are fitted in float64, the
net in float32; all weights are kept in float32, like those that ship.
"""

import copy
import math
import time
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from train import cpus
from train.average import move_average
from train.baseline_generators import AutoregressiveGenerator, GaussianGenerator, IndependentGenerator
from train.generator import Generator

IMPOSSIBLE = 10.0  # a latent threshold that a standard normal exceeds once in 10^23 rows
# Pairs of at most this many columns choose the width: of 3,000 columns, a repaired matrix for each width takes minutes.
CHOOSING_COLUMNS = 1024
PRIOR_WIDTHS = (math.inf, 0.8, 0.56, 0.4, 0.28, 0.2, 0.14, 0.1, 0.07, 0.05, 0.0)  # of latent correlations, Fisher's z
SMALLEST_EIGENVALUE = 1e-8  # keeps the matrix invertible; duplicated columns then differ once in 10^4 rows
NEWTON_STEPS = 40
TOLERANCE = 1e-11
NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(24)
PAIRS_PER_PASS = 1 << 16  # keeps the solver's intermediate results in the cache

Dropouts = tuple[float, float]  # rates for the input bits and for the hidden units

DROPOUTS: tuple[Dropouts, ...] = ((0.1, 0.5), (0.2, 0.5), (0.0, 0.2))
LEARNING_RATES = (2e-3, 7e-4, 2.5e-4)
PATIENCE = 5
CHOOSING_SHARE = 0.7  # of the seconds; the rest is for training on all rows
BATCH, AVERAGE = 100, 0.99


def fit(
    which: str, train_codes: Tensor, validation_codes: Tensor, *, seconds: float, seed: int, device: str = "cpu"
) -> dict[str, Generator]:
    """The requested baselines by name, on the CPU, in float64 and ready to be sampled.

    Args:
        which: "none"; "fast", those that take seconds; or "all".
        seconds: how long the autoregressive net may learn: as long as the GAN did.
        device: where the autoregressive net learns: where the GAN did.
    """
    if which == "none":
        return {}
    with torch.random.fork_rng(devices=[]):  # building a net draws random numbers, even if fitting overwrites them
        fitted: dict[str, Generator] = {
            "independent": fit_marginals(torch.cat([train_codes, validation_codes])),
            "Gaussian copula": fit_gaussian(train_codes, validation_codes),
        }
    if which == "all":
        there = train_codes.to(device), validation_codes.to(device)
        fitted["autoregressive"] = fit_autoregressive(*there, seconds, seed).cpu()
    return {name: generator.double().eval() for name, generator in fitted.items()}


def fit_marginals(codes: Tensor) -> IndependentGenerator:
    """Independent bits with the column means of these rows. A constant column stays constant."""
    generator = IndependentGenerator(codes.shape[1]).requires_grad_(False)
    generator.probability.copy_(codes.double().mean(dim=0))
    return generator


def fit_gaussian(train_codes: Tensor, validation_codes: Tensor) -> GaussianGenerator:
    """The dichotomised Gaussian with the marginals of all rows and shrunken pairwise correlations.

    Latent correlations are tetrachoric, each shrunk according to its reliability (`shrink`), and repaired to a positive
    definite matrix. The prior width is the one with which the training rows' correlations give the pairs of bits of the
    validation rows the highest likelihood (a composite likelihood: Lindsay 1988).
    """
    length, codes = train_codes.shape[1], torch.cat([train_codes, validation_codes])
    generator = GaussianGenerator(length).requires_grad_(False)
    width = _prior_width(train_codes, validation_codes)
    generator.linear.weight.copy_(torch.linalg.cholesky(_latent_correlations(*tetrachoric(codes), width, length)))
    generator.linear.bias.copy_(_thresholds(codes))
    return generator


def _prior_width(train_codes: Tensor, validation_codes: Tensor) -> float:
    """The prior width under which the validation rows are likeliest, judged by CHOOSING_COLUMNS columns at most."""
    if train_codes.shape[1] > CHOOSING_COLUMNS:
        some = torch.randperm(train_codes.shape[1], generator=torch.Generator().manual_seed(0))[:CHOOSING_COLUMNS]
        train_codes, validation_codes = train_codes[:, some], validation_codes[:, some]
    length = train_codes.shape[1]
    first, second = torch.triu_indices(length, length, offset=1)
    bias, known, seen = _thresholds(train_codes), tetrachoric(train_codes), _pair_counts(validation_codes)

    def score(width: float) -> float:
        latent = _latent_correlations(*known, width, length)
        return _composite_likelihood(seen, bias[first], bias[second], latent[first, second])

    return max(PRIOR_WIDTHS, key=score)


def _latent_correlations(raw: Tensor, error: Tensor, width: float, length: int) -> Tensor:
    """Shrunken correlations of all pairs as a positive definite matrix, (length, length)."""
    return nearest_correlation(_symmetric(shrink(raw, error, width), length))


def _thresholds(codes: Tensor) -> Tensor:
    """The standard normal quantiles of the column means, clamped to ±IMPOSSIBLE, float64 (length,)."""
    return torch.special.ndtri(codes.double().mean(dim=0)).clamp(-IMPOSSIBLE, IMPOSSIBLE)


def tetrachoric(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Tetrachoric correlation of every pair of columns (i < j, row by row), and its standard error if it were 0.

    The correlation at which two standard normals, cut at the thresholds of the marginals, have both bits on as often as
    the rows do (Pearson 1900). An empty cell of a pair's 2 x 2 table counts as half a row (Brown and Benedetti 1977),
    but two diagonally opposite empty cells mean a perfect correlation. A constant column gets 0.

    Returns:
        Two float64 tensors (pairs,), the first in [-1, 1]; the error is infinite for a constant column.
    """
    counts = _pair_counts(codes)
    latent, error = torch.zeros_like(counts[0]), torch.full_like(counts[0], math.inf)
    neither, one, other, both = counts
    varied = (both + one) * (neither + other) * (both + other) * (neither + one) > 0
    latent[varied], error[varied] = _tetrachoric(*counts[:, varied])
    return latent, error


def _tetrachoric(neither: Tensor, one: Tensor, other: Tensor, both: Tensor) -> tuple[Tensor, Tensor]:
    n = neither + one + other + both
    p, q = (both + one) / n, (both + other) / n
    h, k = torch.special.ndtri(p), torch.special.ndtri(q)
    # An empty cell gets half a row. The marginals stay fixed, so the diagonally opposite cell gains half a row, too.
    half_a_row = 0.5 * ((neither == 0).double() + (both == 0).double() - (one == 0).double() - (other == 0).double())
    latent = solve_correlation(h, k, (both + half_a_row) / n)
    latent[one + other == 0] = 1.0
    latent[neither + both == 0] = -1.0
    return latent, (p * (1 - p) * q * (1 - q) / n).sqrt() / (_density(h) * _density(k))


def solve_correlation(h: Tensor, k: Tensor, joint: Tensor) -> Tensor:
    """Correlations at which standard normals x, y have P(x < h, y < k) = joint; all float64 (pairs,).

    Newton's method for the angle asin(correlation), kept in a bracket: the joint probability rises with the angle,
    and its slope is the integrand of `orthant`. If no correlation fits, the result is the nearer end, -1 or 1.
    """
    blocks = zip(h.split(PAIRS_PER_PASS), k.split(PAIRS_PER_PASS), joint.split(PAIRS_PER_PASS), strict=True)
    return torch.cat(list(cpus.in_threads(lambda block: _solve(*block), blocks)))


def _solve(h: Tensor, k: Tensor, joint: Tensor) -> Tensor:
    low, high = torch.full_like(joint, -math.pi / 2), torch.full_like(joint, math.pi / 2)
    angle = torch.zeros_like(joint)
    for _ in range(NEWTON_STEPS):
        excess = _orthant(h, k, angle) - joint
        low, high = angle.where(excess < 0, low), angle.where(excess >= 0, high)
        step = angle - excess / _slope(h, k, angle)
        inside = (step >= low) & (step <= high)
        angle = step.where(inside, (low + high) / 2)
        if (excess.abs() < TOLERANCE).all():
            break
    return angle.sin()


def orthant(h: Tensor, k: Tensor, correlation: Tensor) -> Tensor:
    """P(x < h, y < k) of standard normals with that correlation; all float64 (pairs,).

    Phi(h) Phi(k) + 1/(2 pi) * integral from 0 to asin(correlation) of exp(-(h^2 + k^2 - 2 h k sin t) / (2 cos^2 t)) dt
    (Drezner and Wesolowsky 1990), by Gauss-Legendre quadrature.
    """
    return _orthant(h, k, correlation.asin())


def _orthant(h: Tensor, k: Tensor, angle: Tensor) -> Tensor:
    area = torch.zeros_like(angle)
    for node, weight in zip(NODES.tolist(), NODE_WEIGHTS.tolist(), strict=True):
        area += weight * _slope(h, k, angle * (1 + node) / 2)
    return torch.special.ndtr(h) * torch.special.ndtr(k) + area * angle / 2


def _slope(h: Tensor, k: Tensor, angle: Tensor) -> Tensor:
    sine = angle.sin()
    exponent = (h * h + k * k - 2 * h * k * sine) / (2 * (1 - sine * sine).clamp(min=1e-15))
    return (-exponent).exp() / (2 * math.pi)


def shrink(correlation: Tensor, error: Tensor, width: float) -> Tensor:
    """Correlations shrunk towards 0, each the more the less reliable it is; all float64 (pairs,).

    On Fisher's z scale, with a normal prior of standard deviation `width` around 0 and a standard error for each, the
    posterior mean is z * width^2 / (width^2 + error^2) (James and Stein 1961). On that scale a perfect correlation
    stays perfect, so duplicated columns stay duplicates.
    """
    if math.isinf(width):
        return correlation
    reliability = width**2 / (width**2 + error**2) if width else torch.zeros_like(error)
    return (correlation.atanh() * reliability).nan_to_num(0.0).tanh()


def nearest_correlation(matrix: Tensor) -> Tensor:
    """A positive definite correlation matrix near a symmetric one with diagonal 1, float64 (length, length).

    Negative eigenvalues are raised and the diagonal is scaled back to 1 (Rousseeuw and Molenberghs 1993).
    """
    values, vectors = torch.linalg.eigh(matrix)
    repaired = (vectors * values.clamp(min=SMALLEST_EIGENVALUE)) @ vectors.T
    scale = repaired.diagonal().rsqrt()
    return repaired * scale * scale[:, None]


def _composite_likelihood(counts: Tensor, h: Tensor, k: Tensor, correlation: Tensor) -> float:
    """Log-likelihood of the 2 x 2 tables of all pairs, as if the pairs were independent of one another."""
    both = orthant(h, k, correlation)
    p, q = torch.special.ndtr(h), torch.special.ndtr(k)
    cells = torch.stack([1 - p - q + both, p - both, q - both, both])
    return (counts * cells.clamp(min=1e-9).log()).sum().item()


def _pair_counts(codes: Tensor) -> Tensor:
    """How many rows have neither, only the first, only the second, and both bits of a pair on: float64 (4, pairs)."""
    n, length = codes.shape
    bits = codes.double()
    first, second = torch.triu_indices(length, length, offset=1)
    ones, both = bits.sum(dim=0), (bits.T @ bits)[first, second]
    one, other = ones[first] - both, ones[second] - both
    return torch.stack([n - both - one - other, one, other, both])


def _symmetric(above: Tensor, length: int) -> Tensor:
    """The matrix with these values above the diagonal, the same below it, and 1 on it."""
    matrix = torch.eye(length, dtype=above.dtype)
    first, second = torch.triu_indices(length, length, offset=1)
    matrix[first, second] = matrix[second, first] = above
    return matrix


def _density(x: Tensor) -> Tensor:
    return (-x * x / 2).exp() / math.sqrt(2 * math.pi)


def fit_autoregressive(
    train_codes: Tensor, validation_codes: Tensor, seconds: float, seed: int
) -> AutoregressiveGenerator:
    """An autoregressive net trained by maximum likelihood on the rows' device, for at most `seconds` of wall clock.

    Nets with different dropout are trained one after another, each until the validation likelihood stops improving. The
    best one is then trained anew on all rows, with as many looks (see `_look`) at each rate, if time allows. Where the
    clock ends training, the result differs from run to run.
    """
    started, every = time.monotonic(), torch.cat([train_codes, validation_codes]).float()
    if len(validation_codes) == 0:
        validation_codes = train_codes[::5]
        train_codes = torch.cat([train_codes[k::5] for k in range(1, 5)]) if len(train_codes) > 1 else train_codes
    rows, spare = train_codes.float(), validation_codes.float()
    tried = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        deadline = started + CHOOSING_SHARE * seconds
        for dropouts in DROPOUTS:
            chosen = _untrained(rows)
            tried.append((*_train(chosen, rows, spare, dropouts, deadline), dropouts, chosen))
            if time.monotonic() > deadline:
                break
        _, looks, dropouts, chosen = min(tried, key=lambda each: each[0])
        final = _untrained(every)
        is_whole = _train_again(final, every, dropouts, looks, started + seconds)
    return (final if is_whole else chosen).requires_grad_(False)


def _untrained(rows: Tensor) -> AutoregressiveGenerator:
    """A net that starts from the marginals."""
    generator = AutoregressiveGenerator(rows.shape[1]).to(rows.device)
    with torch.no_grad():
        generator.output.weight *= 0.1
        generator.direct.weight.zero_()
        generator.output.bias.copy_(rows.mean(dim=0).clamp(0.5 / len(rows), 1 - 0.5 / len(rows)).logit())
    return generator


def _train(
    generator: AutoregressiveGenerator, rows: Tensor, spare: Tensor, dropouts: Dropouts, deadline: float
) -> tuple[float, list[int]]:
    """Train in place by AdamW; the running average of the weights is what is judged and kept.

    Each learning rate is used until PATIENCE looks in a row bring no gain; the next one starts from the best weights.

    Returns:
        The best validation loss, and how many looks at each rate led to it.
    """
    average = copy.deepcopy(generator)
    best, best_loss, best_looks = copy.deepcopy(average.state_dict()), _loss(average, spare), [0] * len(LEARNING_RATES)
    for i, rate in enumerate(LEARNING_RATES):
        generator.load_state_dict(best)
        average.load_state_dict(best)
        optimizer = _optimizer(generator, rate)
        looks = stale = 0
        while stale < PATIENCE and time.monotonic() < deadline:
            _look(generator, average, optimizer, rows, _at_rate(dropouts, rate))
            looks += 1
            loss = _loss(average, spare)
            stale = 0 if loss < best_loss - 1e-3 else stale + 1
            if loss < best_loss:
                best, best_loss, best_looks[i] = copy.deepcopy(average.state_dict()), loss, looks
    generator.load_state_dict(best)
    return best_loss, best_looks


def _train_again(
    generator: AutoregressiveGenerator, rows: Tensor, dropouts: Dropouts, looks: Sequence[int], deadline: float
) -> bool:
    """Train in place as `_train` did, with the given number of looks at each rate; False if time runs out."""
    average = copy.deepcopy(generator)
    for rate, number in zip(LEARNING_RATES, looks, strict=True):
        generator.load_state_dict(average.state_dict())
        optimizer = _optimizer(generator, rate)
        for _ in range(number):
            if time.monotonic() > deadline:
                return False
            _look(generator, average, optimizer, rows, _at_rate(dropouts, rate))
    generator.load_state_dict(average.state_dict())
    return True


def _optimizer(generator: AutoregressiveGenerator, rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(generator.parameters(), lr=rate, weight_decay=0.01)


def _at_rate(dropouts: Dropouts, rate: float) -> Dropouts:
    """Input dropout is used at the first rate only: the net learns to rely on no single bit, but its marginals blur."""
    return dropouts if rate == LEARNING_RATES[0] else (0.0, dropouts[1])


def _look(
    generator: AutoregressiveGenerator,
    average: AutoregressiveGenerator,
    optimizer: torch.optim.Optimizer,
    rows: Tensor,
    dropouts: Dropouts,
) -> None:
    """Train on about as many rows as there are, but 2,000 to 10,000, drawn with replacement."""
    steps = min(max(len(rows), 2_000), 10_000) // BATCH
    for batch in torch.randint(len(rows), (steps, BATCH)).to(rows.device):  # all at once, so that no step waits for it
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(
            generator.logits(rows[batch], *dropouts), rows[batch], reduction="sum"
        )
        (loss / BATCH).backward()
        optimizer.step()
        move_average(average, generator, AVERAGE)


@torch.no_grad()
def _loss(generator: AutoregressiveGenerator, rows: Tensor) -> float:
    """Mean negative log-likelihood of a row, in nats."""
    blocks = torch.split(rows, 4_096)
    losses = [F.binary_cross_entropy_with_logits(generator.logits(x), x, reduction="sum").item() for x in blocks]
    return sum(losses) / len(rows)
