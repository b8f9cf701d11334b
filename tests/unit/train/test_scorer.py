"""The discriminator of texts."""

import pytest
import torch

from tests.grammar import VOCABULARY, grammar, random_scorer
from train.codec import END, PADDING, UNKNOWN
from train.scorer import SCORED_ROWS, Scorer, scores_of


def test_the_scorer_does_not_tell_rare_tokens_apart() -> None:
    torch.manual_seed(0)
    scorer = Scorer(8).eval()
    torch.nn.init.normal_(scorer.output.weight)
    scores = scorer(torch.tensor([[3, 8, 4, 1], [3, 11, 4, 1], [3, UNKNOWN, 4, 1], [3, 5, 4, 1]]))
    torch.testing.assert_close(scores[:3], scores[:1].expand(3))
    assert scores[3] != scores[0]


def test_the_scorer_hears_of_the_class() -> None:
    torch.manual_seed(0)
    scorer, rows = Scorer(8, classes=2).eval(), grammar(3)
    first, second = torch.zeros(3, dtype=torch.long), torch.ones(3, dtype=torch.long)
    plain = scorer(rows, first)
    assert torch.equal(plain, scorer(rows, second))  # the scorer is untrained
    torch.nn.init.normal_(scorer.weights)
    assert (scorer(rows, first) != scorer(rows, second)).all()
    torch.nn.init.zeros_(scorer.weights)
    assert scorer.label is not None
    torch.nn.init.normal_(scorer.label.weight)
    assert (scorer(rows, first) != scorer(rows, second)).all()
    before = scorer(rows, first)
    scorer.rescale(0.5)
    torch.testing.assert_close(scorer(rows, first), before / 2)


@pytest.mark.parametrize("classes", [0, 2])
def test_scores_do_not_depend_on_the_padding(classes: int) -> None:
    torch.manual_seed(0)
    rows, scorer = 2 * SCORED_ROWS + 3, random_scorer(classes)
    codes, lengths = torch.randint(3, VOCABULARY, (rows, 20)), torch.randint(1, 21, (rows, 1))
    codes = codes.masked_fill(torch.arange(20) >= lengths, PADDING)
    labels = torch.randint(2, (rows,)) if classes else None
    torch.testing.assert_close(scores_of(scorer, codes, labels), scorer(codes, labels))


def test_what_the_scorer_drops_and_pads_is_not_scored() -> None:
    torch.manual_seed(0)
    scorer, rows = Scorer(VOCABULARY).eval(), grammar(3)
    torch.nn.init.normal_(scorer.weights)
    nothing = scorer(rows, kept=torch.zeros(3, scorer.features))
    torch.testing.assert_close(nothing, scorer._linear(rows) + scorer.output.bias)
    torch.testing.assert_close(scorer._linear(torch.nn.functional.pad(rows, (0, 9))), scorer._linear(rows))


def test_the_scorer_sees_the_order_of_tokens_without_its_net() -> None:
    torch.manual_seed(0)
    scorer = Scorer(12).eval()
    torch.nn.init.zeros_(scorer.output.weight)
    torch.nn.init.normal_(scorer.weights)
    one, other, longer = scorer(torch.tensor([[3, 4, 5, END, PADDING], [3, 5, 4, END, PADDING], [3, 4, 5, END, 0]]))
    assert one != other
    assert one == longer
