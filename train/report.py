"""The pictures and the HTML page: one file that needs no network, legible in light and dark mode and on paper."""

import contextlib
import dataclasses
import io
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib
import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from torch import Tensor

from train import NO_WORDS, SHOWN_SAFELY
from train.bits import Array, nearest
from train.codec import words_of
from train.evidence import FLOOR, Evidence, Strings
from train.gate import Verdict
from train.moments import Moments, correlations, pairs
from train.text_metrics import PASSAGE_WORDS

INK = "#010203"  # stands for the page's own text colour, which differs between light and dark
# Okabe and Ito's palette, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY)
STYLE: Any = {
    "svg.hashsalt": "lookalike",  # the same picture gives the same bytes
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.transparent": True,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}
NEIGHBOUR_ROWS = 8
BALANCE = {"textbook": 2 * math.log(2)}  # the discriminator's loss when it cannot tell; log 2 for other generators
TOO_STRONG = {
    "nade": "so the generator hardly learns from it any more. Raise --penalty, or lower --width.",
    "textbook": "so the generator hardly learns from it any more. The default preset holds it back with penalties.",
    "tokens": "so it has memorised the training texts, or the generator's texts are far from them. Validation texts "
    "decide how much weight its scores get.",
}
MORE_VARIETY = {
    "nade": "Raise --penalty or --flip.",
    "textbook": "Its discriminator sees no more than column means; the default preset's sees whole rows.",
    "tokens": "Sample at a higher temperature.",
}
MORE_DATA = "Use more data."
LESS_COPYING = {"nade": "Raise --flip, or use more data."}
COLLAPSED = 0.8  # distinct rows over those among real rows, below which rows count as collapsed
ALTERNATIVES = {  # text alternatives of the pictures
    "correlations": "Three heat maps: the correlations of real rows, those of synthetic rows, and their difference",
    "moments": "Two scatter plots: column means, and moments of three columns, synthetic against real",
    "ones": "A histogram: how many ones the rows have, real and of each contender",
    "lengths": "A histogram: how many words the texts have, real and of each contender",
    "temperatures": "A plot of BLEU against self-BLEU over temperatures, of each contender and of real texts",
    "training": "Curves over training: the losses, and the validation scores",
}
BINS = 40  # of a histogram, roughly at most
NAMED_COLUMNS, NAME_LETTERS = 12, 16  # the most columns, and letters of a name, for which a heat map has room
FEW_POINTS = 30  # scatter plots with at most this many draw larger points
HEATMAP_COLUMNS = 128  # of longer rows, only the columns that vary most are shown


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
        shown_columns=(min(len(evidence.columns), HEATMAP_COLUMNS), len(evidence.columns)),
        diagnosis=diagnosis(
            page.history,
            page.generator if evidence.texts is None else "tokens",
            evidence.scores[evidence.shipped],
        ),
        figures={name: _inline(name, figure) for name, figure in pictures.items()},
        neighbours=neighbours(evidence, page.decode, train_known=page.train_known),
        warnings=evidence.scores[evidence.shipped].get("warnings", []),
    )
    return html.translate(SHOWN_SAFELY | {ord(space): space for space in "\n\t"})  # HTML allows no control characters


@contextlib.contextmanager
def _any_script() -> Iterator[None]:
    """Let matplotlib draw column names in any script without a warning for each letter that its font lacks.

    In the page the browser supplies the letters; the pictures for MLflow show boxes.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        yield


@_any_script()
def figures(evidence: Evidence, history: list[dict[str, float]]) -> dict[str, Figure]:
    """The pictures by name; they go into the page and, as files, to MLflow."""
    with matplotlib.rc_context(STYLE):
        pictures = {
            "correlations": _correlations(evidence),
            "moments": _moments(evidence),
            "ones": _ones(evidence),
        }
        if evidence.texts is not None:
            pictures["lengths"] = _lengths(evidence.texts)
        if evidence.curves:
            pictures["temperatures"] = _temperatures(evidence)
        if history:
            pictures["training"] = _training(history)
        for figure in pictures.values():
            for _ in range(2):  # with long names, the first layout cuts off titles
                figure.draw_without_rendering()
            figure.set_layout_engine("none")  # keep this layout: computing it again takes as long as drawing
    return pictures


@_any_script()
def save_figures(pictures: dict[str, Figure], directory: Path) -> None:
    """Write every picture as DIRECTORY/name.png, black on white."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, figure in pictures.items():
        figure.savefig(directory / f"{name}.png", dpi=130, facecolor="white", transparent=False)


def diagnosis(
    history: list[dict[str, float]], generator: str = "nade", shipped: Mapping[str, Any] = MappingProxyType({})
) -> str:
    """What the loss curves say, in a sentence or two. Empty if nothing was trained.

    Compares the losses of the last tenth of training with the balance of the game, where the discriminator cannot tell
    (a loss of log 2, or 2 log 2 for the textbook's sum), and looks at the scores of what ships and at the validation
    scores of the ticks.

    Args:
        history: the lines of stats.jsonl.
        generator: which one was trained: "nade", "textbook" or "tokens".
        shipped: the scores of what ships.
    """
    if not history:
        return ""
    tail = history[-max(1, len(history) // 10) :]
    discriminator = float(np.mean([tick["discriminator_loss"] for tick in tail]))
    balance = BALANCE.get(generator, math.log(2))
    scores = [tick["validation_score"] for tick in history if "validation_score" in tick]
    last = history[-1]
    if discriminator < 0.1 * balance:
        return (
            f"Discriminator too strong: its loss fell to {discriminator:.3f} (balance: {balance:.2f}), "
            f"{TOO_STRONG[generator]}"
        )
    if shipped.get("constant_columns") or (shipped.get("distinct_ratio_high") or 1.0) < COLLAPSED:
        variety = f"what ships has {shipped.get('distinct_ratio') or 0.0:.0%} of the variety of real data"
        return f"Collapsed: {variety}{_constant(shipped, generator)}. {MORE_VARIETY[generator]}"
    if last.get("validation_distinct_ratio", 1.0) < COLLAPSED:
        return (
            f"Collapsing: at the last tick, rows repeated one another, with {last['validation_distinct_ratio']:.0%} as "
            f"many distinct rows as among real ones. {MORE_VARIETY[generator]}"
        )
    if last.get("validation_copy_excess_low", 0.0) > 0:
        return (
            f"Memorising: at the last tick, {last['validation_copy_excess']:.1%} more of the rows copied training rows "
            "than validation rows, which is more than chance explains. "
            f"{LESS_COPYING.get(generator, MORE_DATA)}"
        )
    if scores and scores[-1] > 1.5 * min(scores) + 0.05:
        return (
            f"Past its best: the validation score rose (lower is better) from {min(scores):.2f} to {scores[-1]:.2f} "
            "as training went on."
        )
    fooling = float(np.mean([tick["generator_loss"] for tick in tail]))
    return (
        f"Balanced: the losses ended at {fooling:.2f} (generator) and {discriminator:.2f} (discriminator) without "
        "either side winning. That says the game goes on, not how good the rows are: for that, see the table."
    )


def _constant(shipped: Mapping[str, Any], generator: str) -> str:
    number = shipped.get("constant_columns", 0)
    if not number:
        return ""
    what = (
        "common words are in none of its texts, or in all" if generator == "tokens" else "of its columns never change"
    )
    return f", and {number} {what}, unlike in real ones"


def neighbours(
    evidence: Evidence, decode: Callable[[Tensor], list[str] | None], *, train_known: bool = True
) -> list[dict[str, Any]]:
    """The first synthetic rows, each with its nearest training or validation row and the number of differing values.

    For texts, the distance is the share of the words of both that only one of them has.

    Args:
        train_known: whether the training rows are known; if not, the nearest of all real rows is shown.
    """
    if (texts := evidence.texts) is not None:
        others = texts.validation if train_known else texts.heldout
        return _text_neighbours(texts.contenders[evidence.shipped], [*texts.train, *others])
    synthetic = evidence.contenders[evidence.shipped][:NEIGHBOUR_ROWS]
    beside = evidence.validation if train_known else evidence.heldout
    known = evidence.train if beside is None else np.concatenate([evidence.train, beside])
    distances, indices, _ = nearest(synthetic, known)
    return [
        {
            "row": _shown(row, known[index], decode),
            "nearest": _shown(known[index], row, decode),
            "distance": int(distance),
        }
        for row, distance, index in zip(synthetic, distances, indices, strict=True)
    ]


def _text_neighbours(synthetic: list[str], real: list[str]) -> list[dict[str, Any]]:
    known = [Counter(words_of(text)) for text in real]
    found = []
    for text in synthetic[:NEIGHBOUR_ROWS]:
        words = Counter(words_of(text))
        distances = [_distance(words, other) for other in known]
        nearest = int(np.argmin(distances))
        found.append({"row": text, "nearest": real[nearest], "distance": f"{distances[nearest]:.2f}"})
    return found


def _distance(a: Counter[str], b: Counter[str]) -> float:
    """Bray and Curtis (1957). Without the division, the shortest texts would be nearest to nearly all others."""
    return ((a - b).total() + (b - a).total()) / max(1, a.total() + b.total())


def _shown(row: Array, other: Array, decode: Callable[[Tensor], list[str] | None]) -> Markup:
    """A row as text, or as bits with those in bold that differ from the other row."""
    texts = decode(torch.as_tensor(row[None]))
    if texts is not None:
        return Markup("{}").format(texts[0] or NO_WORDS)
    marks = (
        Markup("<b>{}</b>" if mine != theirs else "{}").format(int(mine))
        for mine, theirs in zip(row, other, strict=True)
    )
    return Markup("").join(marks)


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


# --- pictures --------------------------------------------------------------------------------------------------


def _correlations(evidence: Evidence) -> Figure:
    """Real and synthetic correlations and their difference, blank where it is within twice the sampling error."""
    columns = _most_varying(evidence.heldout)
    samples = [codes[:, columns] for codes in (evidence.heldout, evidence.contenders[evidence.shipped])]
    real, synthetic = map(_matrix, samples)
    errors = [_correlation_errors(matrix, codes) for matrix, codes in zip((real, synthetic), samples, strict=True)]
    noise = 2 * np.hypot(*errors) / math.sqrt(min(map(len, samples)))
    difference = np.where(np.abs(synthetic - real) > noise, synthetic - real, np.nan)
    off_diagonal = ~np.eye(len(columns), dtype=bool)
    strengths = np.abs(real[off_diagonal])  # a single column has none
    # A quantile, so that a few extreme pairs do not wash out the rest.
    limit = max(0.05, float(np.quantile(strengths, 0.99))) if len(strengths) else 0.05
    figure = Figure(figsize=(9.6, 3.3), layout="constrained")
    axes = figure.subplots(1, 3)
    titles = ("real (held-out)", "synthetic", "synthetic - real, beyond noise")
    for ax, matrix, title in zip(axes, (real, synthetic, difference), titles, strict=True):
        image = ax.imshow(
            np.where(off_diagonal, matrix, np.nan), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="none"
        )
        ax.set_title(title)
        ax.set_xticks([])
        ax.set_yticks([])
        if len(columns) <= NAMED_COLUMNS:
            names = [_shortened(evidence.columns[k]) for k in columns]
            ax.set_xticks(range(len(columns)), names, rotation=90, parse_math=False)
            ax.set_yticks(range(len(columns)), names if ax is axes[0] else [""] * len(columns), parse_math=False)
    figure.colorbar(image, ax=list(axes), shrink=0.8, label="correlation", extend="both")
    return figure


def _shortened(name: str) -> str:
    """A column's name with as many letters as there is room for."""
    line = " ".join(name.split())
    return line if len(line) <= NAME_LETTERS else line[: NAME_LETTERS - 1] + "…"


def _matrix(codes: Array) -> Array:
    """The correlation matrix (length, length) as defined by the metrics: 0 where a column is constant."""
    length = codes.shape[1]
    matrix = np.eye(length)
    first, second = pairs(length)
    matrix[first, second] = matrix[second, first] = correlations(Moments.of(codes))
    return matrix


def _correlation_errors(matrix: Array, codes: Array) -> Array:
    """Standard errors of 0/1 columns' correlations, times the root of the number of rows: (length, length).

    Bishop, Fienberg and Holland (1975), "Discrete multivariate analysis", chapter 11. The 1 - r^2 of normal columns is
    far too small where ones are rare in both columns.
    """
    p = codes.mean(axis=0).clip(1e-9, 1 - 1e-9)
    skewness = (1 - 2 * p) / np.sqrt(p * (1 - p))
    product, squares = np.outer(skewness, skewness), np.add.outer(skewness**2, skewness**2)
    variance = 1 - matrix**2 + matrix * (1 + matrix**2 / 2) * product - 0.75 * matrix**2 * squares
    return np.sqrt(variance.clip(min=0))


def _most_varying(codes: Array) -> Array:
    """Indices of the columns that a heatmap shows: all, or those whose values vary most."""
    if codes.shape[1] <= HEATMAP_COLUMNS:
        return np.arange(codes.shape[1])
    return np.sort(np.argsort(-codes.var(axis=0))[:HEATMAP_COLUMNS])


def _moments(evidence: Evidence) -> Figure:
    """Column means and triple moments, synthetic against held-out; points on the diagonal agree."""
    titles = ("column means", "triple moments")
    if evidence.texts is not None:
        titles = ("share of texts with a common word", "share of texts with three of them")
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for ax, moments, title in (
        (left, lambda codes: codes.mean(axis=0), titles[0]),
        (right, lambda codes: Moments.of(codes).triples / len(codes), titles[1]),
    ):
        real = moments(evidence.heldout)
        for color, (name, codes) in reversed(list(zip(SERIES, evidence.contenders.items(), strict=False))):
            size, alpha = (30, 1.0) if len(real) <= FEW_POINTS else (9, 0.6)
            ax.scatter(
                real, moments(codes), s=size, alpha=alpha, color=color, label=name, linewidths=0, rasterized=True
            )
        end = 1.05 * float(real.max(initial=0.01))  # fewer than three columns have no triples
        ax.plot([0, end], [0, end], color=INK, linewidth=0.8, alpha=0.5)
        ax.set(title=title, xlabel="real (held-out)", ylabel="synthetic")
    left.legend(frameon=False)
    return figure


def _ones(evidence: Evidence) -> Figure:
    """How many ones a row has: real against every contender."""
    rows = {"real (held-out)": evidence.heldout, **evidence.contenders}
    counts = {name: codes.sum(axis=1, dtype=np.int64) for name, codes in rows.items()}
    if evidence.texts is not None:
        return _histograms(counts, "common words in a text", "share of texts")
    return _histograms(counts, "ones in a row", "share of rows")


def _lengths(texts: Strings) -> Figure:
    """How many words a text has: real against every contender."""
    every = {"real (held-out)": texts.heldout, **texts.contenders}
    counts = {name: np.array([len(words_of(text)) for text in each]) for name, each in every.items()}
    return _histograms(counts, "words in a text", "share of texts")


def _histograms(counts: dict[str, Array], xlabel: str, ylabel: str) -> Figure:
    """How often each count occurs; if the range is wide, several counts share a step."""
    figure = Figure(figsize=(9.6, 2.8), layout="constrained")
    ax = figure.subplots()
    low, high = min(int(each.min()) for each in counts.values()), max(int(each.max()) for each in counts.values())
    step = max(1, math.ceil((high - low + 1) / BINS))
    edges = np.arange(low, high + step + 1, step) - 0.5
    for color, (name, each) in zip((INK, *SERIES), counts.items(), strict=False):
        shares = np.histogram(each, edges)[0] / len(each)
        width = 2 if color in (INK, BLUE) else 1.2
        ax.stairs(shares, edges, color=color, label=name, linewidth=width)
    ax.set(xlabel=xlabel, ylabel=ylabel if step == 1 else f"{ylabel}, {step} counts a step")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(frameon=False)
    return figure


def _temperatures(evidence: Evidence) -> Figure:
    """Quality against diversity over temperatures, and where real texts are."""
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    ax = figure.subplots()
    *drawn, (_, (real,)) = evidence.curves.items()
    for color, (name, points) in zip(SERIES, drawn, strict=False):
        ax.plot([p.self_bleu for p in points], [p.bleu for p in points], "o-", color=color, label=name, markersize=4)
        for point in points:
            ax.annotate(f"{point.temperature:g}", (point.self_bleu, point.bleu), (4, -9), textcoords="offset points")
    ax.plot(real.self_bleu, real.bleu, "*", color=INK, markersize=11, label="real texts")
    ax.set(xlabel="self-BLEU-3: more of the same to the right", ylabel="BLEU-3 against real texts")
    ax.legend(frameon=False)
    return figure


def _training(history: list[dict[str, float]]) -> Figure:
    """Losses, and the validation scores that choose the checkpoint."""
    validated = [tick for tick in history if "validation_score" in tick]
    figure = Figure(figsize=(9.6, 2.8), layout="constrained")
    axes = figure.subplots(1, 2 if validated else 1, squeeze=False)[0]
    seen = [tick["seen"] for tick in history]
    mark = "o" if len(history) == 1 else None  # a line of one point is invisible
    for color, name in ((BLUE, "generator_loss"), (ORANGE, "discriminator_loss")):
        axes[0].plot(seen, [tick[name] for tick in history], color=color, label=name.replace("_", " "), marker=mark)
    axes[0].set(xlabel="sequences seen", ylabel="loss")
    axes[0].legend(frameon=False)
    if validated:
        names = [name for name in validated[0] if name.startswith("validation_") and not name.endswith("_low")]
        names.sort(key="validation_score".__ne__)  # the deciding one first, as there may be more scores than colours
        for color, name in zip(SERIES, names, strict=False):
            values = [tick[name] for tick in validated]
            label = name.replace("_", " ")
            axes[1].plot([tick["seen"] for tick in validated], values, color=color, label=label, marker=mark)
        axes[1].set(xlabel="sequences seen", ylabel="validation", yscale="log")
        axes[1].yaxis.set(major_locator=MaxNLocator(5), major_formatter="{x:g}", minor_locator=NullLocator())
        axes[1].legend(frameon=False)
    for each in axes:
        each.xaxis.set(major_locator=MaxNLocator(4), major_formatter="{x:,.0f}")
    return figure


@_any_script()
def _inline(name: str, figure: Figure) -> Markup:
    """The picture as SVG inside the page, in the page's own text colour."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", dpi=144, metadata={"Date": None})
    svg = buffer.getvalue()
    labelled = svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{ALTERNATIVES[name]}"', 1)
    return Markup(labelled.replace(INK, "currentColor"))
