"""Codecs turn rows of data into tensors of codes and back.

A codec is fitted on training rows, travels inside the artifact as plain JSON, and decodes what the generator
made. This module is a LEAF: it imports the standard library and torch only, so that it runs unchanged inside
the model archive.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import compress
from typing import Any, Protocol

import torch
from torch import Tensor

WORD = re.compile(r"\w+(?:['\u2019]\w+)*")


class Codec(Protocol):
    """What every codec offers. Codes are uint8 tensors of shape (rows, length) with values 0 and 1."""

    name: str

    @property
    def columns(self) -> list[str]:
        """One label for each code position, as plots and files show it."""

    def encode(self, rows: Sequence[Any]) -> Tensor: ...

    def decode(self, codes: Tensor) -> list[str] | None:
        """Text for each row of codes, or None where the codes already are the data."""

    def to_dict(self) -> dict[str, Any]: ...


class BitsCodec:
    """Rows that already are 0 and 1: codes and data are the same thing."""

    name = "bits"

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = list(columns)

    @property
    def columns(self) -> list[str]:
        return self._columns

    def encode(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Rows of 0/1 values as codes (rows, length).

        Raises:
            ValueError: the rows are not as long as the codec, or hold other values than 0 and 1.
        """
        codes = torch.as_tensor(rows).reshape(len(rows), -1)
        if codes.shape[1] != len(self._columns):
            raise ValueError(f"rows have {codes.shape[1]} values where the codec has {len(self._columns)} columns")
        if not torch.isin(codes, torch.tensor([0, 1], dtype=codes.dtype)).all():
            raise ValueError("rows hold values other than 0 and 1")
        return codes.to(torch.uint8)

    def decode(self, codes: Tensor) -> None:
        return None

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "columns": self._columns}


class PresenceCodec:
    """Text as the presence of K words: code k of a row is 1 where word k occurs in it.

    Word order and counts are lost, so decoding lists the words that are present.
    """

    name = "presence"

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._index = {word: k for k, word in enumerate(self.words)}

    @classmethod
    def fit(cls, texts: Iterable[str], size: int) -> "PresenceCodec":
        """The `size` most telling words of the texts, the most telling first; ties in alphabetical order.

        Telling means informative: the presence of a word seen in a share p of the rows carries the binary entropy
        H(p) bits, which is largest at p = 1/2. So a word in nearly every row says as little as a rare one.

        Raises:
            ValueError: the texts have fewer than `size` distinct words.
        """
        counts: Counter[str] = Counter()
        rows = 0
        for text in texts:
            rows += 1
            counts.update(set(words_of(text)))
        if len(counts) < size:
            raise ValueError(f"the texts have {len(counts)} distinct words, fewer than the {size} asked for")
        # H(p) falls with the distance of p from 1/2, so the distance alone ranks the words.
        return cls(sorted(counts, key=lambda word: (abs(counts[word] / rows - 0.5), word))[:size])

    @property
    def columns(self) -> list[str]:
        return self.words

    def encode(self, rows: Sequence[str]) -> Tensor:
        codes = torch.zeros(len(rows), len(self.words), dtype=torch.uint8)
        for row, text in enumerate(rows):
            present = [self._index[word] for word in words_of(text) if word in self._index]
            codes[row, present] = 1
        return codes

    def decode(self, codes: Tensor) -> list[str]:
        return [" ".join(compress(self.words, row)) for row in codes.tolist()]

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "words": self.words}


def words_of(text: str) -> list[str]:
    """The words of a text, lower-cased, in order; punctuation and spacing are dropped."""
    return WORD.findall(unicodedata.normalize("NFKC", text).lower())


def from_dict(state: dict[str, Any]) -> Codec:
    """The codec that `to_dict` described.

    Raises:
        ValueError: no codec has that name.
    """
    match state:
        case {"name": "bits", "columns": columns}:
            return BitsCodec(columns)
        case {"name": "presence", "words": words}:
            return PresenceCodec(words)
    raise ValueError(f"unknown codec {state.get('name')!r}")
