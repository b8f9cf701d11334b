"""The quality gate: limits on the numbers, read from a YAML file such as gate.yaml (texts: gate_text.yaml)."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from train.errors import InputError, did_you_mean
from train.moments import COMPARED
from train.ratios import FEWEST_COLUMNS

HERE = Path(__file__).parent
BUILT_IN = ("default", "none")  # names that are not files
RULE = re.compile(r"(<=|>=)\s*(\S+)")
JUDGES = ("c2st_auc", "c2st_conv_auc")


def _ratios(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}_{part}" for name in names for part in ("ratio", "distance", "floor"))


# What can be limited: all numbers that are measured, except the ends of their intervals.
SHARED = (
    *_ratios("correlation", "triple", "marginal", "row_sum"),
    "c2st_auc", "c2st_floor", "copy_excess", "copy_rate", "copy_floor", "distinct_ratio", "distinct_share",
    "distinct_floor", "soft_share", "constant_columns", "heldout_constant_columns", "utility", "utility_floor",
    "n", "columns", "synthetic_rows", "heldout_rows", "train_rows",
)  # fmt: skip
ROW_METRICS = (
    *SHARED, *_ratios("lag"), "near_copy_share", *(f"{name}_limit" for name in COMPARED),
    "violation_excess", "violation_rate", "violation_floor", "constraints",
)  # fmt: skip
TEXT_METRICS = (
    *SHARED, "c2st_conv_auc", "c2st_conv_floor", "label_distance", "label_distance_floor", "length_distance",
    "length_distance_floor", "frechet", "frechet_floor", "passage_excess", "passage_rate", "passage_floor",
    *(f"ngram_js_{k}{floor}" for k in (1, 2, 3, 4) for floor in ("", "_floor")),
    *(f"{each}_{k}{floor}" for each in ("bleu", "self_bleu") for k in (2, 3, 4, 5) for floor in ("", "_floor")),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One line of the file, such as `c2st_auc: <= 0.7`."""

    metric: str
    sign: str
    bound: float

    @property
    def of(self) -> str:
        """What the metric is about, such as "triple" of triple_ratio."""
        return self.metric.rpartition("_")[0]

    def holds(self, value: float) -> bool:
        return value <= self.bound if self.sign == "<=" else value >= self.bound


@dataclass(frozen=True, kw_only=True)
class Simple:
    """A model too simple to pass: if it does, the verdict says little.

    Attributes:
        scores: its numbers, judged by the same rows.
        name: what it is, in the plural.
        telling: the numbers whose upper limits it should miss.
        unless: the other possible reason if it misses none.
    """

    scores: Mapping[str, Any]
    name: str
    telling: tuple[str, ...]
    unless: str

    def passes(self, limit: Limit) -> bool:
        return _judge(limit, self.scores)[0]

    def should_miss(self, limit: Limit) -> bool:
        return limit.metric in self.telling and limit.sign == "<="


def independent_columns(scores: Mapping[str, Any]) -> Simple:
    """Columns that are drawn independently, each as often 1 as in the rows that were learned from."""
    return Simple(
        scores=scores,
        name="independent columns",
        telling=(*(f"{name}_{part}" for name in FEWEST_COLUMNS for part in ("ratio", "limit")), "c2st_auc"),
        unless="the columns do not depend on each other",
    )


def trigram_counts(scores: Mapping[str, Any]) -> Simple:
    """Texts drawn from the trigram counts of the texts that were learned from."""
    return Simple(scores=scores, name="trigram counts", telling=JUDGES, unless="the limits are wide enough for them")


def shuffled_texts(scores: Mapping[str, Any]) -> Simple:
    """Training texts with their words in random order."""
    return Simple(
        scores=scores, name="texts with shuffled words", telling=JUDGES, unless="the limits are wide enough for them"
    )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the gate says.

    Attributes:
        reasons: a sentence for each limit; one for both limits of a number that was not measured.
        missed: the sentences for limits that do not hold.
        easy: a model so simple that it should miss some limits, but misses none.
    """

    reasons: list[str]
    missed: list[str]
    easy: Simple | None = None

    @property
    def passed(self) -> bool | None:
        """Whether all limits hold; None where none were set."""
        return not self.missed if self.reasons else None

    @property
    def sentence(self) -> str:
        if self.passed is None:
            return "No quality gate was applied: check the numbers before you rely on what was generated."
        if self.passed:
            passed = "The quality gate passed: no limit is missed by more than chance explains."
            if self.easy is None:
                return passed
            return (
                f"{passed} But {self.easy.name} pass it, too, so this proves little: either {self.easy.unless}, or "
                "there is too little held-out data to see the difference."
            )
        return f"The quality gate failed: {'; '.join(self.missed)}."


def read(name: str, *, texts: bool | None = None) -> list[Limit]:
    """The limits in a file; for the name "default" those of gate_text.yaml or gate.yaml, none for "none".

    Args:
        texts: whether texts are judged as such, and not rows of 0/1; None if that is not known yet.

    Raises:
        InputError: the file cannot be read, or a line is not `metric: <= number` or `metric: >= number` with a metric
            that is measured; the message names the file and the problem.
    """
    if name == "none":
        return []
    path = HERE / ("gate_text.yaml" if texts else "gate.yaml") if name == "default" else Path(name)
    try:
        node = yaml.compose(path.read_text(), Loader=yaml.SafeLoader)
    except OSError as problem:
        raise InputError(f"--gate {path}: {problem.strerror}{did_you_mean(name, BUILT_IN)}") from problem
    except (UnicodeDecodeError, yaml.YAMLError) as problem:
        advice = 'a lower limit needs quotes: ">= 0.9"'  # to YAML a bare > begins a block of text
        raise InputError(f"--gate {path}: {problem} ({advice})") from problem
    if not isinstance(node, yaml.MappingNode) or not node.value:
        raise InputError(f"--gate {path}: must hold lines such as `c2st_auc: <= 0.7`")
    # Not a dict: a number may have a limit on either side.
    return [_limit(path, str(metric.value), str(rule.value), texts) for metric, rule in node.value]


def _limit(path: Path, metric: str, rule: str, texts: bool | None) -> Limit:
    match = RULE.fullmatch(rule.strip())
    try:
        bound = float(match[2]) if match else math.nan
    except ValueError:
        bound = math.nan
    if match is None or not math.isfinite(bound):
        raise InputError(f"--gate {path}: {metric}: {rule!r} is not `<= number` or `>= number`")
    measured = {True: TEXT_METRICS, False: ROW_METRICS, None: (*ROW_METRICS, *TEXT_METRICS)}[texts]
    if metric not in measured:
        of = {True: " for texts", False: " for rows of 0/1", None: ""}[texts]
        meant = did_you_mean(metric, measured)
        raise InputError(f"--gate {path}: {metric} is not measured{of}{meant}")
    return Limit(metric=metric, sign=match[1], bound=bound)


def check(limits: list[Limit], scores: Mapping[str, Any], simple: Simple | None = None) -> Verdict:
    """Check the scores against the limits.

    A score with a 95 % interval misses a limit only if even the better end of the interval does, so that fresh real
    rows, whose scores scatter too, pass. A number that was not measured fails, and so does one that too few rows give
    no interval: it proves nothing. Limits on correlations, triples or lags do not apply to rows with too few columns.

    Args:
        simple: a model that should not pass, where one was measured.
    """
    without_columns = {name for name in FEWEST_COLUMNS if f"{name}_ratio" not in scores}
    limits = [limit for limit in limits if limit.metric in scores or limit.of not in without_columns]
    judged = [_judge(limit, scores) for limit in limits]
    if simple is not None:
        for i, (limit, (holds, reason)) in enumerate(zip(limits, judged, strict=True)):
            if holds and simple.should_miss(limit) and simple.passes(limit):
                judged[i] = holds, f"{reason}; {simple.name} pass it, too"
    return Verdict(
        # Once each: a number that was not measured may have two limits.
        reasons=list(dict.fromkeys(reason for _, reason in judged)),
        missed=list(dict.fromkeys(reason for holds, reason in judged if not holds)),
        easy=simple if simple and all(map(simple.passes, limits)) else None,
    )


def _judge(limit: Limit, scores: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether a limit holds, and a sentence that says so."""
    asked = f"the gate asks for {limit.sign} {limit.bound:g}"
    value = scores.get(limit.metric)
    if not isinstance(value, int | float) or not math.isfinite(value):
        return False, f"{limit.metric} was not measured"
    low, high = (scores.get(f"{limit.metric}_{end}") for end in ("low", "high"))
    if low is None and f"{limit.metric}_low" in scores:
        return False, f"{limit.metric} is {value:.3g}, but too few rows were held out for an interval; {asked}"
    best = next(end for end in (low if limit.sign == "<=" else high, value) if end is not None)
    holds = limit.holds(best)
    interval = "" if low is None or high is None else f" ({low:.3g} to {high:.3g})"
    gap = "" if holds else f", missed by {abs(best - limit.bound):.3g}"
    return holds, f"{limit.metric} is {value:.3g}{interval}; {asked}{gap}"
