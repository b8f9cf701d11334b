"""Rows of a toy grammar of token ids; warm starts on them, and a discriminator of them."""

from typing import Any

import torch
from torch import Tensor

from train.codec import END
from train.generator import LabelledRows
from train.scorer import Scorer
from train.text_counts import new_generator
from train.text_warmup import TextWarmStart

VOCABULARY, LENGTH = 12, 6


def grammar(rows: int, seed: int = 0) -> Tensor:
    """Rows of a toy grammar: 3, 4 or 5 comes first and determines the number of 6s and the last token before END."""
    kinds = torch.randint(3, (rows,), generator=torch.Generator().manual_seed(seed))
    patterns = torch.tensor([[3, 6, 7, 1, 0, 0], [4, 6, 6, 8, 1, 0], [5, 6, 6, 6, 9, 1]])
    return patterns[kinds]


def pointed(rows: Tensor) -> Tensor:
    """The rows with a full stop, 10, before END, as in texts, so that no other token ends a row."""
    longer = torch.nn.functional.pad(rows, (0, 1))
    point, end = (longer == END).nonzero(as_tuple=True)
    longer[point, end], longer[point, end + 1] = 10, END
    return longer


def warm_start(
    rows: Tensor | None = None, labels: Tensor | None = None, head: int = VOCABULARY, device: str = "cpu"
) -> TextWarmStart:
    torch.manual_seed(0)
    rows = grammar(120) if rows is None else rows
    classes = 0 if labels is None else 3
    generator = new_generator(
        rows, vocabulary=VOCABULARY, head=head, embedding=8, hidden=16, labels=labels, classes=classes, candidates=1
    )
    learned = LabelledRows(codes=rows, labels=labels)
    return TextWarmStart(generator, learned, learned.take(torch.arange(30)), device=device)


def after(steps: int) -> Any:
    left = iter(range(steps - 1))
    return lambda: next(left, None) is None


def random_scorer(classes: int = 0) -> Scorer:
    scorer = Scorer(VOCABULARY, classes)
    for parameter in scorer.parameters():
        torch.nn.init.normal_(parameter)
    return scorer.eval()
