"""Sharpened and calibrated generators of texts."""

import pytest
import torch
from torch import Tensor

from tests.grammar import LENGTH, VOCABULARY, grammar
from train import catalogue, text_calibration
from train.codec import END, PADDING, UNKNOWN
from train.generator import draw_noise, generate
from train.text_calibration import calibrate, recount, sharpen
from train.text_counts import count_ngrams, new_generator
from train.text_draws import draw
from train.text_generator import TokenGenerator


def test_a_sharpened_net_draws_as_at_a_lower_temperature() -> None:
    torch.manual_seed(0)
    generator = TokenGenerator(LENGTH, VOCABULARY, VOCABULARY, 8, 16, labels=2, candidates=1).double().eval()
    for parameter in generator.model.parameters():
        torch.nn.init.normal_(parameter)
    noise = draw_noise(generator, 400, seed=1)
    plain = generate(generator, noise)
    colder = generate(generator.with_options(temperature=text_calibration.TEMPERATURE), noise)
    sharpen(generator.model)
    assert torch.equal(generate(generator, noise), colder)
    assert not torch.equal(colder, plain)


def test_texts_of_which_every_token_ends_one_can_be_calibrated() -> None:
    torch.manual_seed(0)
    rows = torch.tensor([[3 + i % 3, END, PADDING] for i in range(90)])
    generator = new_generator(rows, vocabulary=6, head=6, embedding=8, hidden=16, candidates=4)
    assert generator.model.ending[3:].all()
    for seed in range(2):
        calibrate(generator, rows, seed)
    assert generator.model.bias.isfinite().all()
    assert (draw(generator, 100, 1).codes[:, 0] != PADDING).all()


def test_calibrated_draws_have_each_token_as_often_as_the_rows() -> None:
    torch.manual_seed(0)
    generator = TokenGenerator(LENGTH, VOCABULARY, VOCABULARY, 8, 16, candidates=1).eval()
    rows = grammar(300)
    for seed in range(4):
        calibrate(generator, rows, seed)
    torch.testing.assert_close(shares(draw(generator, 4000, 9).codes), shares(rows), rtol=0, atol=0.01)


def test_calibrated_a_generator_has_each_token_as_often_as_the_rows_after_its_choice() -> None:
    torch.manual_seed(0)
    generator = TokenGenerator(LENGTH, VOCABULARY, VOCABULARY, 8, 16, candidates=4).eval()
    torch.nn.init.normal_(generator.scorer.weights)  # so that it prefers some tokens
    rows = grammar(300)
    wanted = shares(rows)
    for seed in range(4):
        calibrate(generator.with_options(candidates=1), rows, seed)
    before = (shares(chosen(generator)) - wanted).abs().max()
    for seed in range(4, 10):
        calibrate(generator, rows, seed, rate=0.7)
    assert before > 0.04
    torch.testing.assert_close(shares(chosen(generator)), wanted, rtol=0, atol=0.01)


def chosen(generator: TokenGenerator) -> torch.Tensor:
    return generate(generator, draw_noise(generator, 4000, seed=99))


def shares(rows: torch.Tensor) -> torch.Tensor:
    """The share of each token among all but PADDING."""
    found = rows[rows != PADDING].bincount(minlength=VOCABULARY)
    return found / found.sum()


def test_calibrated_draws_end_where_the_rows_do() -> None:
    rng = torch.Generator().manual_seed(0)
    rows = torch.randint(3, VOCABULARY, (600, LENGTH), generator=rng)
    lengths = torch.where(torch.rand(600, generator=rng) < 0.5, 2, LENGTH - 1)
    rows[torch.arange(LENGTH) == lengths[:, None]] = END
    rows[torch.arange(LENGTH) > lengths[:, None]] = PADDING
    torch.manual_seed(0)
    generator = new_generator(rows, vocabulary=VOCABULARY, head=VOCABULARY, embedding=8, hidden=16, candidates=1)
    for seed in range(8):
        calibrate(generator, rows, seed)
    found, wanted = ((each != PADDING).sum(1).bincount() / len(each) for each in (draw(generator, 4000, 9).codes, rows))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.05)


def test_recounted_a_generator_gives_what_only_the_new_rows_have() -> None:
    torch.manual_seed(0)
    rows = grammar(300)
    known = rows[rows[:, 0] != 5]  # so no token 9
    generator = new_generator(known, vocabulary=VOCABULARY, head=8, embedding=8, hidden=16, candidates=1)
    assert not (draw(generator, 500, 1).codes == 9).any()
    recount(generator, rows)
    counted = count_ngrams(rows, VOCABULARY, 8, generator.model.ending)[0]
    assert generator.model.ngrams is not None
    assert torch.equal(generator.model.ngrams.grams, counted.grams)
    found = draw(generator, 500, 1).codes
    assert (found == 9).any()
    assert not (found == UNKNOWN).any()
    again = catalogue.build(generator.config())
    again.load_state_dict(generator.state_dict())
    assert torch.equal(draw(again, 500, 1).codes, found)


def test_rare_tokens_that_a_generator_does_not_know_of_are_not_counted() -> None:
    known = torch.tensor([[3, 4, 1, 0, 0, 0]]).repeat(50, 1)
    generator = new_generator(known, vocabulary=VOCABULARY, head=8, embedding=8, hidden=16, candidates=1)
    assert generator.model.rare is None
    recount(generator, torch.cat([known, grammar(50)]))
    found = draw(generator, 500, 1).codes
    assert (found == 6).any()
    assert (found < 8).all()
    assert not (found == UNKNOWN).any()


@pytest.mark.parametrize(("chosen", "candidates"), [(True, 3), (False, 1)])
def test_a_recount_calibrates_as_rows_will_be_drawn_in_ever_smaller_steps(
    generator: TokenGenerator, monkeypatch: pytest.MonkeyPatch, chosen: bool, candidates: int
) -> None:
    rounds: list[tuple[int, int, float]] = []

    def note(drawing: TokenGenerator, codes: Tensor, seed: int, rate: float, each: object) -> None:
        rounds.append((drawing.candidates, seed, rate))

    monkeypatch.setattr(text_calibration, "calibrate", note)
    recount(generator, grammar(20), chosen=chosen)
    drawn, seeds, rates = zip(*rounds, strict=True)
    assert set(drawn) == {candidates}
    assert len(set(seeds)) == len(rounds)
    assert rates == pytest.approx((1, 1, 1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6))
