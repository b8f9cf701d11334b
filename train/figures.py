"""The pictures: drawn from the evidence, saved for MLflow as PNG, and put into the page as SVG."""

import contextlib
import io
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from train.bits import Array
from train.codec import words_of
from train.evidence import Evidence, Strings
from train.moments import Moments, correlations, pairs

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
# As by default, but unless the place is asked for, matplotlib warns where finding it took a second: on a busy machine.
LEGEND: Any = {"loc": "best", "frameon": False}
ALTERNATIVES = {  # text alternatives of the pictures
    "correlations": "Three heat maps: the correlations of real rows, those of synthetic rows, and their difference",
    "moments": "Two scatter plots: column means, and moments of three columns, synthetic against real",
    "ones": "A histogram: how many ones the rows have, real and of each contender",
    "lengths": "A histogram: how many words the texts have, real and of each contender",
    "temperatures": "A plot of BLEU against self-BLEU over temperatures, of each contender and of real texts",
    "training": "Curves over training: the losses, and the validation scores",
}
# Where the labels of each curve's points stand, or those of equal points would overlap: offset, alignment.
SIDES: Any = (((-5, 4), "right"), ((5, -11), "left"), ((5, 4), "left"))
BINS = 40  # of a histogram, roughly at most
NAMED_COLUMNS, NAME_LETTERS = 12, 16  # the most columns, and letters of a name, for which a heat map has room
FEW_POINTS = 30  # scatter plots with at most this many draw larger points
HEATMAP_COLUMNS = 128  # of longer rows, only the columns that vary most are shown


@contextlib.contextmanager
def _any_script() -> Iterator[None]:
    """Let matplotlib draw column names in any script without a warning for each letter that its font lacks.

    In the page the browser supplies the letters; the pictures for MLflow show boxes.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        yield


@_any_script()
def draw(evidence: Evidence, history: list[dict[str, float]]) -> dict[str, Figure]:
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
def save(pictures: dict[str, Figure], directory: Path) -> None:
    """Write every picture as DIRECTORY/name.png, black on white."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, figure in pictures.items():
        figure.savefig(directory / f"{name}.png", dpi=130, facecolor="white", transparent=False)


@_any_script()
def inline(name: str, figure: Figure) -> Markup:
    """The picture as SVG inside the page, in the page's own text colour."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", dpi=144, metadata={"Date": None})
    svg = buffer.getvalue()
    labelled = svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{ALTERNATIVES[name]}"', 1)
    return Markup(labelled.replace(INK, "currentColor"))


def _correlations(evidence: Evidence) -> Figure:
    """Real and synthetic correlations and their difference, blank where it is within twice the sampling error."""
    columns = most_varying(evidence.heldout)
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


def most_varying(codes: Array, most: int = HEATMAP_COLUMNS) -> Array:
    """Indices of the columns that are shown, in order: all, or if there are too many those whose values vary most."""
    if codes.shape[1] <= most:
        return np.arange(codes.shape[1])
    return np.sort(np.argsort(-codes.var(axis=0))[:most])


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
    left.legend(**LEGEND)
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
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))  # of equal rows there is one count
    ax.legend(**LEGEND)
    return figure


def _temperatures(evidence: Evidence) -> Figure:
    """Quality against diversity over temperatures, and where real texts are."""
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    ax = figure.subplots()
    *drawn, (_, (real,)) = evidence.curves.items()
    for color, (offset, side), (name, points) in zip(SERIES, SIDES, drawn, strict=False):
        ax.plot([p.self_bleu for p in points], [p.bleu for p in points], "o-", color=color, label=name, markersize=4)
        for point in points:
            place = (point.self_bleu, point.bleu)
            ax.annotate(f"{point.temperature:g}", place, offset, textcoords="offset points", ha=side, color=color)
    ax.plot(real.self_bleu, real.bleu, "*", color=INK, markersize=11, label="real texts")
    ax.set(xlabel="self-BLEU-3: more of the same to the right", ylabel="BLEU-3 against real texts")
    ax.legend(**LEGEND)
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
    axes[0].legend(**LEGEND)
    if validated:
        names = [name for name in validated[0] if name.startswith("validation_") and not name.endswith("_low")]
        names.sort(key="validation_score".__ne__)  # the deciding one first, as there may be more scores than colours
        for color, name in zip(SERIES, names, strict=False):
            values = [tick[name] for tick in validated]
            label = name.replace("_", " ")
            axes[1].plot([tick["seen"] for tick in validated], values, color=color, label=label, marker=mark)
        axes[1].set(xlabel="sequences seen", ylabel="validation", yscale="log")
        axes[1].yaxis.set(major_locator=MaxNLocator(5), major_formatter="{x:g}", minor_locator=NullLocator())
        axes[1].legend(**LEGEND)
    for each in axes:
        each.xaxis.set(major_locator=MaxNLocator(4), major_formatter="{x:,.0f}")
    return figure
