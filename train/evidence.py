"""Evidence: the GAN, its baselines and the floor, all judged by the same numbers on the same held-out rows."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from train import cpus, metrics, text_metrics
from train.bits import Array, Bits
from train.codec import words_of
from train.dataset import Dataset
from train.progress import Progress

Rows = TypeVar("Rows", bound=Sized)

FLOOR = "floor"  # fresh real rows: training rows in the place of synthetic ones
SYNTHETIC = "synthetic"
TEMPERATURES = (0.7, 0.85, 1.0, 1.15)
CURVE_TEXTS = 250  # drawn at each temperature, at most
# What the small table shows: metric, what is best, decimals.
SHOWN = {
    "correlation_ratio": ("1.00 = as good as a fresh real sample", 2),
    "triple_ratio": ("1.00 = as good as a fresh real sample", 2),
    "marginal_ratio": ("1.00 = as good as a fresh real sample", 2),
    "correlation_limit": ("with ten times as many rows; below 1.00 = closer than the training rows", 2),
    "triple_limit": ("with ten times as many rows; below 1.00 = closer than the training rows", 2),
    "marginal_limit": ("with ten times as many rows; below 1.00 = closer than the training rows", 2),
    "c2st_auc": ("0.50 = a classifier cannot tell them from real", 3),
    "c2st_conv_auc": ("0.50 = a classifier that reads word order cannot tell them from real", 3),
    "ngram_js_3": ("divergence of the 3-grams; the floor is best", 3),
    "length_distance": ("words to add or drop on average; the floor is best", 2),
    "bleu_3": ("against real texts; the floor is best", 3),
    "self_bleu_3": ("among themselves; the floor is best, above it is collapse", 3),
    "frechet": ("distance of sentence embeddings; the floor is best", 4),
    "copy_excess": ("0.00 = no more copies than by chance", 3),
    "violation_excess": ('0.00 = constraints such as "one of five" are violated no more often than by chance', 3),
    "passage_excess": ("0.00 = no more passages of eight words copied than by chance", 3),
    "label_distance": ("share of texts that would have to change their class; the floor is best", 3),
    "utility": ("AUC on real rows of a model that learned the label from these", 3),
}


@dataclass(frozen=True, kw_only=True)
class Strings:
    """One string for each row of `Evidence`, in the same order: its text, or its class if a contender has classes."""

    contenders: dict[str, list[str]]
    heldout: list[str]
    train: list[str]
    validation: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Point:
    """Quality and diversity of texts: mean BLEU-3 and leave-one-out self-BLEU-3.

    Attributes:
        temperature: at which they were drawn; None for real ones.
    """

    temperature: float | None
    bleu: float
    self_bleu: float


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was judged, and the numbers.

    Attributes:
        contenders: synthetic codes by contender, uint8 (rows, length); the one that ships comes first.
        heldout: the real rows that judge.
        train: the real rows that were learned from.
        columns: a label for each position.
        validation: further real rows that may have been learned from.
        scores: what `metrics.compare` returns for every contender, and the floor; for texts, what
            `text_metrics.compare_text` returns and, with classes, `label_scores`.
        texts: the texts themselves, where texts are judged; the codes then say which words they use.
        labels: their classes, where they have any.
        curves: quality and diversity over temperatures, by contender.
        shipped: the name of the contender that the verdict is about.
    """

    contenders: dict[str, Bits]
    heldout: Bits
    train: Bits
    columns: list[str]
    validation: Bits | None = None
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    texts: Strings | None = None
    labels: Strings | None = None
    curves: dict[str, list[Point]] = field(default_factory=dict)

    @property
    def shipped(self) -> str:
        return next(iter(self.contenders))

    def to_dict(self) -> dict[str, Any]:
        """The numbers as plain JSON, by contender."""
        curves = {name: [vars(point) for point in points] for name, points in self.curves.items()}
        return {"shipped": self.shipped, "scores": self.scores, **({"curves": curves} if curves else {})}


def judge(
    contenders: Mapping[str, Array],
    heldout: Bits,
    train: Bits,
    *,
    columns: list[str],
    validation: Bits | None = None,
    label: str | None = None,
    seed: int = 0,
) -> Evidence:
    """Score every contender, and fresh real rows as the floor, with the same judges and the same held-out rows.

    Args:
        validation: further rows that may have been learned from; copies of them count as copies, too.
        label: the column that a model would predict from the others, for `utility`.
    """
    predicted = None if label is None else columns.index(label)
    judged = dict[int, dict[str, Any]]()  # by the number of rows: contenders with as many have the same floors

    def score(codes: Array) -> dict[str, Any]:
        floor = judged.get(len(codes))
        found = metrics.compare(codes, heldout, train, validation=validation, seed=seed, label=predicted, floor=floor)
        judged.setdefault(len(codes), found)
        return found

    with Progress("judging", sum(map(len, contenders.values()))) as progress:
        scores = _each(contenders, score, progress)
    _warn_if_beaten(scores)
    scores[FLOOR] = _floor(next(iter(scores.values())))
    n = min(len(heldout), len(train))
    rounded = {name: _some_rows(codes, n, seed).round().astype(np.uint8) for name, codes in contenders.items()}
    return Evidence(
        contenders=rounded, heldout=heldout, train=train, columns=columns, validation=validation, scores=scores
    )


def _some_rows(codes: Array, n: int, seed: int) -> Array:
    """A random sample of the rows in their order, for display: a file may be sorted, so the first would not do."""
    return codes[np.sort(np.random.default_rng(seed).permutation(len(codes))[:n])]


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
    """`judge` for texts, word by word. Bits and columns are the presence of the held-out texts' commonest words.

    Args:
        validation: further texts that may have been learned from; copies of them count as copies, too.
        labels: the texts' classes, where they have any.
        embed: sentence embeddings, for the Frechet distance.

    Raises:
        ValueError: a set is empty.
    """
    words = {name: [words_of(text) for text in texts] for name, texts in contenders.items()}
    real, learned, beside = ([words_of(text) for text in texts] for texts in (heldout, train, validation))
    columns = text_metrics.commonest_tokens(real, text_metrics.PRESENCE_WORDS)
    n = min(len(real), len(learned), *map(len, words.values()))

    def score(made: list[list[str]]) -> dict[str, Any]:
        return text_metrics.compare_text(made, real, learned, validation=beside, seed=seed, embed=embed, floor=floor)

    with Progress("judging", n + sum(map(len, words.values()))) as progress:
        floor = text_metrics.text_floor(real, learned, n, seed=seed, embed=embed)
        progress.add(n)
        scores = _each(words, score, progress)
    if labels is not None:
        judges = (real, labels.heldout)
        fresh = text_metrics.label_scores((learned, labels.train), judges, n, seed=seed)
        for name, classes in labels.contenders.items():
            if strange := sorted(set(classes) - set(labels.heldout) - set(labels.train)):
                scores[name]["warnings"].append(f"classes that no real text has: {', '.join(strange[:5])}")
            scores[name] |= text_metrics.label_scores((words[name], classes), judges, n, seed=seed)
            scores[name] |= {f"{each}_floor": score for each, score in fresh.items()}
    _warn_if_beaten(scores)
    scores[FLOOR] = _floor(next(iter(scores.values())))
    return Evidence(
        contenders={name: text_metrics.presence(made, columns) for name, made in words.items()},
        heldout=text_metrics.presence(real, columns),
        train=text_metrics.presence(learned, columns),
        columns=columns,
        scores=scores,
        texts=Strings(contenders=dict(contenders), heldout=heldout, train=train, validation=list(validation)),
        labels=labels,
    )


def labels_of(
    contenders: Mapping[str, list[str] | None], heldout: Dataset, train: Dataset, validation: Dataset | None = None
) -> Strings | None:
    """The classes of synthetic and of real texts; None if the real ones have none."""
    if heldout.classes is None or train.classes is None:
        return None
    there = {name: classes for name, classes in contenders.items() if classes is not None}
    beside = [] if validation is None else validation.classes or []
    return Strings(contenders=there, heldout=heldout.classes, train=train.classes, validation=beside)


def with_classes(lines: list[str], classes: list[str] | None) -> list[str]:
    """Lines for display, each with its class before it if there are classes."""
    return lines if classes is None else [f"[{name}] {line}" for name, line in zip(classes, lines, strict=True)]


def _each(
    contenders: Mapping[str, Rows], score: Callable[[Rows], dict[str, Any]], progress: Progress
) -> dict[str, dict[str, Any]]:
    """The scores of each contender; with many long rows that takes minutes, so progress is shown.

    A contender with the rows of an earlier one, such as a start that ships unimproved, is not judged again.
    """
    scores = dict[str, dict[str, Any]]()
    for name, rows in contenders.items():
        twin = next((other for other in scores if _are_equal(contenders[other], rows)), None)
        scores[name] = score(rows) if twin is None else copy.deepcopy(scores[twin])
        progress.add(len(rows))
    return scores


def _are_equal(some: Any, others: Any) -> bool:
    return np.array_equal(some, others) if isinstance(some, np.ndarray) else bool(some == others)


def curves(
    draws: Mapping[str, Callable[[float, int], list[str]]], heldout: list[str], train: list[str]
) -> dict[str, list[Point]]:
    """Quality and diversity over `TEMPERATURES` by contender, and of training texts; at most `CURVE_TEXTS` texts each.

    Args:
        draws: for each contender, a function that takes a temperature and a number and draws that many texts.
    """
    n = min(CURVE_TEXTS, len(heldout), len(train))
    real = [words_of(text) for text in heldout[:n]]
    found = {name: list[Point]() for name in draws}
    with Progress("drawing at several temperatures", n * len(draws) * len(TEMPERATURES), unit="text") as progress:
        wanted = [(name, temperature) for name in draws for temperature in TEMPERATURES]
        drawn = cpus.in_threads(lambda asked: draws[asked[0]](asked[1], n), wanted)
        for (name, temperature), texts in zip(wanted, drawn, strict=True):
            found[name].append(_point(temperature, texts, real))
            progress.add(n)
    return {**found, FLOOR: [_point(None, train[:n], real)]}


def _point(temperature: float | None, texts: list[str], real: text_metrics.Texts) -> Point:
    made = [words_of(text) for text in texts]
    quality, diversity = (
        float(each[:, 1].mean()) for each in (text_metrics.bleu(made, real), text_metrics.self_bleu(made))
    )
    return Point(temperature=temperature, bleu=quality, self_bleu=diversity)


def _warn_if_beaten(scores: dict[str, dict[str, Any]]) -> None:
    """Add a warning to the first contender's if others are harder to tell from real rows by more than chance."""
    first, *others = scores
    for name in ("c2st_auc", "c2st_conv_auc"):
        lowest = scores[first].get(f"{name}_low")
        if lowest is None:
            continue
        high = {other: scores[other][f"{name}_high"] for other in others}
        better = [other for other in others if high[other] is not None and max(high[other], 0.5) < lowest]
        if better:
            shown = ", ".join(f"{other} ({scores[other][name]:.3f})" for other in better)
            warning = f"harder to tell from real ones than {first} ({name} {scores[first][name]:.3f}): {shown}"
            scores[first] = {**scores[first], "warnings": [warning, *scores[first]["warnings"]]}


def _floor(scores: Mapping[str, Any]) -> dict[str, Any]:
    """The scores that training rows would have in the place of synthetic ones."""
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
