"""Evidence: the GAN, its baselines and the floor, all judged by the same numbers on the same held-out rows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from train import data, metrics, text_metrics
from train.codec import BitsCodec, Codec, PresenceCodec, words_of
from train.config import InputError
from train.data import Dataset

Codes = npt.NDArray[np.uint8]

FLOOR = "floor"  # fresh real rows: training rows in the place of synthetic ones
SYNTHETIC = "synthetic"
# What the small table shows: metric, what is best, decimals.
SHOWN = {
    "correlation_ratio": ("1.00 = as good as fresh real rows", 2),
    "triple_ratio": ("1.00 = as good as fresh real rows", 2),
    "marginal_ratio": ("1.00 = as good as fresh real rows", 2),
    "c2st_auc": ("0.50 = a judge cannot tell", 3),
    "copy_excess": ("0.00 = no more copies than by chance", 3),
    "utility": ("AUC of a model that learns the label here and is tested on real rows", 3),
}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was judged, and the numbers.

    Attributes:
        contenders: synthetic codes by contender, uint8 (rows, length); the one to be judged comes first.
        heldout: the real rows that judge.
        train: the real rows that were learned from.
        columns: a label for each position.
        scores: `metrics.compare` of every contender and of the floor.
        shipped: the name of the contender that the verdict is about.
    """

    contenders: dict[str, Codes]
    heldout: Codes
    train: Codes
    columns: list[str]
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def shipped(self) -> str:
        return next(iter(self.contenders))

    def to_dict(self) -> dict[str, Any]:
        """The numbers as plain JSON, by contender."""
        return {"shipped": self.shipped, "scores": self.scores}


def judge(
    contenders: Mapping[str, npt.NDArray[Any]],
    heldout: Codes,
    train: Codes,
    *,
    columns: list[str],
    label: str | None = None,
    scores: Mapping[str, dict[str, Any]] | None = None,
    seed: int = 0,
) -> Evidence:
    """Score every contender, and fresh real rows as the floor, with the same judges and the same held-out rows.

    Args:
        label: the column that a model would predict from the others, for `utility`.
        scores: numbers that others have measured, by contender; `metrics.compare` where there are none.
    """
    predicted = None if label is None else columns.index(label)
    scores = dict(scores or {}) or {
        name: metrics.compare(codes, heldout, train, seed=seed, label=predicted) for name, codes in contenders.items()
    }
    scores[FLOOR] = _floor(next(iter(scores.values())))
    rounded = {name: codes.round().astype(np.uint8) for name, codes in contenders.items()}  # for pictures and rows
    return Evidence(contenders=rounded, heldout=heldout, train=train, columns=columns, scores=scores)


def _floor(scores: Mapping[str, Any]) -> dict[str, Any]:
    """What training rows would score in the place of synthetic ones."""
    ratios = {name: 1.0 for name in scores if name.endswith("_ratio") and name != "distinct_ratio"}
    others = {name: scores[f"{name}_floor"] for name in scores if f"{name}_floor" in scores}
    return {"n": scores["n"], **ratios, **others, "c2st_auc": scores["c2st_floor"]}


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
    return "-" if value is None else f"{value:.{decimals}f}"


def of_files(
    real: Path, synthetic: Path, train: Path | None, *, column: str | None, codec: str, words: int
) -> tuple[Evidence, Codec]:
    """Evidence for files of any origin, and the codec through which they were compared.

    Without the training rows, one half of the real rows takes their place: floor and copies are then those of a
    tool that learned from that half. Texts are also compared word by word (`text_metrics.compare_text`).

    Raises:
        InputError: a file cannot be read, or they do not hold the same kind of rows.
    """
    try:
        loaded = {"--real": data.load(str(real), column=column, codec=codec)}
        is_text = loaded["--real"].texts is not None
        if train is not None:
            loaded["--train"] = data.load(str(train), column=column, codec=codec)
        if is_text:
            loaded["--synthetic"] = data.load(str(synthetic), column=column, codec=codec)
        numbers = None if is_text else data.load_numbers(synthetic)
    except InputError as problem:
        # The readers speak of --data.
        raise InputError(str(problem).removeprefix("--data ")) from problem
    kind = _codec_for(loaded["--real"], words)
    codes = {option: _encoded(kind, option, dataset) for option, dataset in loaded.items()}
    if numbers is not None and numbers.shape[1] != len(kind.columns):
        raise InputError(f"--synthetic {synthetic}: {numbers.shape[1]} columns where {real} has {len(kind.columns)}")
    source, heldout, learned = "--train", _all_rows(loaded["--real"]), _all_rows(loaded.get("--train"))
    if train is None:
        parts = data.split(len(heldout), holdout=0.5, validation=0.0, seed=0)
        source, heldout, learned = "--real", parts.heldout, parts.train
    scores = None
    if is_text:
        made = loaded["--synthetic"]
        sets = [(made, _all_rows(made)), (loaded["--real"], heldout), (loaded[source], learned)]
        scores = {
            SYNTHETIC: text_metrics.compare_text(*([words_of(kept.rows[i]) for i in rows] for kept, rows in sets))
        }
    contenders = {SYNTHETIC: codes["--synthetic"] if numbers is None else numbers}
    found = judge(contenders, codes["--real"][heldout], codes[source][learned], columns=kind.columns, scores=scores)
    return found, kind


def _all_rows(dataset: Dataset | None) -> npt.NDArray[np.int64]:
    return np.arange(0 if dataset is None else len(dataset))


def _codec_for(dataset: Dataset, words: int) -> Codec:
    if dataset.texts is None:
        return BitsCodec(dataset.columns)
    try:
        return PresenceCodec.fit(dataset.texts, words)
    except ValueError as problem:
        raise InputError(f"--words {words}: {problem}") from problem


def _encoded(codec: Codec, option: str, dataset: Dataset) -> Codes:
    if (dataset.texts is None) != isinstance(codec, BitsCodec):
        raise InputError(f"{option} {dataset.source}: one file holds text, the other rows of 0 and 1")
    try:
        return codec.encode(dataset.rows).numpy()
    except ValueError as problem:
        raise InputError(f"{option} {dataset.source}: {problem}") from problem
