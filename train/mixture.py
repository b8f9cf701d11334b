"""The latent classes of 0/1 rows: a mixture of Bernoulli products, from which the nets of the warm start begin."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

CLASSES = (8, 16, 32, 64)
PSEUDO_ROWS = (5.0, 1.0)  # how strongly classes are shrunk towards the column means; 5 gives the plainer mixture
ROWS_A_CLASS = 10  # the fewest training rows per class for a number of classes to be tried
EM_STEPS, EM_LAST_STEPS = 60, 3
EM_VALUES = 1 << 22  # values that expectation maximisation uses; only its last steps use all rows
EDGE = 1e-4  # probabilities are kept this far from 0 and 1


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A mixture of Bernoulli products: `prior` (classes,) and the columns' `means` in each class, (classes, length)."""

    prior: Tensor
    means: Tensor

    def joint_log_prob(self, rows: Tensor) -> Tensor:
        """log p(row, class), (rows, classes)."""
        means = self.means.clamp(EDGE, 1 - EDGE)
        return rows @ torch.logit(means).T + torch.log1p(-means).sum(1) + self.prior.log()

    def log_likelihoods(self, rows: Tensor) -> Tensor:
        """log p(row) in nats, (rows,)."""
        return self.joint_log_prob(rows).logsumexp(1)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How many classes, and how strongly each is shrunk towards the column means."""

    classes: int = 1
    pseudo_rows: float = 1.0


def choose_mixture(seen: Tensor, unseen: Tensor) -> Choice:
    """The plainest choice under which the unseen rows are not clearly less likely than under the best one.

    The nets can learn much of what a mixture would need more classes for. Clearly means by more than one standard error
    of the difference (Breiman et al. 1984, "Classification and regression trees").
    """
    seen = _few(seen)
    tried = [
        Choice(classes=classes, pseudo_rows=pseudo)
        for classes in CLASSES
        for pseudo in PSEUDO_ROWS
        if classes * ROWS_A_CLASS <= len(seen)
    ]
    if not tried:
        return Choice()
    nats = [fit_mixture(seen, choice).log_likelihoods(unseen) for choice in tried]
    best = max(nats, key=lambda each: float(each.mean()))
    return next(choice for choice, each in zip(tried, nats, strict=True) if not is_lower(each, best, 1))


def is_lower(some: Tensor, others: Tensor, errors: float) -> bool:
    """Whether the mean of `some` (rows,) is lower than that of `others` by more than `errors` standard errors."""
    lost = others - some
    return float(lost.mean()) > errors * float(lost.std(correction=0)) / math.sqrt(len(lost))


def fit_mixture(rows: Tensor, choice: Choice) -> Mixture:
    """Expectation maximisation (Dempster, Laird and Rubin 1977), started at random rows drawn halfway to the mean.

    Most steps use a part of the rows, the last ones use all.
    """
    few, mean = _few(rows), (rows.sum(0) + 0.5) / (len(rows) + 1)
    if choice.classes == 1:
        return Mixture(prior=rows.new_ones(1), means=mean[None])
    found = Mixture(
        prior=rows.new_full((choice.classes,), 1 / choice.classes),
        means=0.5 * few[torch.randperm(len(few))[: choice.classes].to(rows.device)] + 0.5 * mean,
    )
    for step in range(EM_STEPS):
        looked_at = few if step < EM_STEPS - EM_LAST_STEPS else rows
        posterior = found.joint_log_prob(looked_at).softmax(1)
        size = posterior.sum(0)
        means = (posterior.T @ looked_at + choice.pseudo_rows * mean) / (size[:, None] + choice.pseudo_rows)
        found = Mixture(prior=(size + 1e-3) / (size + 1e-3).sum(), means=means)
    return found


def _few(rows: Tensor) -> Tensor:
    return rows[: max(1, EM_VALUES // rows.shape[1])]


def draw_classes(posterior: Tensor) -> Tensor:
    """A class for each row, (rows,), drawn with the probabilities `posterior`, (rows, classes).

    Done by exponential races, as in `torch.multinomial`, which however checks its input first and so waits for the GPU.
    """
    return (posterior / torch.empty_like(posterior).exponential_()).argmax(1)
