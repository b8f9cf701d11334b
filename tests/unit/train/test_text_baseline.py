"""What texts are compared with: a recurrent net, and trigrams."""

import pytest
import torch

from tests.grammar import LENGTH, VOCABULARY, grammar
from train.codec import END, PADDING, UNKNOWN
from train.generator import LabelledRows, draw_noise, generate
from train.ngram import fit_ngrams
from train.text_baseline import draw_trigrams, fit_rnn


def test_the_baseline_is_a_net_alone() -> None:
    rows = grammar(200)
    before = torch.get_rng_state()
    train, validation = (LabelledRows(codes=each) for each in (rows, rows[:40]))
    made = fit_rnn(train, validation, vocabulary=VOCABULARY, seconds=2, seed=1, embedding=8, hidden=16)
    assert torch.equal(before, torch.get_rng_state())
    assert made.model.ngrams is None
    assert made.candidates == 1
    drawn = generate(made, draw_noise(made, 50, seed=1))
    assert not (drawn == UNKNOWN).any()


@pytest.mark.usefixtures("_gpu")
def test_the_baseline_learns_on_a_gpu() -> None:
    rows = grammar(60)
    train, validation = (LabelledRows(codes=each, labels=each[:, 0] - 3) for each in (rows, rows[:20]))
    sizes = {"vocabulary": VOCABULARY, "classes": 3, "embedding": 8, "hidden": 16}
    made = fit_rnn(train, validation, **sizes, seconds=0.3, seed=1, device="cuda")
    assert all(weight.is_cuda for weight in made.parameters())
    assert generate(made, draw_noise(made, 50, seed=1)).device.type == "cpu"


def test_trigrams_by_themselves_follow_the_counts() -> None:
    rows = grammar(300)
    drawn = draw_trigrams(fit_ngrams(rows, VOCABULARY), 2000, LENGTH, seed=1)
    assert not (drawn == UNKNOWN).any()
    after_end = (drawn == END).long().cumsum(1) - (drawn == END).long() > 0
    assert ((drawn == PADDING) == after_end).all()
    starts = [(each[:, 0].bincount(minlength=VOCABULARY) / len(each))[3:6] for each in (drawn, rows)]
    torch.testing.assert_close(*starts, rtol=0, atol=0.05)
    assert torch.equal(drawn, draw_trigrams(fit_ngrams(rows, VOCABULARY), 2000, LENGTH, seed=1))
