"""The language model: what it draws, at any temperature."""

import math

import pytest
import torch

from tests.grammar import LENGTH, VOCABULARY, after, warm_start
from train import text_warmup
from train.codec import END, PADDING, UNKNOWN
from train.generator import LabelledRows, draw_noise, generate
from train.language_model import Context, pick
from train.ngram import fit_ngrams
from train.text_counts import new_generator
from train.text_draws import draw
from train.text_generator import TokenGenerator
from train.text_warmup import Rows, draw_dropped


def test_unknown_and_padding_are_never_drawn_by_the_net() -> None:
    torch.manual_seed(0)
    generator = TokenGenerator(LENGTH, VOCABULARY, VOCABULARY, 8, 16, candidates=1).eval()
    with torch.no_grad():
        generator.model.bias[[PADDING, UNKNOWN]] = 50.0
    rows = generate(generator, draw_noise(generator, 200, seed=1))
    assert not (rows == UNKNOWN).any()
    assert (rows[:, 0] != PADDING).all()


def test_pick_follows_the_probabilities() -> None:
    logits = torch.randn(1, 150, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    uniform = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    found = pick(logits.expand(20_000, -1), uniform).bincount(minlength=150) / 20_000
    assert (found - logits[0].softmax(0)).abs().max() < 1e-4


@pytest.mark.parametrize("before", [END, 3, 6, 11])
def test_draws_follow_the_likelihood(generator: TokenGenerator, before: int) -> None:
    model, tokens = generator.model, torch.tensor([END, *range(3, VOCABULARY)])
    model.ending_shift[1] = 1.5
    rows = Rows.of(LabelledRows(codes=torch.stack([torch.full_like(tokens, before), tokens], 1)), model)
    both, _ = model(rows.codes, rows.known.double(), rows.masses.double(), rows.backoff.double())
    expected = both[:, 1].exp()
    assert expected.sum().item() == pytest.approx(1, abs=1e-6)
    n = 20_000
    steps = torch.tensor([1 / n, math.sqrt(2), math.sqrt(3)], dtype=torch.float64)
    uniform = (torch.arange(n, dtype=torch.float64)[:, None] + 0.5) * steps % 1
    context = model.start(n, None)
    for token in (END, before):
        context = model.step(context, torch.full((n,), token))
    drawn = model.draw(context, uniform, 1.0, 1)
    assert (drawn.bincount(minlength=VOCABULARY)[tokens] / n - expected).abs().max() < 1e-3


def test_after_what_the_ngrams_never_saw_the_net_speaks_alone(generator: TokenGenerator) -> None:
    rows = Rows.of(LabelledRows(codes=torch.tensor([[11, 6], [3, 6]])), generator.model)
    both, net = generator.model(rows.codes, rows.known.double(), rows.masses.double(), rows.backoff.double())
    torch.testing.assert_close(both[0, 1], net[0, 1])
    assert both[1, 1] > net[1, 1] + 1


def test_words_that_are_dropped_are_not_read(generator: TokenGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_warmup, "DROPOUT", 0.0)
    rows = Rows.of(LabelledRows(codes=torch.tensor([[3, 6], [4, 6]])), generator.model)
    found = rows.codes, rows.known.double(), rows.masses.double(), rows.backoff.double()
    for share, alike in ((0, False), (1, True)):
        monkeypatch.setattr(text_warmup, "WORD_DROPOUT", share)
        _, net = generator.model(*found, dropped=draw_dropped(generator.model, 2, 2))
        assert torch.allclose(net[0, 1], net[1, 1]) == alike


def test_low_temperature_draws_the_commonest() -> None:
    codes = torch.tensor([[3, 1, 0, 0, 0, 0]] * 30 + [[4, 1, 0, 0, 0, 0]] * 10)
    model = fit_ngrams(codes, VOCABULARY)
    start = torch.full((1000,), END)
    uniform = torch.rand(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    usual, cold = (model.draw(start, start, uniform, temperature) for temperature in (1.0, 0.1))
    assert 0.6 < (usual == 3).double().mean() < 0.85
    assert (cold == 3).double().mean() > 0.9


def test_low_temperature_draws_the_commonest_after_seldom_tokens_as_well() -> None:
    rows = [[3, 1, 0, 0, 0, 0]] * 3000 + [[4, 5, 1, 0, 0, 0]] * 20 + [[4, 9, 1, 0, 0, 0]]
    model = fit_ngrams(torch.tensor(rows), VOCABULARY)
    uniform = torch.rand(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = model.draw(torch.full((1000,), END), torch.full((1000,), 4), uniform, temperature=0.1)
    assert (drawn == 5).double().mean() > 0.9


def test_low_temperature_seldom_draws_tokens_that_are_likely_only_together() -> None:
    torch.manual_seed(0)
    rows = torch.tensor([[8 + i % 4, 1, 0, 0, 0, 0] for i in range(600)] + [[4, 1, 0, 0, 0, 0]] * 300)
    generator = new_generator(rows, vocabulary=VOCABULARY, head=8, embedding=8, hidden=16, candidates=1)
    usual, cool, cold = (draw(generator.with_options(temperature=each), 2000, 1).codes[:, 0] for each in (1, 0.7, 0.1))
    shares = [(each >= 8).double().mean() for each in (usual, cool, cold)]
    assert shares[0] > 0.35  # of 2/3 in the rows: the untrained net draws other tokens, too
    assert 0.05 < shares[1] < shares[0] - 0.1
    assert shares[2] == 0


@pytest.mark.usefixtures("_eager")
def test_rare_tokens_come_where_the_net_says_and_as_often() -> None:
    rows = torch.tensor([[3, 8 + i % 4, 1, 0, 0, 0] for i in range(200)] + [[4, 5, 1, 0, 0, 0]] * 200)
    fit = warm_start(rows, head=8)
    fit.run(600, after(300))
    fit.model.load_state_dict(fit.best_weights)
    drawn = generate(fit.generator, draw_noise(fit.generator, 1000, seed=1))
    assert not (drawn == UNKNOWN).any()
    assert (drawn[drawn[:, 0] == 3, 1] >= 8).double().mean() > 0.9
    assert (drawn[drawn[:, 0] == 4, 1] == 5).double().mean() > 0.9
    shares = drawn[:, 1].bincount(minlength=VOCABULARY)[8:] / len(drawn)
    torch.testing.assert_close(shares, torch.full((4,), 0.125), rtol=0, atol=0.06)


def drawn_after(generator: TokenGenerator, first: int, second: int, temperature: float) -> torch.Tensor:
    """How often each token comes after two others, over evenly spread uniform numbers."""
    n, model = 20_000, generator.model
    steps = torch.tensor([1 / n, math.sqrt(2), math.sqrt(3)], dtype=torch.float64)
    uniform = (torch.arange(n, dtype=torch.float64)[:, None] + 0.5) * steps % 1
    hidden = torch.zeros(n, generator.hidden, dtype=torch.float64)
    context = Context(torch.full((n,), first), torch.full((n,), second), None, hidden)
    drawn = model.draw(context, uniform, temperature, 1)
    return drawn.bincount(minlength=generator.vocabulary) / n


def test_a_temperature_holds_for_the_net_and_for_the_ngrams_beside_it() -> None:
    torch.manual_seed(0)
    rows = torch.tensor([[3, 6, 4, 1, 0, 0]] * 90 + [[3, 7, 4, 1, 0, 0]] * 30)
    generator = new_generator(rows, vocabulary=VOCABULARY, head=VOCABULARY, embedding=8, hidden=16, candidates=1)
    generator = generator.double().eval()
    with torch.no_grad():
        generator.model.embedding.weight.mul_(10)  # so that the net has preferences
        alone = generator.model._logits(generator.model.project.bias[None], None, torch.zeros(1).double())[0]
        found = drawn_after(generator, 11, 11, 0.5)  # a context that the n-grams never saw
        torch.testing.assert_close(found, (alone / 0.5).softmax(0).float(), rtol=0, atol=1e-3)
        generator.model.gate.bias.fill_(-50.0)  # the n-grams get all the weight that they can
        usual, cold = (drawn_after(generator, END, 3, each) for each in (1.0, 0.1))
    assert 0.6 < usual[6] < 0.85
    assert cold[6] > 0.95


def test_which_rare_token_it_is_does_not_follow_from_what_made_it_a_rare_one() -> None:
    torch.manual_seed(0)
    rows = torch.tensor([[3, 4 + i % 3 if i % 4 else 8 + i // 4 % 4, 1, 0, 0, 0] for i in range(480)])
    generator = new_generator(rows, vocabulary=VOCABULARY, head=8, embedding=8, hidden=16, candidates=1)
    with torch.no_grad():
        found = drawn_after(generator.double().eval(), END, 3, 1.0)
    assert 0.2 < found[8:].sum() < 0.5
    torch.testing.assert_close(found[8:] / found[8:].sum(), torch.full((4,), 0.25), rtol=0, atol=0.02)
