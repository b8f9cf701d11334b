"""Turns a configuration into what a job trains on: data read, split and encoded, and every "auto" resolved."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from train import data, device
from train.codec import END, LABEL_COLUMN, LONGEST, BitsCodec, Codec, TokensCodec
from train.columns import some_names
from train.config import Config
from train.dataset import Dataset, Split, check_classes, split
from train.errors import InputError
from train.packed import PackedRows

# Each part of a split is in random order, so its first rows are a random sample. At most this many are used where more
# would cost much and tell little; the game itself sees every training row.
LEARNING_ROWS, JUDGING_ROWS = 50_000, 20_000


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The data of a job, encoded and split. Codes are integers (rows, length).

    With token ids, `rows`, `train` and `validation` lack the texts that are too long for the codec, from which a
    generator would learn to stop in mid-sentence; `parts` still numbers all rows.

    Attributes:
        rows: all training rows, for the game.
        train: those for the warm start, the baselines and the evidence: all texts, but at most `LEARNING_ROWS` rows of
            0/1.
        validation: at most `JUDGING_ROWS` of the validation rows.
        heldout: at most `JUDGING_ROWS` of the held-out rows.
        train_labels, validation_labels: the numbers of the rows' classes, int64 (rows,), if texts have classes.
        too_long: how many texts were left out.
    """

    dataset: Dataset
    codec: Codec
    parts: Split
    rows: Tensor | PackedRows
    train: Tensor
    validation: Tensor
    heldout: Tensor
    train_labels: Tensor | None = None
    validation_labels: Tensor | None = None
    too_long: int = 0

    @property
    def left_out(self) -> str:
        """A sentence about the texts that are too long to learn from; empty if there are none."""
        if not self.too_long:
            return ""
        return (
            f"{self.too_long:,} of the {len(self.parts.train) + len(self.parts.validation):,} training and validation "
            f"texts have more than {len(self.codec.columns) - 1} tokens (--length) and are left out; longer held-out "
            "texts are not"
        )


def prepare(config: Config) -> Prepared:
    """Read, split and encode the data.

    Held-out rows have no influence on the codec; validation rows only on that of token ids.

    Raises:
        InputError: the data cannot be used, or does not fit the options.
    """
    dataset = data.load(
        config.data,
        column=config.column,
        label_column=config.label_column,
        codec=config.codec,
        max_bad_rows=config.max_bad_rows,
        packed=True,
    )
    check_classes(dataset, config.label_column)
    parts = split(len(dataset), holdout=config.holdout, validation=config.validation, seed=config.split_seed)
    if len(parts.train) < 2:
        shares = f"--holdout {config.holdout:g} and --validation {config.validation:g}"
        raise InputError(f"{shares} leave only {len(parts.train)} of {len(dataset)} rows to train on")
    if dataset.texts is not None and _as_tokens(config):
        return _prepare_tokens(config, dataset, parts)
    codec = _bits_codec(config, dataset, parts)
    codes = dataset.bits if isinstance(dataset.bits, PackedRows) else codec.encode(dataset.rows)
    return Prepared(
        dataset=dataset,
        codec=codec,
        parts=parts,
        rows=codes.part(parts.train) if isinstance(codes, PackedRows) else codes[parts.train],
        train=codes[torch.as_tensor(parts.train[:LEARNING_ROWS])],
        validation=codes[torch.as_tensor(parts.validation[:JUDGING_ROWS])],
        heldout=codes[torch.as_tensor(parts.heldout[:JUDGING_ROWS])],
    )


def resolved(config: Config, prepared: Prepared) -> Config:
    """The configuration with every "auto" resolved.

    Raises:
        InputError: a GPU is asked for that cannot be used.
    """
    codec, generator = prepared.codec.name, config.generator
    if generator == "auto":
        generator = "tokens" if codec == "tokens" else "nade"
    chosen = device.chosen(config.device, config.processes)
    return dataclasses.replace(config, device=chosen, codec=codec, generator=generator)


def _as_tokens(config: Config) -> bool:
    """Whether texts become token ids: always, unless the options ask for rows of 0/1."""
    return config.codec == "tokens" or (config.codec == "auto" and config.generator in ("auto", "tokens"))


def _bits_codec(config: Config, dataset: Dataset, parts: Split) -> Codec:
    if dataset.texts is None:
        return BitsCodec(dataset.columns)
    return data.fit_presence(dataset, dataset.take(parts.train), config.words)


def _prepare_tokens(config: Config, dataset: Dataset, parts: Split) -> Prepared:
    names = sorted(set(dataset.classes or ()))
    try:
        codec = TokensCodec.fit(
            dataset.take(np.concatenate([parts.train, parts.validation])),
            kind=config.tokenizer,
            vocabulary=config.vocabulary,
            min_count=config.min_count,
            lowercase=config.lowercase,
            length=config.length,
            labels=names,
            label_column=config.label_column or LABEL_COLUMN,
        )
    except ValueError as problem:
        raise InputError(f"--min-count {config.min_count}: {problem}") from problem
    codes = codec.encode(dataset.rows)
    whole = (codes == END).any(1)
    train, validation = (torch.from_numpy(part)[whole[part]] for part in (parts.train, parts.validation))
    too_long = len(parts.train) + len(parts.validation) - len(train) - len(validation)
    validation = validation[:JUDGING_ROWS]
    if not len(parts.validation):
        raise InputError(f"--validation {config.validation:g}: that leaves no validation text")
    if not len(train) or not len(validation):
        raise InputError(f"all {'validation' if len(train) else 'training'} texts {_too_long(codec)}")
    labels = None
    if dataset.classes is not None:
        labels = torch.tensor([names.index(name) for name in dataset.classes])
        _check_learned(config, names, labels, parts, train, codec)
    learned = codes[train]
    return Prepared(
        dataset=dataset,
        codec=codec,
        parts=parts,
        rows=learned,  # the game is played on all of them
        train=learned,
        validation=codes[validation],
        heldout=codes[parts.heldout[:JUDGING_ROWS]],
        train_labels=None if labels is None else labels[train],
        validation_labels=None if labels is None else labels[validation],
        too_long=too_long,
    )


def _too_long(codec: TokensCodec) -> str:
    """What is wrong with texts that do not fit into the codec's rows, and what to do about it."""
    remedy = f"raise --length (at most {LONGEST}), or " if codec.length < LONGEST else ""
    return f"have more than {codec.length - 1} tokens: {remedy}cut the texts into sentences, say"


def _check_learned(
    config: Config, names: list[str], labels: Tensor, parts: Split, train: Tensor, codec: TokensCodec
) -> None:
    """Refuse classes that the generator would not learn.

    Args:
        names: the classes in the order of their numbers.
        labels: the number of each row's class, int64 (rows,).
        train: the numbers of those training rows that are not too long.

    Raises:
        InputError: a class has no such row.
    """
    present, learned = (
        {names[number] for number in labels[rows].unique()} for rows in (torch.from_numpy(parts.train), train)
    )
    option = f"--label-column {config.label_column}"
    if absent := [name for name in names if name not in present]:
        raise InputError(
            f"{option}: no training text is of class {some_names(absent)}, so that cannot be learned; remove the rows, "
            "or hold out fewer with --holdout and --validation"
        )
    if lacking := [name for name in names if name not in learned]:
        raise InputError(f"{option}: all training texts of class {some_names(lacking)} {_too_long(codec)}")
