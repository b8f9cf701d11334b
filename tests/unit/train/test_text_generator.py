"""The text generator: draws, and the choice among candidates by the scorer."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from tests.grammar import LENGTH, VOCABULARY, grammar, random_scorer
from train.codec import END, PADDING, UNKNOWN
from train.generator import LabelledRows, draw_noise, generate
from train.text_baseline import fit_rnn
from train.text_counts import new_generator
from train.text_draws import draw
from train.text_generator import TokenGenerator


def test_rows_do_not_depend_on_their_batch(generator: TokenGenerator) -> None:
    noise = draw_noise(generator, 40, seed=3)
    whole = generate(generator, noise)
    assert torch.equal(whole, torch.cat([generate(generator, part) for part in noise.split(7)]))
    assert torch.equal(whole[:10], generate(generator, draw_noise(generator, 10, seed=3)))
    assert len(whole.unique(dim=0)) > 1


def test_what_is_drawn_is_a_row(generator: TokenGenerator) -> None:
    rows = generate(generator, draw_noise(generator, 300, seed=1))
    assert rows.shape == (300, LENGTH)
    assert not (rows == UNKNOWN).any()
    assert (rows < VOCABULARY).all()
    after_end = (rows == END).long().cumsum(1) - (rows == END).long() > 0
    assert ((rows == PADDING) == after_end).all()


SCORES = torch.linspace(-1, 1, VOCABULARY, dtype=torch.float64)


class Starts(torch.nn.Module):
    """Scores a row by its first token."""

    def forward(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        return SCORES[codes[:, 0]]


def test_resampling_follows_the_density_ratio(generator: TokenGenerator) -> None:
    generator.scorer = Starts()  # type: ignore[assignment]
    single, many = generator.with_options(candidates=1), generator.with_options(candidates=64)
    plain = generate(single, draw_noise(single, 6000, seed=1))[:, 0].bincount(minlength=VOCABULARY)
    chosen = generate(many, draw_noise(many, 3000, seed=2))[:, 0].bincount(minlength=VOCABULARY)
    wanted = plain * SCORES.exp()
    assert (chosen / chosen.sum() - wanted / wanted.sum()).abs().max() < 0.04
    assert (plain / plain.sum() - wanted / wanted.sum()).abs().max() > 0.06


def test_close_calls_between_candidates_are_decided_in_double_precision(generator: TokenGenerator) -> None:
    torch.manual_seed(0)
    generator.scorer = random_scorer().double()
    codes = draw(generator, 3 * 50, seed=1).codes.view(50, 3, LENGTH)
    edges = generator.scorer(codes.flatten(0, 1)).view(50, 3).softmax(1).cumsum(1)[:, :2]
    for edge in edges.T:
        for nudge in (-1e-9, 1e-9):
            chosen = generator._choose(codes, None, edge + nudge)
            assert torch.equal(chosen, ((edge + nudge)[:, None] >= edges).sum(1))


def test_threads_may_share_a_generator(generator: TokenGenerator) -> None:
    """As the requests that a worker answers and its watch do."""
    generator.scorer = random_scorer().double()
    noise = draw_noise(generator, 200, seed=1)
    alone = generate(generator, noise)
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda _: generate(generator, noise), range(32)))
    assert all(torch.equal(each, alone) for each in together)
    assert {weight.dtype for weight in generator.parameters()} == {torch.float64}


def test_settings_do_not_change_the_original(generator: TokenGenerator) -> None:
    other = generator.with_options(candidates=5, temperature=0.5)
    assert (other.candidates, other.noise_size, other.temperature) == (5, 3 * 5 * LENGTH + 2, 0.5)
    assert (generator.candidates, generator.noise_size, generator.temperature) == (3, 3 * 3 * LENGTH + 2, 1.0)
    assert next(other.parameters()) is next(generator.parameters())


def test_config_and_weights_bring_it_back(generator: TokenGenerator) -> None:
    arguments = {name: value for name, value in generator.config().items() if name != "name"}
    again = TokenGenerator(**arguments).double().eval()
    again.load_state_dict(generator.state_dict())
    noise = draw_noise(generator, 20, seed=5)
    assert torch.equal(generate(generator, noise), generate(again, noise))


def test_classes_are_drawn_as_often_as_the_rows_have_them() -> None:
    rows, labels = grammar(120), torch.tensor([0] * 90 + [1] * 30)
    made = new_generator(
        rows, vocabulary=VOCABULARY, head=VOCABULARY, embedding=8, hidden=16, labels=labels, classes=2, candidates=4
    )
    assert made.shares.tolist() == pytest.approx([0.75, 0.25])
    told = LabelledRows(codes=rows, labels=labels)
    rnn = fit_rnn(told, told, vocabulary=VOCABULARY, classes=2, seconds=0, seed=1, embedding=8, hidden=16)
    assert rnn.shares.tolist() == pytest.approx([0.75, 0.25])
