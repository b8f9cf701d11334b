"""What is counted before the net of texts learns: n-grams, and which tokens end a text; a new generator has these."""

import torch
import torch.nn.functional as F
from torch import Tensor

from train.codec import END, PADDING, UNKNOWN
from train.ngram import NgramModel, fit_ngrams
from train.text_generator import TokenGenerator

NGRAM_ROWS = 20_000  # at most this many rows are counted, because the table ships with the generator
ENDING_COUNT = 10  # occurrences that a token needs to count as one that ends rows


def new_generator(
    codes: Tensor,
    *,
    vocabulary: int,
    head: int,
    embedding: int = 128,
    hidden: int,
    labels: Tensor | None = None,
    classes: int = 0,
    candidates: int,
) -> TokenGenerator:
    """A generator with the n-grams of the training rows and an untrained net.

    Args:
        codes: token ids, (rows, length); the commoner a token, the lower its id.
        vocabulary: how many tokens there are.
        head: how many of them the net knows; the rest are left to the n-grams.
        labels: the rows' classes, from 0 on (rows,); None without classes.
        classes: how many there are.
    """
    ending = ending_tokens(codes, min(head, vocabulary))
    ngrams, rare = count_ngrams(codes, vocabulary, head, ending)
    grams = len(ngrams.grams), len(rare.grams)
    generator = TokenGenerator(codes.shape[1], vocabulary, head, embedding, hidden, classes, *grams, candidates)
    for ours, counted in ((generator.model.ngrams, ngrams), (generator.model.rare, rare)):
        if ours is not None:
            ours.load_state_dict(counted.state_dict())
    generator.model.ending.copy_(ending)
    if labels is not None:
        generator.shares.copy_(labels.bincount(minlength=classes) / len(labels))
    return generator


def count_ngrams(codes: Tensor, vocabulary: int, head: int, ending: Tensor) -> tuple[NgramModel, NgramModel]:
    """The n-grams of token ids, (rows, length): those that predict common tokens, and those that predict rare ones.

    Args:
        ending: whether a common token is left to the net, (head,).
    """
    counted = codes[:NGRAM_ROWS]
    return fit_ngrams(counted, vocabulary, head, deferred=ending), fit_ngrams(counted, vocabulary, head, rare=True)


def ending_tokens(codes: Tensor, head: int) -> Tensor:
    """Whether a token ends a row, bool (head,): END, and tokens that END follows more often than not.

    Args:
        codes: token ids, (rows, length).
    """
    codes = codes.long()
    last = F.pad(codes[:, 1:], (0, 1)) == END
    found, ended = (each.bincount(minlength=head)[:head] for each in (codes.flatten(), codes[last]))
    ending = (found >= ENDING_COUNT) & (2 * ended > found)
    ending[[PADDING, END, UNKNOWN]] = torch.tensor([False, True, False])
    return ending
