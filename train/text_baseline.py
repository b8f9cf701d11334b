"""The baselines for texts: trigrams alone, and a recurrent net trained by maximum likelihood with early stopping."""

import torch
from torch import Tensor

from train.codec import END, PADDING
from train.generator import LabelledRows
from train.ngram import NgramModel
from train.text_generator import TokenGenerator
from train.text_warmup import TextWarmStart


def fit_rnn(
    train: LabelledRows,
    validation: LabelledRows,
    *,
    vocabulary: int,
    classes: int = 0,
    seconds: float,
    seed: int,
    embedding: int = 128,
    hidden: int = 256,
    device: str = "cpu",
) -> TokenGenerator:
    """A GRU over the whole vocabulary, without n-grams and without a discriminator.

    Args:
        train, validation: token ids, with their classes if they have any.
        vocabulary: how many tokens there are.
        classes: how many classes the rows belong to.
        seconds: how long it may learn: as long as the GAN did.
        device: where it learns, and stays.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = TokenGenerator(
            train.codes.shape[1], vocabulary, vocabulary, embedding, hidden, labels=classes, candidates=1
        )
        if train.labels is not None:
            generator.shares.copy_(train.labels.bincount(minlength=classes) / len(train.labels))
        TextWarmStart(generator, train, validation, rounds=0, seed=seed, device=device).run(seconds, lambda: False)
    return generator


def draw_trigrams(ngrams: NgramModel, n: int, length: int, seed: int) -> Tensor:
    """Texts drawn from the trigram counts alone: token ids, int32 (n, length)."""
    uniform = torch.rand(n, length, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    rows = torch.full((n, length), PADDING, dtype=torch.int32)
    before = token = torch.full((n,), END)
    going = torch.ones(n, dtype=torch.bool)
    for t in range(length):
        before, token = token, ngrams.draw(before, token, uniform[:, t])
        rows[going, t] = token[going].int()
        going = going & (token != END)
    return rows
