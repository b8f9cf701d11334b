"""Draws of the text generator: by the language model alone, and how often each would be chosen."""

import pytest
import torch

from train import cpus, text_draws, text_generator
from train.codec import END, UNKNOWN
from train.generator import LabelledRows, draw_noise, generate, sample_labelled
from train.text_counts import new_generator
from train.text_generator import TokenGenerator

ROWS = torch.tensor([[3, 6, 7, 1, 0, 0], [4, 6, 6, 8, 1, 0], [5, 6, 6, 6, 9, 1]]).repeat(40, 1)


@pytest.fixture
def generator() -> TokenGenerator:
    torch.manual_seed(0)
    other = torch.where(ROWS == 6, 2 + torch.randint(4, 9, ROWS.shape), ROWS)
    return new_generator(other, vocabulary=12, head=12, embedding=8, hidden=16, candidates=8)


def test_a_draw_has_the_chance_that_it_has_among_its_rivals() -> None:
    torch.manual_seed(0)
    made = new_generator(ROWS, vocabulary=12, head=12, embedding=8, hidden=16, candidates=5)
    torch.nn.init.normal_(made.scorer.output.weight)
    draws = text_draws.draw(made, 5, seed=1)
    with torch.no_grad():
        expected = 5 * made.scorer(draws.codes).double().softmax(0)
    found = text_draws.chances(made, draws, seed=2)
    assert found is not None
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    assert text_draws.chances(made.with_options(candidates=1), draws, seed=2) is None


def test_draws_are_the_same_in_threads(generator: TokenGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_generator, "ROWS_PER_PASS", 16)
    monkeypatch.setattr(cpus, "usable", lambda: 3)
    one_by_one, in_threads = (text_draws.draw(generator, 200, seed=1, each=each) for each in (map, cpus.in_threads))
    assert torch.equal(one_by_one.codes, in_threads.codes)
    kept = sample_labelled(generator, 30, seed=1, each=cpus.in_threads).codes  # two rows of eight candidates a pass
    assert torch.equal(kept, sample_labelled(generator, 30, seed=1).codes)


def test_draws_compete_within_their_class() -> None:
    torch.manual_seed(0)
    labels = (ROWS[:, 0] != 3).long()
    made = new_generator(ROWS, vocabulary=12, head=12, embedding=8, hidden=16, labels=labels, classes=2, candidates=3)
    torch.nn.init.normal_(made.scorer.weights)
    draws = LabelledRows(codes=ROWS[:6].long(), labels=torch.tensor([0, 1, 0, 1, 1, 0]))
    found = text_draws.chances(made, draws, seed=2)
    assert found is not None
    for label in (0, 1):
        its = draws.labels == label
        scores = made.scorer(draws.codes[its], torch.full((3,), label)).detach().double()
        torch.testing.assert_close(found[its], 3 * scores.softmax(0), rtol=1e-6, atol=0)


def test_words_that_cannot_be_drawn_are_filled_in(generator: TokenGenerator) -> None:
    unknown = torch.zeros_like(ROWS, dtype=torch.bool)
    unknown[::3, 1] = True  # in every third row
    rows = LabelledRows(codes=ROWS.masked_fill(unknown, UNKNOWN))
    found = text_draws.filled(generator, rows, unknown, seed=1).codes
    assert torch.equal(found, text_draws.filled(generator, rows, unknown, seed=1).codes)
    assert not (found == UNKNOWN).any()
    assert torch.equal(found[:, 0], ROWS[:, 0])
    untouched = ~unknown.any(1)
    assert torch.equal(found[untouched], ROWS[untouched])
    ended = (found == END).cumsum(1) - (found == END).long() > 0
    assert (found[ended] == 0).all()
    assert len(found[::3, 1].unique()) > 1, "drawn, not always the same word"
    nothing = torch.zeros_like(unknown)
    assert torch.equal(text_draws.filled(generator, LabelledRows(codes=ROWS), nothing, seed=1).codes, ROWS)


def test_draws_are_those_of_the_language_model_alone(generator: TokenGenerator) -> None:
    alone = generator.with_options(candidates=1)
    torch.nn.init.normal_(generator.scorer.weights)
    drawn = text_draws.draw(generator, 50, seed=3)
    assert torch.equal(drawn.codes, generate(alone, draw_noise(alone, 50, seed=3)).long())
