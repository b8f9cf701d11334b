"""The diagnosis: in plain words, with advice that the game at hand can follow."""

import re

import pytest

from tests.history import HISTORY
from train.diagnosis import diagnose


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "Balanced"),
        ({"discriminator_loss": 0.01}, "Discriminator too strong"),
        ({"validation_score": 9.0}, "Past its best"),
        ({"validation_distinct_ratio": 0.3}, "Collapsing"),
        ({"validation_copy_excess": 0.2, "validation_copy_excess_low": 0.05}, "Memorising"),
        ({"validation_copy_excess": 0.2, "validation_copy_excess_low": -0.05}, "Balanced"),
    ],
)
def test_loss_curves_are_read_in_plain_words(changes: dict[str, float], word: str) -> None:
    assert diagnose([*HISTORY, {**HISTORY[-1], **changes}]).startswith(word)


@pytest.mark.parametrize(
    "scores", [{"constant_columns": 4, "distinct_ratio": 0.1}, {"distinct_ratio": 0.5, "distinct_ratio_high": 0.6}]
)
def test_what_ships_collapsed_is_said_to_have(scores: dict[str, float]) -> None:
    for generator, word in (("nade", "--penalty"), ("textbook", "column means"), ("tokens", "temperature")):
        said = diagnose(HISTORY, generator, scores)
        assert said.startswith("Collapsed")
        assert word in said
        assert ("unlike in real ones" in said) == ("constant_columns" in scores)
        assert generator != "tokens" or not re.search("column|row", said)


def test_advice_names_options_that_the_game_has() -> None:
    lost = [{**HISTORY[-1], "discriminator_loss": 0.01}]
    assert "--penalty" in diagnose(lost)
    for generator in ("tokens", "textbook"):
        assert "--" not in diagnose(lost, generator)


def test_only_the_game_that_flips_is_told_to_flip_more() -> None:
    copies = [{**HISTORY[-1], "validation_copy_excess": 0.2, "validation_copy_excess_low": 0.1}]
    assert "--flip" in diagnose(copies)
    assert diagnose(copies, "textbook").endswith("Use more data.")


def test_the_textbook_adds_two_losses_up() -> None:
    lost = [{**HISTORY[-1], "discriminator_loss": 0.12}]  # less than a tenth of 2 log 2
    assert diagnose(lost).startswith("Balanced")
    assert "(balance: 1.39)" in diagnose(lost, "textbook")
