"""Evidence: the GAN, its baselines and the floor, all judged by the same numbers on the same held-out rows."""

import math
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from train import data, metrics, text_metrics
from train.codec import BitsCodec, Codec, PresenceCodec, words_of
from train.config import InputError
from train.data import Dataset
from train.embeddings import embedder
from train.progress import Progress

Codes = npt.NDArray[np.uint8]
Rows = TypeVar("Rows", bound=Sized)

FLOOR = "floor"  # fresh real rows: training rows in the place of synthetic ones
SYNTHETIC = "synthetic"
TEMPERATURES = (0.7, 0.85, 1.0, 1.15)
CURVE_TEXTS = 250  # drawn at each
# What the small table shows: metric, what is best, decimals.
SHOWN = {
    "correlation_ratio": ("1.00 = as good as a fresh real sample", 2),
    "triple_ratio": ("1.00 = as good as a fresh real sample", 2),
    "marginal_ratio": ("1.00 = as good as a fresh real sample", 2),
    "c2st_auc": ("0.50 = a judge cannot tell", 3),
    "c2st_conv_auc": ("0.50 = a judge that reads word order cannot tell", 3),
    "ngram_js_3": ("divergence of the 3-grams; the floor is best", 3),
    "length_distance": ("words to add or drop on average; the floor is best", 2),
    "bleu_3": ("against real texts; the floor is best", 3),
    "self_bleu_3": ("among themselves; the floor is best, above it is collapse", 3),
    "frechet": ("distance of sentence embeddings; the floor is best", 4),
    "copy_excess": ("0.00 = no more copies than by chance", 3),
    "label_distance": ("share of texts that would have to be of another class; the floor is best", 3),
    "utility": ("AUC of a model that learns the label here and is tested on real rows", 3),
}


@dataclass(frozen=True, kw_only=True)
class Strings:
    """One string for each row of `Evidence`, in the same order: its text, or its class where a contender has any."""

    contenders: dict[str, list[str]]
    heldout: list[str]
    train: list[str]


@dataclass(frozen=True, kw_only=True)
class Point:
    """Quality and diversity of texts: mean BLEU-3 and leave-one-out self-BLEU-3.

    Attributes:
        temperature: at which they were drawn; None of real ones.
    """

    temperature: float | None
    bleu: float
    self_bleu: float


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was judged, and the numbers.

    Attributes:
        contenders: synthetic codes by contender, uint8 (rows, length); the one to be judged comes first.
        heldout: the real rows that judge.
        train: the real rows that were learned from.
        columns: a label for each position.
        scores: `metrics.compare` of every contender and of the floor; of texts `text_metrics.compare_text`
            and, of those with classes, `label_scores`.
        texts: what the codes are the presence of words in, where texts are judged.
        curves: quality and diversity over temperatures, by contender.
        shipped: the name of the contender that the verdict is about.
    """

    contenders: dict[str, Codes]
    heldout: Codes
    train: Codes
    columns: list[str]
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    texts: Strings | None = None
    curves: dict[str, list[Point]] = field(default_factory=dict)

    @property
    def shipped(self) -> str:
        return next(iter(self.contenders))

    def to_dict(self) -> dict[str, Any]:
        """The numbers as plain JSON, by contender."""
        curves = {name: [vars(point) for point in points] for name, points in self.curves.items()}
        return {"shipped": self.shipped, "scores": self.scores, **({"curves": curves} if curves else {})}


def judge(
    contenders: Mapping[str, npt.NDArray[Any]],
    heldout: Codes,
    train: Codes,
    *,
    columns: list[str],
    validation: Codes | None = None,
    label: str | None = None,
    seed: int = 0,
) -> Evidence:
    """Score every contender, and fresh real rows as the floor, with the same judges and the same held-out rows.

    Args:
        validation: rows that may have been learned from besides `train`; copies of them count as copies, too.
        label: the column that a model would predict from the others, for `utility`.
    """
    predicted = None if label is None else columns.index(label)

    def score(codes: npt.NDArray[Any]) -> dict[str, Any]:
        return metrics.compare(codes, heldout, train, validation=validation, seed=seed, label=predicted)

    scores = _each(contenders, score)
    scores[FLOOR] = _floor(next(iter(scores.values())))
    n = min(len(heldout), len(train))
    rounded = {name: _some_rows(codes, n, seed).round().astype(np.uint8) for name, codes in contenders.items()}
    return Evidence(contenders=rounded, heldout=heldout, train=train, columns=columns, scores=scores)


def _some_rows(codes: npt.NDArray[Any], n: int, seed: int) -> npt.NDArray[Any]:
    """For pictures and to be shown: random ones, in their order, since a file may be sorted."""
    return codes[np.sort(np.random.default_rng(seed).permutation(len(codes))[:n])]


def of_independent_columns(found: Evidence, seed: int = 0) -> dict[str, Any]:
    """What rows of 0/1 score whose columns are drawn one by one, as often 1 as in the training rows."""
    shape = min(len(found.heldout), len(found.train)), len(found.columns)
    rows = np.random.default_rng(seed).random(shape) < found.train.mean(axis=0)
    return metrics.compare(rows.astype(np.uint8), found.heldout, found.train, seed=seed)


def judge_texts(
    contenders: Mapping[str, list[str]],
    heldout: list[str],
    train: list[str],
    *,
    validation: Sequence[str] = (),
    labels: Strings | None = None,
    seed: int = 0,
    embed: text_metrics.Embed | None = None,
) -> Evidence:
    """The same for texts, word by word. Codes and columns are the presence of the held-out texts' commonest words.

    Args:
        validation: texts that may have been learned from besides `train`; copies of them count as copies, too.
        labels: the texts' classes, where they have any.
        embed: sentence embeddings, for the Frechet distance.

    Raises:
        ValueError: a set is empty.
    """
    words = {name: [words_of(text) for text in texts] for name, texts in contenders.items()}
    real, learned, beside = ([words_of(text) for text in texts] for texts in (heldout, train, validation))
    columns = text_metrics.commonest_tokens(real, text_metrics.PRESENCE_WORDS)
    n = min(len(real), len(learned), *map(len, words.values()))
    floor = text_metrics.text_floor(real, learned, n, seed=seed, embed=embed)

    def score(made: list[list[str]]) -> dict[str, Any]:
        return text_metrics.compare_text(made, real, learned, validation=beside, seed=seed, embed=embed, floor=floor)

    scores = _each(words, score)
    if labels is not None:
        judges = (real, labels.heldout)
        fresh = text_metrics.label_scores((learned, labels.train), judges, n, seed=seed)
        for name, classes in labels.contenders.items():
            if strange := sorted(set(classes) - set(labels.heldout) - set(labels.train)):
                scores[name]["warnings"].append(f"classes that no real text has: {', '.join(strange[:5])}")
            scores[name] |= text_metrics.label_scores((words[name], classes), judges, n, seed=seed)
            scores[name] |= {f"{each}_floor": score for each, score in fresh.items()}
    scores[FLOOR] = _floor(next(iter(scores.values())))
    return Evidence(
        contenders={name: text_metrics.presence(made, columns) for name, made in words.items()},
        heldout=text_metrics.presence(real, columns),
        train=text_metrics.presence(learned, columns),
        columns=columns,
        scores=scores,
        texts=Strings(contenders=dict(contenders), heldout=heldout, train=train),
    )


def labels_of(contenders: Mapping[str, list[str] | None], heldout: Dataset, train: Dataset) -> Strings | None:
    """The classes of made and of real texts; None where the real ones have none."""
    if heldout.classes is None or train.classes is None:
        return None
    there = {name: classes for name, classes in contenders.items() if classes is not None}
    return Strings(contenders=there, heldout=heldout.classes, train=train.classes)


def _each(contenders: Mapping[str, Rows], score: Callable[[Rows], dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The scores of each contender; of many long rows that takes minutes, so progress is shown."""
    scores = {}
    with Progress("judging", sum(map(len, contenders.values()))) as progress:
        for name, rows in contenders.items():
            scores[name] = score(rows)
            progress.add(len(rows))
    return scores


def curves(
    draws: Mapping[str, Callable[[float, int], list[str]]], heldout: list[str], train: list[str]
) -> dict[str, list[Point]]:
    """Quality and diversity over `TEMPERATURES`, of `CURVE_TEXTS` texts each, by contender; and of training texts.

    Args:
        draws: for each contender, what draws texts at a temperature, so many of them.
    """
    n = min(CURVE_TEXTS, len(heldout), len(train))
    real = [words_of(text) for text in heldout[:n]]
    found = {
        name: [_point(temperature, draw(temperature, n), real) for temperature in TEMPERATURES]
        for name, draw in draws.items()
    }
    return {**found, FLOOR: [_point(None, train[:n], real)]}


def _point(temperature: float | None, texts: list[str], real: text_metrics.Texts) -> Point:
    made = [words_of(text) for text in texts]
    quality, diversity = (
        float(each[:, 1].mean()) for each in (text_metrics.bleu(made, real), text_metrics.self_bleu(made))
    )
    return Point(temperature=temperature, bleu=quality, self_bleu=diversity)


def _floor(scores: Mapping[str, Any]) -> dict[str, Any]:
    """What training rows would score in the place of synthetic ones."""
    ratios = {name: 1.0 for name in scores if name.endswith("_ratio") and name != "distinct_ratio"}
    floors = {name: scores.get(f"{name.removesuffix('_auc')}_floor") for name in scores}
    return {"n": scores["n"], **ratios, **{name: value for name, value in floors.items() if value is not None}}


def numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers among the scores, for trackers and cards."""
    return {
        name: float(value) for name, value in scores.items() if isinstance(value, int | float) and math.isfinite(value)
    }


def table(evidence: Evidence) -> str:
    """The small table for terminals: one line a number, one column a contender."""
    names = list(evidence.scores)
    width = max(18, *(len(name) + 2 for name in names))
    lines = [" " * 20 + "".join(f"{name:>{width}}" for name in names)]
    for metric, (meaning, decimals) in SHOWN.items():
        if metric not in evidence.scores[evidence.shipped]:
            continue
        cells = [_cell(evidence.scores[name], metric, decimals) for name in names]
        lines.append(f"{metric:20}" + "".join(f"{cell:>{width}}" for cell in cells) + f"   {meaning}")
    return "\n".join(lines)


def _cell(scores: Mapping[str, Any], metric: str, decimals: int) -> str:
    value = scores.get(metric)
    return "-" if value is None else f"{value:z.{decimals}f}"


def of_files(
    real: Path,
    synthetic: Path,
    train: Path | None,
    *,
    column: str | None,
    label_column: str | None = None,
    codec: str,
    words: int,
    max_bad_rows: int,
) -> tuple[Evidence, Codec]:
    """Evidence for files of any origin, and the codec through which rows are shown.

    Without the training rows, one half of the real rows takes their place: floor and copies are then those of a tool
    that learned from that half, and near copies are left out. Columns are compared by name, or by place where a file
    names none. Texts are compared word by word, or, with the codec "presence", by which of the most telling words they
    use.

    Args:
        column: the column that holds the text; the synthetic file may have none of this name.
        label_column: the column that holds the texts' classes, or that a model would predict from the others.
        max_bad_rows: how many rows of a file may be skipped; a warning among the scores names them.

    Raises:
        InputError: a file cannot be read, or they do not hold the same kind of rows.
    """
    load = partial(data.load, codec=codec, max_bad_rows=max_bad_rows)
    try:
        given = load(str(real), column=column, label_column=label_column)
        data.check_classes(given, label_column)
        classes = None if given.texts is None else label_column
        learned = None if train is None else load(str(train), column=column, label_column=classes)
        made = None
        bad: tuple[str, ...] = ()
        if given.texts is not None:
            made = load(str(synthetic), column=_text_column(column, synthetic), label_column=classes)
        else:
            names, values, bad = data.load_values(synthetic, max_bad_rows)
    except InputError as problem:
        files = {"--real": real, "--synthetic": synthetic, "--train": train}
        raise InputError(_with_option(str(problem), files)) from problem
    for option, other in (("--train", learned), ("--synthetic", made)):
        if other is not None and (other.texts is None) != (given.texts is None):
            raise InputError(f"{option} {other.source}: one file holds text, the other rows of 0 and 1")
    if made is None:
        ordered = values[:, _places(given, names, f"--synthetic {synthetic}")]
        found, kind = _of_bits(given, ordered, learned)
    elif codec == "presence":
        found, kind = _of_presence(given, made, learned, words)
    else:
        found, kind = _of_texts(given, made, learned)
    skipped = [line for each in (given, learned, made) if each is not None for line in each.skipped]
    skipped += bad
    found.scores[SYNTHETIC]["warnings"] += [f"skipped: {line}" for line in skipped]
    if learned is None:
        _leave_out_near_copies(found.scores[SYNTHETIC])
    return found, kind


def _leave_out_near_copies(scores: dict[str, Any]) -> None:
    """A tool that has seen both halves of the real rows is as near to either, whatever it copied."""
    for end in ("", "_low", "_high"):
        scores.pop(f"near_copy_share{end}", None)
    scores["warnings"].append("without --train near copies cannot be told, and of exact ones about half are counted")


def _text_column(column: str | None, path: Path) -> str | None:
    """Where a file has no column of this name, the one that we write; another tool may have chosen any."""
    if column is None:
        return None
    names = data.columns_of(path)
    return next((name for name in (column, data.TEXT_COLUMN) if name in names), None)


def _with_option(message: str, files: Mapping[str, Path | None]) -> str:
    """A message of the readers, which speak of --data, with the option that named the file."""
    for option, path in files.items():
        if message.startswith((f"--data {path}:", f"--data {path}/")):
            return option + message.removeprefix("--data")
    return message


def _places(given: Dataset, names: Sequence[str], source: str) -> list[int]:
    """Where another file has the columns of the given one: by name, or in the same order where one has no names."""
    lacking = [name for name in given.columns if name not in names]
    others = [name for name in names if name not in given.columns]
    if not lacking and not others:
        return [names.index(name) for name in given.columns]
    if len(names) == len(given.columns) and data.column_names(len(names)) in (given.columns, tuple(names)):
        return list(range(len(names)))
    facts = [f"{len(names)} columns where {given.source} has {len(given.columns)}"]
    if len(names) == len(given.columns):
        facts = [f"other columns than {given.source}"]
    facts += [f"it lacks {data.some(lacking)}"] * bool(lacking) + [f"only it has {data.some(others)}"] * bool(others)
    raise InputError(f"{source}: {'; '.join(facts)}")


def _of_bits(given: Dataset, synthetic: npt.NDArray[Any], learned: Dataset | None) -> tuple[Evidence, Codec]:
    heldout, seen = (np.asarray(part.rows) for part in _real_parts(given, learned))
    if learned is not None:
        seen = seen[:, _places(given, learned.columns, f"--train {learned.source}")]
    found = judge({SYNTHETIC: synthetic}, heldout, seen, columns=list(given.columns), label=given.label)
    return found, BitsCodec(given.columns)


def _of_texts(given: Dataset, made: Dataset, learned: Dataset | None) -> tuple[Evidence, Codec]:
    """Word by word."""
    heldout, seen = _real_parts(given, learned)
    texts = [list(part.rows) for part in (heldout, seen)]
    labels = labels_of({SYNTHETIC: made.classes}, heldout, seen)
    found = judge_texts({SYNTHETIC: list(made.rows)}, *texts, labels=labels, embed=embedder())
    return found, PresenceCodec(found.columns)


def _of_presence(given: Dataset, made: Dataset, learned: Dataset | None, words: int) -> tuple[Evidence, Codec]:
    """By the presence of so many words."""
    heldout, seen = _real_parts(given, learned)
    codec = data.fit_presence(given, given.rows, words)
    synthetic, real, learned_from = (codec.encode(each.rows).numpy() for each in (made, heldout, seen))
    return judge({SYNTHETIC: synthetic}, real, learned_from, columns=codec.columns), codec


def _real_parts(given: Dataset, learned: Dataset | None) -> tuple[Dataset, Dataset]:
    """The rows that judge, and those that were learned from: halves of the given ones where there are no others."""
    if learned is not None:
        return given, learned
    parts = data.split(len(given), holdout=0.5, validation=0.0, seed=0)
    return given.part(parts.heldout), given.part(parts.train)
