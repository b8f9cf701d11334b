"""N-grams of token ids: counts, probabilities and draws."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.grammar import LENGTH, VOCABULARY, grammar
from train import ngram
from train.codec import END, UNKNOWN
from train.language_model import backoff_share
from train.ngram import fit_ngrams


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


def test_ngrams_that_are_loaded_replace_those_that_were_used() -> None:
    known, other = (fit_ngrams(torch.tensor([[3, token, END]] * 9), VOCABULARY) for token in (4, 5))
    asked = torch.tensor([END]), torch.tensor([3]), torch.tensor([5])
    assert known.probability(*asked) < 0.1 < 0.9 < other.probability(*asked)
    known.load_state_dict(other.state_dict())
    assert torch.equal(known.probability(*asked), other.probability(*asked))
