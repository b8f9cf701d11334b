"""Codecs turn rows of data into tensors of codes and back.

A codec is fitted to real rows, travels inside the artifact as plain JSON, and decodes what the generator made. Hugging
Face's tokenizers are imported only where a tokenizer is trained or texts are encoded. This module is a LEAF (see
train/__init__.py).
"""

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, islice, takewhile
from typing import Any, Protocol

import torch
from torch import Tensor

# Vowel signs and accents that follow a letter: the tokenizers' \w matches them, Python's does not.
MARKS = "".join(chr(code) for code in range(0x20000) if unicodedata.category(chr(code)).startswith("M"))
WORD = re.compile(rf"\w[\w{MARKS}]*(?:['\u2019]\w[\w{MARKS}]*)*")
PADDING, END, UNKNOWN = 0, 1, 2  # the first token ids
SPACE = "\u2581"  # marks a token that follows a space
TOKEN = rf"{SPACE}?\w+(?:['\u2019]\w+)*|{SPACE}?\.\.\.|{SPACE}?[^\w{SPACE}]|{SPACE}"
APART = "\uffff"  # separates tokens until they are joined; not a character, so texts lose it (see `_plain`)
SPECIAL = (f"{APART}pad", f"{APART}end", f"{APART}unk")  # tokenizers would find plainer names within texts
GLUED = re.compile(rf"(?<=[\w{MARKS}]){APART}+(?=\w)")
LABEL_COLUMN = "label"  # where the column of the classes has no name; older artifacts do not store one
COVERED = 0.99  # share of the texts that fit into the length chosen for them
LONGEST = 512  # token ids a row; with longer rows, training and judging take hours on a CPU


class Codec(Protocol):
    """What every codec offers. Codes are integer tensors of shape (rows, length)."""

    name: str
    labels: tuple[str, ...]  # the names of the rows' classes, if they have any

    @property
    def columns(self) -> list[str]:
        """A name for each code position, as plots and files show it."""

    def encode(self, rows: Sequence[Any]) -> Tensor: ...

    def decode(self, codes: Tensor) -> list[str] | None:
        """Text for each row of codes, or None where the codes already are the data."""

    def to_dict(self) -> dict[str, Any]: ...


class BitsCodec:
    """Rows that already are 0 and 1: codes and data are the same thing."""

    name = "bits"
    labels: tuple[str, ...] = ()

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = list(columns)

    @property
    def columns(self) -> list[str]:
        return self._columns

    def encode(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Rows of 0/1 values as codes (rows, length).

        Raises:
            ValueError: the rows have another length than the codec, or hold values other than 0 and 1.
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
    labels: tuple[str, ...] = ()

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._index = {word: k for k, word in enumerate(self.words)}

    @classmethod
    def fit(cls, texts: Iterable[str], size: int) -> "PresenceCodec":
        """The `size` most informative words of the texts, the most informative first; ties in alphabetical order.

        The presence of a word seen in a share p of the rows carries the binary entropy H(p) in bits, which is largest
        at p = 1/2. So a word in nearly every row says as little as a rare one.

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
        present = map(self.words.__getitem__, codes.nonzero()[:, 1].tolist())  # row after row
        return [" ".join(islice(present, count)) for count in codes.sum(1).tolist()]

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "words": self.words}


class TokensCodec:
    """Text as token ids: words or pieces of words, then the end token, then padding up to the length.

    A longer text is cut off and has no end token. Decoding joins the tokens again: lost are only unknown words and what
    the tokenizer normalises (such as runs of white space, and capitals where it lower-cases).
    """

    name = "tokens"

    def __init__(
        self, tokenizer: dict[str, Any], length: int, labels: Sequence[str] = (), label_column: str = LABEL_COLUMN
    ) -> None:
        """A codec around a tokenizer in the format of Hugging Face's `tokenizers`.

        Args:
            tokenizer: its JSON; the ids 0, 1 and 2 stand for padding, end and unknown.
            length: token ids a row, including the end token.
            labels: the classes that a text may belong to.
            label_column: the name that the column of the classes has in files.
        """
        self.tokenizer, self.length, self.labels, self.label_column = tokenizer, length, tuple(labels), label_column
        vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
        self.pieces = ["", "", "", *sorted(vocabulary, key=lambda piece: vocabulary[piece])[len(SPECIAL) :]]

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        *,
        kind: str,
        vocabulary: int,
        min_count: int,
        lowercase: bool,
        length: int | None = None,
        labels: Sequence[str] = (),
        label_column: str = LABEL_COLUMN,
    ) -> "TokensCodec":
        """Learn the vocabulary from texts.

        Args:
            kind: "words", or "bpe" for pieces of words by byte-pair encoding (Sennrich et al. 2016).
            vocabulary: how many tokens at most; for "bpe", the commonest characters and pairs.
            min_count: a word (for "bpe", a pair of pieces) seen less often gets no token of its own.
            lowercase: whether capitals are dropped.
            length: token ids a row; by default as many as 99 % of the texts need, but no more than LONGEST.

        Raises:
            ValueError: the texts hold no token.
        """
        texts = _plain(texts)
        tokenizer = _untrained_tokenizer(kind, lowercase)
        tokenizer.train_from_iterator(texts, _trainer(kind, vocabulary, min_count))
        if tokenizer.get_vocab_size(with_added_tokens=False) == len(SPECIAL):
            raise ValueError("the texts hold no token that is frequent enough")
        encoded = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
        if length is None:
            lengths = sorted(map(len, encoded))
            length = min(LONGEST, max(1, lengths[math.ceil(COVERED * len(lengths)) - 1]) + 1)
        state = json.loads(tokenizer.to_str())
        state["model"]["vocab"] = _commonest_first(state["model"]["vocab"], encoded)
        return cls(state, length, labels, label_column)

    @property
    def columns(self) -> list[str]:
        return [f"t{position + 1}" for position in range(self.length)]

    def encode(self, rows: Sequence[str]) -> Tensor:
        """Token ids, int32 (rows, length)."""
        from tokenizers import Tokenizer  # imported late: serving only decodes

        tokenizer = Tokenizer.from_str(json.dumps(self.tokenizer))
        codes = torch.full((len(rows), self.length), PADDING, dtype=torch.int32)
        for row, encoding in enumerate(tokenizer.encode_batch(_plain(rows))):
            ids = [*encoding.ids, END][: self.length]
            codes[row, : len(ids)] = torch.tensor(ids, dtype=torch.int32)
        return codes

    def decode(self, codes: Tensor) -> list[str]:
        """Texts. Adjacent words that would otherwise merge into one are kept apart by a space."""
        return [self._join(self.tokens(row)) for row in codes.tolist()]

    def _join(self, tokens: Iterable[str]) -> str:
        if self.tokenizer["model"]["type"] != "WordLevel":
            return "".join(tokens).replace(SPACE, " ").strip(" ")
        return GLUED.sub(" ", APART.join(tokens)).replace(APART, "").replace(SPACE, " ").strip(" ")

    def tokens(self, row: Iterable[int]) -> list[str]:
        """The tokens of one row of codes, up to its end; an unknown one is an empty string."""
        return [self.pieces[code] for code in takewhile(lambda code: code not in (PADDING, END), row)]

    def to_dict(self) -> dict[str, Any]:
        classes = {"labels": list(self.labels), "label_column": self.label_column}
        return {"name": self.name, "length": self.length, **classes, "tokenizer": self.tokenizer}


def _plain(texts: Iterable[str]) -> list[str]:
    """The texts with spaces for APART, which would begin a name of SPECIAL, or vanish from what is decoded."""
    return [text.replace(APART, " ") for text in texts]


def _untrained_tokenizer(kind: str, lowercase: bool) -> Any:
    """A tokenizer that splits texts into words and punctuation marks, each with the space before it."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    model = models.WordLevel if kind == "words" else models.BPE
    tokenizer = Tokenizer(model(unk_token=SPECIAL[UNKNOWN]))
    steps = [normalizers.NFC(), normalizers.Replace(Regex(rf"[\s{SPACE}]+"), " "), normalizers.Strip()]
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Lowercase()] if lowercase else steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(SPACE, prepend_scheme="always"),
            pre_tokenizers.Split(Regex(TOKEN), behavior="removed", invert=True),
        ]
    )
    return tokenizer


def _commonest_first(vocabulary: dict[str, int], encoded: Iterable[Sequence[int]]) -> dict[str, int]:
    """The vocabulary with its tokens renumbered by frequency, since byte-pair encoding numbers them as it merges."""
    counts = Counter(chain.from_iterable(encoded))
    others = sorted(vocabulary.keys() - set(SPECIAL), key=lambda each: (-counts[vocabulary[each]], vocabulary[each]))
    return {piece: number for number, piece in enumerate([*SPECIAL, *others])}


def _trainer(kind: str, vocabulary: int, min_count: int) -> Any:
    from tokenizers import trainers

    options: dict[str, Any] = {"vocab_size": vocabulary, "min_frequency": min_count, "show_progress": False}
    options["special_tokens"] = list(SPECIAL)
    if kind == "words":
        return trainers.WordLevelTrainer(**options)
    return trainers.BpeTrainer(**options, limit_alphabet=max(1, vocabulary - len(SPECIAL)))  # each takes a token


def words_of(text: str) -> list[str]:
    """The words of a text, lower-cased, in order; punctuation and spacing are dropped."""
    return WORD.findall(unicodedata.normalize("NFKC", text).lower())


def class_names(codec: Codec, labels: Tensor | None) -> list[str] | None:
    """The names of the classes with these numbers, (rows,); None if rows have no classes."""
    return None if labels is None else [codec.labels[number] for number in labels.tolist()]


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
        case {"name": "tokens", "tokenizer": tokenizer, "length": length, "labels": labels}:
            return TokensCodec(tokenizer, length, labels, state.get("label_column", LABEL_COLUMN))
    raise ValueError(f"unknown codec {state.get('name')!r}")
