"""Codecs: what encoding keeps, and how they are saved."""

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train import codec
from train.codec import END, PADDING, UNKNOWN, BitsCodec, PresenceCodec, TokensCodec

TEXTS = ["The film is good.", "A good film!", "It's bad", "bad, BAD film", "the plot, the plot"]


@given(st.lists(st.lists(st.integers(0, 1), min_size=4, max_size=4), min_size=1, max_size=20))
def test_bits_are_their_own_codes(rows: list[list[int]]) -> None:
    assert BitsCodec("abcd").encode(rows).tolist() == rows


@pytest.mark.parametrize("rows", [[[0, 2]], [[0, 1, 1]], [[0.5, 1]], [[-1, 0]]])
def test_bits_refuses_what_is_not_its_own(rows: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="rows h"):
        BitsCodec("ab").encode(rows)  # type: ignore[arg-type]


def test_presence_takes_the_words_nearest_to_half_the_rows() -> None:
    # "film" is in three of the five rows; "bad", "good" and "the" are in two; the other words are in one.
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


def fit_tokens(texts: list[str], **changes: Any) -> TokensCodec:
    return TokensCodec.fit(texts, **{"kind": "words", "vocabulary": 500, "min_count": 1, "lowercase": True} | changes)


PUNCTUATED = "It's (really) good, isn't it?! ... J.R.R.'s best \u2014 by far"


@pytest.mark.parametrize("kind", ["words", "bpe"])
def test_tokens_decode_to_the_text_but_for_capitals_and_runs_of_spaces(kind: str) -> None:
    fitted = fit_tokens([PUNCTUATED, *TEXTS], kind=kind)
    assert fitted.decode(fitted.encode([PUNCTUATED.replace(" ", "  \t")])) == [PUNCTUATED.lower()]
    assert fit_tokens([PUNCTUATED], kind=kind, lowercase=False).decode(
        fit_tokens([PUNCTUATED], kind=kind, lowercase=False).encode([PUNCTUATED])
    ) == [PUNCTUATED]


@pytest.mark.parametrize("kind", ["words", "bpe"])
def test_what_others_mark_ends_with_is_text_like_other_text(kind: str) -> None:
    marked = "<start> a dog <pad> ran <unk> home <end> [end] </s>"
    fitted = fit_tokens([marked, *TEXTS], kind=kind)
    assert fitted.decode(fitted.encode([marked])) == [marked]
    assert not {PADDING, UNKNOWN} & set(fitted.encode([marked])[0, : len(marked.split())].tolist())


@pytest.mark.parametrize("kind", ["words", "bpe"])
@given(texts=st.lists(st.text(), min_size=1))
def test_decoded_tokens_encode_the_same(kind: str, texts: list[str]) -> None:
    fitted = fit_tokens([*texts, *TEXTS], kind=kind, length=40)
    decoded = fitted.decode(fitted.encode(texts))
    assert fitted.decode(fitted.encode(decoded)) == decoded


@pytest.mark.parametrize("kind", ["words", "bpe"])
def test_the_commoner_a_token_the_lower_its_number(kind: str) -> None:
    texts = ["zebra zebra zebra zebra a film", "a zebra in a zoo", "zebras of the zoo", "z z z z z z z z"] * 3
    fitted = fit_tokens(texts, kind=kind, vocabulary=60)
    codes = fitted.encode(texts)
    counts = codes.flatten().long().bincount(minlength=len(fitted.pieces))[3:]
    assert (counts.diff() <= 0).all()
    assert fitted.decode(codes) == texts


def test_vowel_signs_belong_to_their_word() -> None:
    hindi = "\u092e\u0948\u0902 \u0939\u093f\u0928\u094d\u0926\u0940"  # "I ... Hindi"
    assert codec.words_of(hindi) == hindi.split()
    assert codec.words_of("\u2764\ufe0f a film") == ["a", "film"], "a combining mark alone is no word"
    first, second = hindi.split()
    fitted = fit_tokens([f"{first} ({second})"])
    row = [fitted.pieces.index(f"\u2581{first}"), fitted.pieces.index(second)]
    assert fitted.decode(torch.tensor([row])) == [hindi], "no fitted text has them side by side"


def test_words_side_by_side_stay_apart() -> None:
    fitted = fit_tokens(["a (good) film of 20", "don't"])
    film, good, dont, close = (fitted.pieces.index(piece) for piece in ("\u2581film", "good", "\u2581don't", ")"))
    assert fitted.decode(torch.tensor([[film, good, UNKNOWN, good, close, dont]])) == ["film good good) don't"]


def test_tokens_end_and_are_padded_or_cut() -> None:
    fitted = fit_tokens(["a b c", "a b"], length=3)
    a, b, c = (fitted.pieces.index(f"\u2581{word}") for word in "abc")
    codes = fitted.encode(["a", "b a", "a b c", ""])
    assert codes.tolist() == [[a, END, PADDING], [b, a, END], [a, b, c], [END, PADDING, PADDING]]
    assert codes.dtype == torch.int32, "large sets of texts take half the memory"


def test_rare_words_are_unknown_and_never_shown() -> None:
    fitted = fit_tokens(["good good film film", "rare"], min_count=2, length=4)
    codes = fitted.encode(["good rare film"])
    assert UNKNOWN in codes[0].tolist()
    assert fitted.decode(codes) == ["good film"]


def test_the_length_covers_99_percent_of_the_texts() -> None:
    texts = ["word " * count for count in range(1, 101)]
    assert fit_tokens(texts).length == 99 + 1


RATED = TokensCodec(fit_tokens(TEXTS).tokenizer, 9, ["dull", "fine"], "rating")


@pytest.mark.parametrize("made", [BitsCodec(["a", "b"]), PresenceCodec(["film", "good"]), RATED])
def test_codecs_survive_json(made: codec.Codec) -> None:
    again = codec.from_dict(json.loads(json.dumps(made.to_dict())))
    assert type(again) is type(made)
    assert vars(again) == vars(made)


def test_an_unknown_codec_is_named() -> None:
    with pytest.raises(ValueError, match="'morse'"):
        codec.from_dict({"name": "morse"})


def test_the_length_chosen_for_texts_is_bounded() -> None:
    options: dict[str, Any] = {"kind": "words", "vocabulary": 10, "min_count": 1, "lowercase": True}
    assert TokensCodec.fit(["a film"] * 200, **options).length == 3
    assert TokensCodec.fit(["a film " * 1000] * 200, **options).length == codec.LONGEST


@pytest.mark.parametrize(("kind", "most"), [("words", 7), ("bpe", 25)])
def test_a_vocabulary_has_no_more_tokens_than_asked_for(kind: str, most: int) -> None:
    few, many = (fit_tokens(TEXTS * 20, kind=kind, vocabulary=size).pieces for size in (most, 500))
    assert len(few) == most < len(many)


def test_letters_that_look_alike_make_the_same_word() -> None:
    assert codec.words_of("\ufb01lm \uff12 CAFE\u0301") == ["film", "2", "caf\u00e9"]


@pytest.mark.parametrize("most", [5, 7])
def test_a_small_vocabulary_of_pieces_leaves_out_the_rarest_characters(most: int) -> None:
    fitted = fit_tokens(["aaaa bbb cc d"] * 5, kind="bpe", vocabulary=most)
    assert len(fitted.pieces) <= most
    assert UNKNOWN in fitted.encode(["a d"])[0]


@pytest.mark.parametrize("kind", ["words", "bpe"])
def test_no_text_holds_the_codecs_own_marks(kind: str) -> None:
    texts = ["a\uffffend film", "a film\uffff", "a\uffffpad film \uffff"]
    fitted = TokensCodec.fit(texts, kind=kind, vocabulary=50, min_count=1, lowercase=True, length=20)
    assert not any("\uffff" in piece for piece in fitted.pieces)
    assert fitted.decode(fitted.encode(texts)) == ["a end film", "a film", "a pad film"]
