"""The configuration: presets, what wins over what, and problems reported together."""

from typing import Any

import pytest

from train import config
from train.config import PRESETS, Config, from_json, resolve, without_effect
from train.errors import InputError


def test_presets_resolve() -> None:
    assert all(resolve({"preset": name}).preset == name for name in PRESETS)


def test_what_is_given_wins_over_the_preset() -> None:
    found = resolve({"preset": "textbook", "epochs": 7})
    assert (found.epochs, found.batch_size, found.generator) == (7, 1, "textbook")


def test_epochs_alone_lift_the_limit_of_minutes() -> None:
    assert resolve({"epochs": 5}).max_minutes is None
    assert resolve({"epochs": 5, "max_minutes": 1.0}).max_minutes == 1.0


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(InputError) as caught:
        resolve({"generator": "textbook", "max_minutes": None, "penalty": float("nan")})
    for part in (
        "--epochs or --max-minutes",
        "--penalty nan: not a finite number",
        "--batch-size 1 and --turns 1, not 576 and 32",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("given", "useless"),
    [
        ({"codec": "bits", "generator": "nade", "head": 10, "words": 9, "hidden": 8}, ["--words", "--head"]),
        ({"codec": "presence", "generator": "nade", "words": 9, "min_count": 2}, ["--min-count"]),
        ({"codec": "tokens", "generator": "tokens", "words": 9, "head": 10, "tick": 9}, ["--words", "--tick"]),
        ({"codec": "bits", "preset": "textbook", "width": 8, "flip": 0.1}, ["--width"]),
        ({"codec": "bits", "preset": "textbook"}, []),
        ({"codec": "tokens", "generator": "tokens"}, []),
    ],
    ids=["rows", "presence", "tokens", "textbook", "the textbook's own", "nothing given"],
)
def test_options_without_effect_are_found(given: dict[str, Any], useless: list[str]) -> None:
    assert without_effect(resolve(given)) == useless


def test_a_batch_that_cannot_be_shared_equally_is_refused_with_one_that_can() -> None:
    with pytest.raises(InputError, match="--batch-size 576: 5 processes cannot share it equally; 580 would do"):
        resolve({"codec": "bits", "processes": 5})


def test_the_textbook_is_told_to_train_alone() -> None:
    with pytest.raises(InputError, match="textbook learns one sample a step, in one process, not in 2"):
        resolve({"preset": "textbook", "codec": "bits", "processes": 2})


def test_a_large_share_may_be_held_out() -> None:
    assert resolve({"holdout": 0.9, "validation": 0.5}).holdout == 0.9  # a twentieth is left for training


@pytest.mark.parametrize("text", ["Umfrage für alle.csv", "\udcff.csv", 'a "b" \\c.csv'])
def test_a_saved_configuration_is_read_again(text: str) -> None:
    saved = resolve({"data": text}).to_json()
    assert saved.encode().decode() == saved
    assert from_json(saved).data == text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_limit_that_never_comes_is_refused(value: float) -> None:
    with pytest.raises(InputError, match=f"--max-minutes {value}: not a finite number"):
        resolve({"max_minutes": value})


def test_a_config_survives_its_file() -> None:
    made = resolve({"data": "toy", "seed": 3})
    assert config.from_json(made.to_json()) == made


@pytest.mark.parametrize("text", ["", "[]", '{"nonsense": 1}'])
def test_a_file_that_is_no_config_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"config\.json cannot be read"):
        config.from_json(text)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Config().seed = 1  # type: ignore[misc]
