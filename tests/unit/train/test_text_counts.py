"""What is counted before the net of texts learns."""

import torch

from train.codec import END, PADDING
from train.text_counts import ending_tokens
from train.text_generator import TokenGenerator


def test_tokens_that_mostly_stand_last_end_a_row() -> None:
    rows = torch.tensor([[3, 4, 5, 1], [5, 3, 4, 1], [3, 6, 1, 0], [4, 9, 1, 0]] * 5 + [[3, 7, 1, 0]])
    assert ending_tokens(rows, 8).nonzero().squeeze(1).tolist() == [END]  # 4: a third, 5: half the time; 6, 7: too rare
    assert ending_tokens(rows.repeat(2, 1), 8).nonzero().squeeze(1).tolist() == [END, 6]


def test_ngrams_leave_the_end_to_the_net(generator: TokenGenerator) -> None:
    ngrams = generator.model.ngrams
    assert ngrams is not None
    ending = torch.tensor([END, 7, 8, 9])
    assert generator.model.ending.nonzero().squeeze(1).tolist() == ending.tolist()
    assert not torch.isin(ngrams.grams[:, 2], ending).any()
    assert torch.isin(ngrams.grams[:, 1], ending).any()
    assert (ngrams.grams[:, 2] == PADDING).any()
