"""The losses of the adversarial game: pure functions of the discriminator's scores, shape (rows,)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def textbook_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """-log D(x) - log(1 - D(G(z))): binary cross-entropy on probabilities (Goodfellow et al. 2014, equation 1)."""
    return F.binary_cross_entropy(real, torch.ones_like(real)) + F.binary_cross_entropy(fake, torch.zeros_like(fake))


def textbook_generator(real: Tensor, fake: Tensor) -> Tensor:
    """-log D(G(z)): the non-saturating generator loss (Goodfellow et al. 2014, section 3). Real scores are not used."""
    return F.binary_cross_entropy(fake, torch.ones_like(fake))


def relativistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """softplus(D(G(z)) - D(x)) on logits of paired rows (Jolicoeur-Martineau 2018; Huang et al. 2024, "R3GAN")."""
    return F.softplus(fake - real).mean()


def relativistic_generator(real: Tensor, fake: Tensor) -> Tensor:
    """softplus(D(x) - D(G(z))): the same game with the roles exchanged."""
    return F.softplus(real - fake).mean()


def gradient_penalty(rows: Tensor, scores: Tensor) -> Tensor:
    """E |grad_x D(x)|^2 / 2, the zero-centred penalty R1 on real rows and R2 on generated ones (Mescheder et al. 2018).

    Args:
        rows: what the discriminator saw, (rows, length), requiring gradients.
        scores: what it said of them, (rows,).
    """
    (gradient,) = torch.autograd.grad(scores.sum(), rows, create_graph=True)
    return gradient.square().sum(1).mean() / 2
