"""The text generator: n-grams, draws, resampling by the scorer, and fits that resume where they stopped."""

import copy
import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from train import catalogue, ngram, text_generator, text_warmup
from train.codec import END, PADDING, UNKNOWN
from train.generator import LabelledRows, draw_noise, generate
from train.ngram import fit_ngrams
from train.text_baseline import draw_trigrams, fit_rnn
from train.text_draws import draw
from train.text_generator import Context, Scorer, TokenGenerator, backoff_share, pick
from train.text_warmup import (
    Rows,
    TextWarmStart,
    calibrate,
    count_ngrams,
    draw_dropped,
    ending_tokens,
    new_generator,
    recount,
    sharpen,
)

VOCABULARY, LENGTH = 12, 6


def grammar(rows: int, seed: int = 0) -> Tensor:
    """Rows of a toy grammar: 3, 4 or 5 comes first and determines the number of 6s and the last token before END."""
    kinds = torch.randint(3, (rows,), generator=torch.Generator().manual_seed(seed))
    patterns = torch.tensor([[3, 6, 7, 1, 0, 0], [4, 6, 6, 8, 1, 0], [5, 6, 6, 6, 9, 1]])
    return patterns[kinds]


@pytest.fixture
def generator() -> TokenGenerator:
    torch.manual_seed(0)
    rows = grammar(50)
    made = new_generator(rows, vocabulary=VOCABULARY, head=VOCABULARY, embedding=8, hidden=16, candidates=3)
    return made.double().eval()


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


def test_ngrams_are_probabilities_and_draws_follow_them() -> None:
    codes = torch.randint(3, VOCABULARY, (60, LENGTH), generator=torch.Generator().manual_seed(0))
    model = fit_ngrams(codes, VOCABULARY)
    tokens = torch.arange(VOCABULARY)
    for first, second in ((3, 4), (END, END), (11, 11)):
        before = torch.full_like(tokens, first), torch.full_like(tokens, second)
        expected = model.probability(*before, tokens)
        assert expected.sum().item() == pytest.approx(1)
        uniform = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
        drawn = model.draw(*(each[0].repeat(20_000) for each in before), uniform)
        assert (drawn.bincount(minlength=VOCABULARY) / 20_000 - expected).abs().max() < 2e-3


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


def plain_kneser_ney(counts: Counter[tuple[int, ...]], context: tuple[int, ...], token: int) -> float:
    """Modified Kneser-Ney smoothing, straight from Chen and Goodman (1999), but unigrams are not discounted."""
    shorter: Counter[tuple[int, ...]] = Counter(gram[1:] for gram in counts)  # each distinct continuation once
    n, taken = Counter(counts.values()), [0.0] * 4
    if context:
        share = n[1] / (n[1] + 2 * n[2])
        taken[1:] = [c - (c + 1) * share * n[c + 1] / n[c] for c in (1, 2, 3)]
    own = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == context}
    total, freed = sum(own.values()), sum(taken[min(count, 3)] for count in own.values())
    kept = own[token] - taken[min(own[token], 3)] if token in own else 0.0
    rest = plain_kneser_ney(shorter, context[1:], token) if context else 0.0
    return kept / total + freed / total * rest if own else rest


def test_ngrams_equal_their_definition() -> None:
    shares = 1 / torch.arange(1, VOCABULARY - 2).double()
    codes = 3 + shares.multinomial(80 * LENGTH, True, generator=torch.Generator().manual_seed(0)).view(80, LENGTH)
    rows = [[END, END, *row] for row in codes.tolist()]
    counts = Counter(tuple(row[at : at + 3]) for row in rows for at in range(LENGTH))
    model, tokens = fit_ngrams(codes, VOCABULARY), torch.arange(3, VOCABULARY)
    for first, second in ((END, END), (END, 3), (3, 3), (3, 4), (11, 11), (11, 6)):
        before = torch.full_like(tokens, first), torch.full_like(tokens, second)
        expected = [plain_kneser_ney(counts, (first, second), token) for token in tokens.tolist()]
        assert model.probability(*before, tokens).tolist() == pytest.approx(expected, abs=1e-12)


@given(rows=st.lists(st.tuples(*[st.integers(0, 40)] * 3), min_size=1, max_size=50))
def test_distinct_grams_are_those_that_torch_finds(rows: list[tuple[int, ...]]) -> None:
    grams = torch.tensor(rows)
    for columns in (3, 2, 1):
        found = ngram._distinct(grams[:, :columns], 41)
        expected = torch.unique(grams[:, :columns], dim=0, return_counts=True)
        assert all(map(torch.equal, found, expected))


def test_ngrams_own_share_is_what_single_tokens_leave() -> None:
    codes = torch.randint(3, VOCABULARY, (60, LENGTH), generator=torch.Generator().manual_seed(0))
    model, tokens = fit_ngrams(codes, VOCABULARY), torch.arange(VOCABULARY)
    for first, second in ((3, 4), (END, END), (11, 11)):
        before = torch.full_like(tokens, first), torch.full_like(tokens, second)
        backoff = backoff_share(model.masses(*before))
        torch.testing.assert_close(model.probability_without_unigrams(*before, tokens).sum(), 1 - backoff[0])


def test_ngrams_count_what_was_seen() -> None:
    model = fit_ngrams(grammar(300), VOCABULARY)
    after_start = model.probability(torch.tensor([END] * 3), torch.tensor([3, 4, 5]), torch.tensor([6, 6, 6]))
    assert (after_start > 0.9).all()
    assert model.probability(torch.tensor([3]), torch.tensor([6]), torch.tensor([7])).item() > 0.9


def test_ngrams_that_have_seen_nothing_give_nothing() -> None:
    nothing = fit_ngrams(torch.full((3, 4), UNKNOWN), 9)
    token = torch.arange(3, 9)
    for found in (nothing.probability(token, token, token), nothing.probability_without_unigrams(token, token, token)):
        assert torch.equal(found, torch.zeros(6, dtype=torch.float64))
    assert torch.equal(nothing.masses(token, token), torch.zeros(6, 2, dtype=torch.float64))


@pytest.mark.usefixtures("_gpu")
def test_ngrams_can_be_moved_when_they_have_been_used() -> None:
    model = fit_ngrams(grammar(50), VOCABULARY)
    given = torch.tensor([3, 4]), torch.tensor([6, 6]), torch.tensor([7, 6])
    before = model.probability(*given)
    for device in ("cuda", "cpu"):
        found = model.to(device).probability(*(tokens.to(device) for tokens in given))
        torch.testing.assert_close(found.cpu(), before)


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


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.1])
def test_the_tempered_mass_is_the_sum_of_the_powers(temperature: float) -> None:
    codes = torch.randint(3, VOCABULARY, (400, LENGTH), generator=torch.Generator().manual_seed(0))
    model = fit_ngrams(codes, VOCABULARY)
    first, second = codes[:50, :2].T.contiguous()
    tokens = torch.arange(VOCABULARY)
    powers = torch.stack(
        [
            model.probability(*(each.repeat(VOCABULARY) for each in pair), tokens)
            for pair in zip(first, second, strict=True)
        ]
    ) ** (1 / temperature)
    found = model.tempered_mass(first, second, temperature)
    # Below 1, a token's own share and that of the shorter context are tempered separately: the sum is smaller.
    assert (found <= powers.sum(1) + 1e-9).all()
    assert (found > 0).all()
    if temperature == 1:
        torch.testing.assert_close(found, torch.ones_like(found))


def test_the_common_and_the_rare_ngrams_make_up_the_whole() -> None:
    codes = torch.randint(3, VOCABULARY, (60, LENGTH), generator=torch.Generator().manual_seed(0))
    whole = fit_ngrams(codes, VOCABULARY).grams
    common, rare = (fit_ngrams(codes, VOCABULARY, 8, rare=each).grams for each in (False, True))
    assert torch.equal(rare, whole[whole[:, 2] >= 8])
    assert torch.equal(common[common[:, 2] != UNKNOWN], whole[whole[:, 2] < 8])
    assert common[common[:, 2] == UNKNOWN, 3].sum() == rare[:, 3].sum()


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


def random_scorer(classes: int = 0) -> Scorer:
    scorer = Scorer(VOCABULARY, classes)
    for parameter in scorer.parameters():
        torch.nn.init.normal_(parameter)
    return scorer.eval()


@pytest.mark.parametrize("classes", [0, 2])
def test_scores_do_not_depend_on_the_padding(classes: int) -> None:
    torch.manual_seed(0)
    rows, scorer = 2 * text_generator.SCORED_ROWS + 3, random_scorer(classes)
    codes, lengths = torch.randint(3, VOCABULARY, (rows, 20)), torch.randint(1, 21, (rows, 1))
    codes = codes.masked_fill(torch.arange(20) >= lengths, PADDING)
    labels = torch.randint(2, (rows,)) if classes else None
    torch.testing.assert_close(text_generator.scores_of(scorer, codes, labels), scorer(codes, labels))


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


@pytest.fixture
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """The net learns fast, without dropout."""
    for name, value in {"DROPOUT": 0.0, "WORD_DROPOUT": 0.0, "LEARNING_RATE": 1e-2, "PATIENCE": 100}.items():
        monkeypatch.setattr(text_warmup, name, value)


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


def pointed(rows: Tensor) -> Tensor:
    """The rows with a full stop, 10, before END, as in texts, so that no other token ends a row."""
    longer = torch.nn.functional.pad(rows, (0, 1))
    point, end = (longer == END).nonzero(as_tuple=True)
    longer[point, end], longer[point, end + 1] = 10, END
    return longer


@pytest.mark.usefixtures("_eager")
def test_learns_what_the_ngrams_cannot() -> None:
    rows = pointed(grammar(300))
    fit = warm_start(rows)
    before = fit.model.ngrams
    assert before is not None
    assert not fit.run(600, after(500))
    torch.testing.assert_close(fit.best, 1.1, rtol=0, atol=0.4)  # log 3 nats: only the start is uncertain
    fit.model.load_state_dict(fit.best_weights)
    drawn = generate(fit.generator, draw_noise(fit.generator, 200, seed=1))
    known = {tuple(row) for row in rows.tolist()}
    assert sum(tuple(row) in known for row in drawn.tolist()) > 180


@pytest.mark.parametrize("name", ["DROPOUT", "WORD_DROPOUT"])
def test_a_warm_start_learns_from_less_than_all_that_the_rows_say(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    disturbed = warm_start()
    disturbed.run(600, after(1))
    monkeypatch.setattr(text_warmup, name, 0.0)
    plain = warm_start()
    plain.run(600, after(1))
    assert not torch.equal(disturbed.model.gru.weight_hh_l0, plain.model.gru.weight_hh_l0)


def test_without_time_a_warm_start_ends_as_it_began_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    fit = warm_start()
    began = copy.deepcopy(fit.model.state_dict())
    with caplog.at_level("WARNING", "lookalike"):
        assert fit.run(0, lambda: False)
        assert "no time left to sharpen and calibrate" in caplog.text
        caplog.clear()
        without = warm_start()
        without.rounds = 0
        assert without.run(0, lambda: False)
        assert not caplog.text, "nothing was cut off"
    assert all(torch.equal(values, began[name]) for name, values in fit.model.state_dict().items())


@pytest.mark.usefixtures("_eager")
def test_labels_are_followed() -> None:
    rows = grammar(300)
    fit = warm_start(rows, rows[:, 0] - 3)
    fit.run(600, after(400))
    fit.model.load_state_dict(fit.best_weights)
    generator = fit.generator
    assert isinstance(generator, TokenGenerator)
    for label in range(3):
        only = generator.with_options(label=label)
        starts = generate(only, draw_noise(only, 100, seed=1))[:, 0]
        assert (starts == 3 + label).double().mean() > 0.55
    shares = (generate(generator, draw_noise(generator, 600, seed=1))[:, 0] == 3).double().mean()
    assert abs(shares - generator.shares[0]) < 0.1


def test_the_net_gives_words_of_the_class() -> None:
    torch.manual_seed(0)
    generator = TokenGenerator(LENGTH, VOCABULARY, VOCABULARY, 8, 16, labels=2, candidates=1).double().eval()
    model = generator.model
    assert model.label is not None
    assert model.label_output is not None
    torch.nn.init.zeros_(model.label.weight)  # the net's input tells nothing of the class
    model.label_output.weight.data[1] = 100 * model.embedding.weight[4]
    shares = []
    for label in (0, 1):
        only = generator.with_options(label=label)
        shares.append((generate(only, draw_noise(only, 200, seed=1)) == 4).double().mean())
    assert shares[1] > 2 * shares[0]
    given = LabelledRows(codes=torch.full((1, 1), 4).repeat(2, 1), labels=torch.tensor([0, 1]))
    rows = Rows.of(given, model)
    likelihood, _ = model(rows.codes, rows.known.double(), rows.masses.double(), rows.backoff.double(), rows.labels)
    assert likelihood[1] > likelihood[0] + 0.5


@pytest.mark.usefixtures("_eager")
def test_a_warm_start_ends_with_the_weights_under_which_validation_rows_are_likeliest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_warmup, "PATIENCE", 1)
    monkeypatch.setattr(text_warmup, "LEARNING_RATE", 0.1)  # so high that the loss soon rises
    fit = warm_start()
    fit.rounds = 0
    began = copy.deepcopy(fit.model.state_dict())
    last: dict[str, Tensor] = {}
    choose = fit._choose_weights
    monkeypatch.setattr(fit, "_choose_weights", lambda: [last.update(copy.deepcopy(fit.model.state_dict())), choose()])
    assert fit.run(math.inf, lambda: False)
    shipped = fit.model.state_dict()
    assert all(torch.equal(value, fit.best_weights[name]) for name, value in shipped.items())
    for other in (began, last):
        assert not torch.equal(shipped["gru.weight_hh_l0"], other["gru.weight_hh_l0"])
    assert fit.best == pytest.approx(text_warmup.mean_loss(fit.model, fit.validation))
    assert fit.best != pytest.approx(text_warmup.mean_loss(fit.model, fit.train))


def test_a_row_is_looked_up_in_the_counts_of_the_others() -> None:
    codes = torch.cat([torch.arange(3, 43).view(20, 2), torch.full((20, 1), END)], 1)  # no token is in two rows
    model = new_generator(codes, vocabulary=43, head=43, embedding=8, hidden=16, candidates=1).model
    for counted in (False, True):
        rows = Rows.of(LabelledRows(codes=codes), model, counted=counted)
        assert ((rows.known[:, 0] == 0) == counted).all()


def test_classes_are_drawn_as_often_as_the_rows_have_them() -> None:
    rows, labels = grammar(120), torch.tensor([0] * 90 + [1] * 30)
    made = new_generator(
        rows, vocabulary=VOCABULARY, head=VOCABULARY, embedding=8, hidden=16, labels=labels, classes=2, candidates=4
    )
    assert made.shares.tolist() == pytest.approx([0.75, 0.25])
    told = LabelledRows(codes=rows, labels=labels)
    rnn = fit_rnn(told, told, vocabulary=VOCABULARY, classes=2, seconds=0, seed=1, embedding=8, hidden=16)
    assert rnn.shares.tolist() == pytest.approx([0.75, 0.25])


def test_an_interrupted_warm_start_goes_on_bit_for_bit() -> None:
    whole = warm_start()
    whole.run(600, after(11))
    first = warm_start()
    assert not first.run(600, after(5))
    state = copy.deepcopy(first.state_dict())
    second = warm_start()
    torch.manual_seed(99)
    second.load_state_dict(state)
    second.run(600, after(6))
    assert second.step == whole.step == 11
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name]), name


@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize("classes", [False, True])
def test_between_two_checks_nobody_waits_for_the_gpu(classes: bool) -> None:
    rows = grammar(320)  # ten batches, and a check after them
    labels = rows[:, 0] - 3 if classes else None
    fit = warm_start(rows, labels=labels, device="cuda")
    asked = after(9)

    def interrupted() -> bool:
        going = not asked()
        # The first step may wait: it moves the order of the whole epoch to the GPU.
        torch.cuda.set_sync_debug_mode("error" if going else "default")
        return not going

    assert not fit.run(600, interrupted)
    assert fit.step == 9


def test_an_interrupted_calibration_goes_on_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_warmup, "LEARNING_RATE", 0.0)
    whole, first, second = (warm_start() for _ in range(3))
    assert whole.run(math.inf, lambda: False)
    assert not first.run(math.inf, after(whole.step + 2))
    assert first.calibrated == 2
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert second.run(math.inf, lambda: False)
    assert second.calibrated == whole.calibrated > 2
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name]), name
    assert not torch.equal(whole.model.bias, first.model.bias)


def test_a_sharpened_net_draws_as_at_a_lower_temperature() -> None:
    torch.manual_seed(0)
    generator = TokenGenerator(LENGTH, VOCABULARY, VOCABULARY, 8, 16, labels=2, candidates=1).double().eval()
    for parameter in generator.model.parameters():
        torch.nn.init.normal_(parameter)
    noise = draw_noise(generator, 400, seed=1)
    plain = generate(generator, noise)
    colder = generate(generator.with_options(temperature=text_warmup.TEMPERATURE), noise)
    sharpen(generator.model)
    assert torch.equal(generate(generator, noise), colder)
    assert not torch.equal(colder, plain)


def test_a_warm_start_sharpens_the_net_once_and_leaves_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_warmup, "LEARNING_RATE", 0.0)  # so that training changes no weights
    fit = warm_start()
    began = {name: value.clone() for name, value in fit.model.named_parameters()}
    assert fit.run(math.inf, lambda: False)
    assert fit.calibrated == text_warmup.CALIBRATION_ROUNDS > 1
    for name, value in fit.model.named_parameters():
        if name.startswith("project."):
            torch.testing.assert_close(value, began[name] / text_warmup.TEMPERATURE)
        elif name != "bias":  # the bias is calibrated
            assert torch.equal(value, began[name]), name


def test_a_net_that_is_not_calibrated_is_not_sharpened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_warmup, "LEARNING_RATE", 0.0)
    fit = warm_start()
    fit.rounds = 0
    began = copy.deepcopy(fit.model.state_dict())
    assert fit.run(math.inf, lambda: False)
    assert fit.step > 0
    assert all(torch.equal(values, began[name]) for name, values in fit.model.state_dict().items())


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


def test_what_the_scorer_drops_and_pads_is_not_scored() -> None:
    torch.manual_seed(0)
    scorer, rows = Scorer(VOCABULARY).eval(), grammar(3)
    torch.nn.init.normal_(scorer.weights)
    nothing = scorer(rows, kept=torch.zeros(3, scorer.features))
    torch.testing.assert_close(nothing, scorer._linear(rows) + scorer.output.bias)
    torch.testing.assert_close(scorer._linear(torch.nn.functional.pad(rows, (0, 9))), scorer._linear(rows))


def test_a_warm_start_in_a_hurry_is_calibrated_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_warmup, "PATIENCE", 1000)
    seconds = iter(range(10**9))  # a step takes a second
    monkeypatch.setattr(text_warmup.time, "monotonic", lambda: float(next(seconds)))
    fit = warm_start()
    assert fit.run(20.0, lambda: False)
    assert fit.step > 10
    assert fit.calibrated > 1
    assert fit.seconds < 25


def test_a_warm_start_learns_from_rows_as_if_they_had_not_been_counted() -> None:
    codes = torch.cat([torch.arange(3, 43).view(20, 2), torch.full((20, 1), END)], 1)  # no token is in two rows
    generator = new_generator(codes, vocabulary=43, head=43, embedding=8, hidden=16, candidates=4)
    fit = TextWarmStart(generator, LabelledRows(codes=codes), LabelledRows(codes=codes[:5]))
    assert (fit.train.known[:, 0] == 0).all()
    assert (fit.validation.known[:, 0] > 0).all()


def test_the_scorer_sees_the_order_of_tokens_without_its_net() -> None:
    torch.manual_seed(0)
    scorer = Scorer(12).eval()
    torch.nn.init.zeros_(scorer.output.weight)
    torch.nn.init.normal_(scorer.weights)
    one, other, longer = scorer(torch.tensor([[3, 4, 5, END, PADDING], [3, 5, 4, END, PADDING], [3, 4, 5, END, 0]]))
    assert one != other
    assert one == longer


@pytest.mark.parametrize(("chosen", "candidates"), [(True, 3), (False, 1)])
def test_a_recount_calibrates_as_rows_will_be_drawn_in_ever_smaller_steps(
    generator: TokenGenerator, monkeypatch: pytest.MonkeyPatch, chosen: bool, candidates: int
) -> None:
    rounds: list[tuple[int, int, float]] = []

    def note(drawing: TokenGenerator, codes: Tensor, seed: int, rate: float, each: object) -> None:
        rounds.append((drawing.candidates, seed, rate))

    monkeypatch.setattr(text_warmup, "calibrate", note)
    recount(generator, grammar(20), chosen=chosen)
    drawn, seeds, rates = zip(*rounds, strict=True)
    assert set(drawn) == {candidates}
    assert len(set(seeds)) == len(rounds)
    assert rates == pytest.approx((1, 1, 1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6))


def test_ngrams_that_are_loaded_replace_those_that_were_used() -> None:
    known, other = (fit_ngrams(torch.tensor([[3, token, END]] * 9), VOCABULARY) for token in (4, 5))
    asked = torch.tensor([END]), torch.tensor([3]), torch.tensor([5])
    assert known.probability(*asked) < 0.1 < 0.9 < other.probability(*asked)
    known.load_state_dict(other.state_dict())
    assert torch.equal(known.probability(*asked), other.probability(*asked))
