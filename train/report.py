"""The report: an HTML page in one file that needs no network, legible in light and dark mode and on paper."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from torch import Tensor

from train import NO_WORDS, SHOWN_SAFELY
from train.bits import Array, nearest
from train.codec import words_of
from train.diagnosis import diagnose
from train.evidence import FLOOR, Evidence, Strings, with_classes
from train.figures import HEATMAP_COLUMNS, inline, most_varying
from train.gate import Verdict
from train.text_metrics import PASSAGE_WORDS

NEIGHBOUR_ROWS, NEIGHBOUR_COLUMNS = 8, 512  # of longer rows, only the columns that vary most are shown


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        ideal: the best value; None if that is the floor's.
        bad: the distance from it that counts as bad; from a quarter of it on a value is fair, from three quarters poor.
        side: which side of the ideal is worse: 1 above, -1 below, 0 both.
    """

    key: str
    label: str
    meaning: str
    _: KW_ONLY
    ideal: float | None = 1.0
    bad: float = 1.0
    side: int = 1
    decimals: int = 2


ROWS = (
    Row("correlation_ratio", "Correlations", "error of the correlation matrix, relative to the floor"),
    Row("triple_ratio", "Triples", "error of the moments of three columns together, relative to the floor"),
    Row("marginal_ratio", "Marginals", "error of the column means, relative to the floor"),
    *(
        Row(
            f"{key}_limit",
            f"{label}, many rows",
            "the same with ten times as many rows; below 1, closer than the training rows are",
        )
        for key, label in (("correlation", "Correlations"), ("triple", "Triples"), ("marginal", "Marginals"))
    ),
    Row("lag_ratio", "Lags", "error of the correlations along the row, relative to the floor"),
    Row("row_sum_ratio", "Ones in a row", "error of how many ones rows have, relative to the floor"),
    Row(
        "c2st_auc",
        "Judge's AUC",
        "how well a classifier tells it from real rows; 0.5 = not at all",
        ideal=0.5,
        bad=0.25,
        side=0,
        decimals=3,
    ),
    Row("distinct_ratio", "Variety", "distinct rows, relative to real rows", bad=0.3, side=-1),
    Row(
        "copy_excess",
        "Copies",
        "share of rows that repeat one seen in training, beyond what chance gives",
        ideal=0.0,
        bad=0.05,
        decimals=3,
    ),
    Row(
        "passage_excess",
        "Passages",
        f"share of texts with {PASSAGE_WORDS} consecutive words of one seen in training, beyond what chance gives",
        ideal=0.0,
        bad=0.05,
        decimals=3,
    ),
    Row(
        "violation_excess",
        "Violations",
        "share of rows that violate a constraint which all training rows satisfy, beyond that among held-out rows",
        ideal=0.0,
        bad=0.1,
        decimals=3,
    ),
    Row(
        "near_copy_share",
        "Near copies",
        "share closer to training than to held-out rows; 0.5 = chance",
        ideal=0.5,
        bad=0.25,
        decimals=3,
    ),
    Row(
        "utility",
        "Utility",
        "AUC on real rows of a model that learned the label from these",
        ideal=None,
        bad=0.1,
        side=-1,
        decimals=3,
    ),
    Row(
        "label_distance",
        "Classes",
        "share of texts that would have to change their class",
        ideal=None,
        bad=0.1,
        decimals=3,
    ),
    Row("frechet", "Fréchet", "distance of sentence embeddings", ideal=None, bad=0.1, decimals=3),
    Row(
        "c2st_conv_auc",
        "Reader's AUC",
        "how well a small convolutional net that reads the words tells it from real texts; 0.5 = not at all",
        ideal=0.5,
        bad=0.25,
        side=0,
        decimals=3,
    ),
    Row("length_distance", "Lengths", "how many words a text must gain or lose on average", ideal=None, bad=4.0),
    *(
        Row(
            f"ngram_js_{k}", f"{k}-grams", "divergence of their distributions, in bits", ideal=None, bad=0.1, decimals=3
        )
        for k in range(1, 5)
    ),
    *(
        Row(f"{key}_{k}", f"{label}-{k}", meaning, ideal=None, bad=0.1, side=0, decimals=3)
        for key, label, meaning in (
            ("bleu", "BLEU", "against real texts: above the floor means repetition"),
            ("self_bleu", "Self-BLEU", "among themselves: above the floor means collapse"),
        )
        for k in range(2, 6)
    ),
)


# Labels and meanings where texts are judged: each row then says which common words a text uses.
OF_TEXTS = {
    "correlation_ratio": ("Correlations", "error of how often common words occur together, relative to the floor"),
    "triple_ratio": ("Triples", "the same for three common words"),
    "marginal_ratio": ("Marginals", "error of how many texts use each common word, relative to the floor"),
    "row_sum_ratio": ("Common words", "error of how many of them texts use, relative to the floor"),
    "c2st_auc": ("Judge's AUC", "how well a classifier tells it from real texts; 0.5 = not at all"),
    "distinct_ratio": ("Variety", "distinct texts, relative to real texts"),
    "copy_excess": ("Copies", "share of texts that repeat one seen in training, beyond what chance gives"),
}


@dataclass(frozen=True, kw_only=True)
class Page:
    """Everything that the page shows besides the evidence.

    Attributes:
        title: what was judged.
        verdict: what the gate says.
        history: the lines of stats.jsonl; empty if nothing was trained.
        decode: the codec's decode.
        provenance: names and values of what a reader may want to trace.
        generator: which one was trained, as named by `Config.generator`; ignored for texts, which have only one.
        outcome: how training ended, and what of it ships; empty if nothing was trained.
        train_known: whether the training rows are known; if not, any real row may be shown as a neighbour.
    """

    title: str
    verdict: Verdict
    history: list[dict[str, float]]
    decode: Callable[[Tensor], list[str] | None]
    provenance: dict[str, str]
    generator: str = "nade"
    outcome: str = ""
    train_known: bool = True


def render(evidence: Evidence, page: Page, pictures: dict[str, Figure]) -> str:
    """The HTML page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    html = environment.get_template("report.html.j2").render(
        page=page,
        table=_table(evidence),
        contenders=[*evidence.contenders, FLOOR],
        counts=evidence.scores[evidence.shipped],
        texts=evidence.texts,
        # Rows that can be decoded are shown as texts, which are whole.
        shown_bits=NEIGHBOUR_COLUMNS if page.decode(torch.as_tensor(evidence.heldout[:1])) is None else math.inf,
        shown_columns=(min(len(evidence.columns), HEATMAP_COLUMNS), len(evidence.columns)),
        diagnosis=diagnose(
            page.history,
            page.generator if evidence.texts is None else "tokens",
            evidence.scores[evidence.shipped],
        ),
        figures={name: inline(name, figure) for name, figure in pictures.items()},
        neighbours=neighbours(evidence, page.decode, train_known=page.train_known),
        warnings=evidence.scores[evidence.shipped].get("warnings", []),
    )
    return html.translate(SHOWN_SAFELY | {ord(space): space for space in "\n\t"})  # HTML allows no control characters


def _table(evidence: Evidence) -> list[dict[str, Any]]:
    measured = evidence.scores[evidence.shipped]
    rows = ROWS if evidence.texts is None else [_of_texts(row) for row in ROWS]
    return [
        {"row": row, "cells": [_cell(evidence.scores, name, row) for name in (*evidence.contenders, FLOOR)]}
        for row in rows
        if row.key in measured
    ]


def _of_texts(row: Row) -> Row:
    label, meaning = OF_TEXTS.get(row.key, (row.label, row.meaning))
    return dataclasses.replace(row, label=label, meaning=meaning)


def _cell(measured: dict[str, dict[str, Any]], name: str, row: Row) -> dict[str, str]:
    scores = measured[name]
    value = scores.get(row.key)
    if value is None:
        return {"text": "-", "grade": "none", "interval": ""}
    ideal = measured[FLOOR][row.key] if row.ideal is None else row.ideal
    off = (value - ideal) / row.bad
    distance = abs(off) if row.side == 0 else row.side * off
    grade = "good" if distance <= 0.25 else "fair" if distance <= 0.75 else "poor"
    low, high = scores.get(f"{row.key}_low"), scores.get(f"{row.key}_high")
    interval = "" if low is None else f"{low:z.{row.decimals}f} to {high:z.{row.decimals}f}"
    return {"text": f"{value:z.{row.decimals}f}", "grade": grade, "interval": interval}


def neighbours(
    evidence: Evidence, decode: Callable[[Tensor], list[str] | None], *, train_known: bool = True
) -> list[dict[str, Any]]:
    """Some synthetic rows, each with its nearest training or validation row and the number of differing values.

    For texts, the distance is the share of the words of both that only one of them has.

    Args:
        train_known: whether the training rows are known; if not, the nearest of all real rows is shown.
    """
    if evidence.texts is not None:
        texts = _made_and_known(evidence.texts, evidence.shipped, train_known)
        if evidence.labels is None:
            return _text_neighbours(*texts)
        return _text_neighbours(*texts, _made_and_known(evidence.labels, evidence.shipped, train_known))
    synthetic = evidence.contenders[evidence.shipped][:NEIGHBOUR_ROWS]
    beside = evidence.validation if train_known else evidence.heldout
    known = evidence.train if beside is None else np.concatenate([evidence.train, beside])
    distances, indices, _ = nearest(synthetic, known)
    columns = most_varying(evidence.heldout, NEIGHBOUR_COLUMNS)
    return [
        {
            "row": _shown(row, known[index], columns, decode),
            "nearest": _shown(known[index], row, columns, decode),
            "distance": int(distance),
        }
        for row, distance, index in zip(synthetic, distances, indices, strict=True)
    ]


def _made_and_known(strings: Strings, shipped: str, train_known: bool) -> tuple[list[str], list[str]]:
    """Those of the synthetic texts, and of the real ones among which the nearest are sought."""
    others = strings.validation if train_known else strings.heldout
    return strings.contenders[shipped], [*strings.train, *others]


def _text_neighbours(
    synthetic: list[str], real: list[str], classes: tuple[list[str] | None, list[str] | None] = (None, None)
) -> list[dict[str, Any]]:
    known = [Counter(words_of(text)) for text in real]
    made_lines, real_lines = with_classes(synthetic, classes[0]), with_classes(real, classes[1])
    found = []
    chosen = np.random.default_rng(0).permutation(len(synthetic))[:NEIGHBOUR_ROWS]  # a file may be sorted, by class say
    for row in np.sort(chosen):
        words = Counter(words_of(synthetic[row]))
        distances = [_distance(words, other) for other in known]
        nearest = int(np.argmin(distances))
        found.append({"row": made_lines[row], "nearest": real_lines[nearest], "distance": f"{distances[nearest]:.2f}"})
    return found


def _distance(a: Counter[str], b: Counter[str]) -> float:
    """Bray and Curtis (1957). Without the division, the shortest texts would be nearest to nearly all others."""
    return ((a - b).total() + (b - a).total()) / max(1, a.total() + b.total())


def _shown(row: Array, other: Array, columns: Array, decode: Callable[[Tensor], list[str] | None]) -> Markup:
    """A row as text, or the bits of these columns, with those in bold that differ from the other row."""
    texts = decode(torch.as_tensor(row[None]))
    if texts is not None:
        return Markup("{}").format(texts[0] or NO_WORDS)
    marks = (
        Markup("<b>{}</b>" if mine != theirs else "{}").format(int(mine))
        for mine, theirs in zip(row[columns], other[columns], strict=True)
    )
    return Markup("").join(marks)
