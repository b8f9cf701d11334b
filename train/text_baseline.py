"""The baseline for texts: a recurrent net fitted by maximum likelihood, with dropout, at its best validation epoch."""

import torch

from train.text_generator import TokenGenerator
from train.text_warmup import Rows, TextWarmStart


def fit_rnn(
    train: Rows,
    validation: Rows,
    *,
    vocabulary: int,
    classes: int = 0,
    seconds: float,
    seed: int,
    embedding: int = 128,
    hidden: int = 256,
) -> TokenGenerator:
    """A GRU over the whole vocabulary, without n-grams and without a discriminator.

    Args:
        vocabulary: how many tokens there are.
        classes: how many classes the rows belong to.
        seconds: how long it may learn: as long as the GAN did.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = TokenGenerator(
            train.codes.shape[1], vocabulary, vocabulary, embedding, hidden, labels=classes, candidates=1
        )
        if train.labels is not None:
            generator.shares.copy_(train.labels.bincount(minlength=classes) / len(train.labels))
        TextWarmStart(generator, train, validation, seed=seed).run(seconds, lambda: False)
    return generator
