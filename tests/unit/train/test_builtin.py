"""The built-in data sets."""

import numpy as np
import pytest

from train import builtin, data

TEXTS = ["a film"] * 12


def test_the_built_in_reviews_have_classes_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "movie_reviews", lambda: (TEXTS, ["good", "bad"] * 6))
    assert data.load("movie-reviews").classes is None
    assert data.load("movie-reviews", label_column=builtin.REVIEWS_LABEL).classes == ["good", "bad"] * 6


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("digits", (1797, 64)),
        ("toy", (1000, 5)),
        ("chain", (20_000, 32)),
        ("topics", (20_000, 64)),
        ("survey", (5000, 26)),
        ("week", (4000, 168)),
        ("wide", (6000, 1000)),
    ],
)
def test_built_in_bits(name: str, shape: tuple[int, int]) -> None:
    found = data.load(name)
    assert found.bits is not None
    assert found.bits.shape == shape
    assert set(np.unique(found.bits)) == {0, 1}


def test_the_survey_keeps_its_rules() -> None:
    rows = builtin.survey()
    assert (rows[:, :20].reshape(-1, 4, 5).sum(axis=2) == 1).all()
    assert (rows[:, 24] == rows[:, 20]).all()
    assert (rows[:, 25] != rows[:, 21]).all()


def test_the_chain_has_the_documented_memory() -> None:
    bits = builtin.chain(50_000, 12).astype(int)
    before = 2 * bits[:, 5] + bits[:, 6]
    risen = [bits[before == k, 7].mean() for k in range(4)]
    np.testing.assert_allclose(risen, [0.15, 0.80, 0.45, 0.60], atol=0.015)
