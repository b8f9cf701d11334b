"""Codecs: what encoding keeps, and how they travel."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train import codec
from train.codec import BitsCodec, PresenceCodec

TEXTS = ["The film is good.", "A good film!", "It's bad", "bad, BAD film", "the plot, the plot"]


@given(st.lists(st.lists(st.integers(0, 1), min_size=4, max_size=4), min_size=1, max_size=20))
def test_bits_are_their_own_codes(rows: list[list[int]]) -> None:
    assert BitsCodec("abcd").encode(rows).tolist() == rows


@pytest.mark.parametrize("rows", [[[0, 2]], [[0, 1, 1]], [[0.5, 1]], [[-1, 0]]])
def test_bits_refuses_what_is_not_its_own(rows: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="rows h"):
        BitsCodec("ab").encode(rows)  # type: ignore[arg-type]


def test_presence_takes_the_words_nearest_to_half_the_rows() -> None:
    # In the five rows: bad, film and good twice, the twice, the rest once.
    assert PresenceCodec.fit(TEXTS, 4).words == ["bad", "film", "good", "the"]


def test_presence_marks_a_word_once_whatever_its_case_or_punctuation() -> None:
    fitted = PresenceCodec(["bad", "it's"])
    assert fitted.encode(["BAD, bad!", "It's", ""]).tolist() == [[1, 0], [0, 1], [0, 0]]


def test_presence_wants_enough_words() -> None:
    with pytest.raises(ValueError, match="8 distinct words, fewer than the 99"):
        PresenceCodec.fit(TEXTS, 99)


@given(st.lists(st.text(), min_size=1))
def test_presence_decodes_to_text_that_encodes_the_same(texts: list[str]) -> None:
    fitted = PresenceCodec(["film", "good", "it's", "bad"])
    codes = fitted.encode([*texts, *TEXTS])
    assert torch.equal(fitted.encode(fitted.decode(codes)), codes)


@pytest.mark.parametrize("made", [BitsCodec(["a", "b"]), PresenceCodec(["film", "good"])])
def test_codecs_survive_json(made: codec.Codec) -> None:
    again = codec.from_dict(json.loads(json.dumps(made.to_dict())))
    assert type(again) is type(made)
    assert again.columns == made.columns


def test_an_unknown_codec_is_named() -> None:
    with pytest.raises(ValueError, match="'morse'"):
        codec.from_dict({"name": "morse"})
