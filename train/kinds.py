"""What differs between rows of 0/1 and texts: how they are warmed up, validated, finished and judged."""

import copy
import logging
from typing import Protocol

from train import artifact, baselines, evidence, metrics, warmup
from train.config import Config
from train.evidence import Evidence
from train.generator import Generator, NadeGenerator, TextbookGenerator, sample
from train.phase import ColdStart, Phase
from train.prepare import Prepared
from train.warmup import WarmStart

log = logging.getLogger("lookalike")

VALIDATION_ROWS = 1000  # generated at each tick: more than there are validation rows sharpen the judge
EVALUATION_SEED = 0


class Kind(Protocol):
    """One kind of sequences, as a job trains and judges it."""

    def warm_start(self) -> Phase:
        """The phase that makes the generator from which the game starts."""

    def validate(self, generator: Generator) -> dict[str, float]:
        """Numbers of the generator against the validation rows; the smallest "score" ships. Empty without such rows."""

    def complete(self, generator: Generator) -> None:
        """Last changes to a generator that the game has improved."""

    def judge(self, generator: Generator, warm: Generator, seconds: float) -> Evidence:
        """Hold the generator against held-out rows, beside its own start and the baselines.

        Args:
            seconds: how long training took; baselines that learn may take as long.
        """


class BitsKind:
    """Rows of 0/1."""

    def __init__(self, config: Config, prepared: Prepared) -> None:
        self.config, self.prepared = config, prepared
        self.rows = prepared.train.to(config.device)

    def warm_start(self) -> Phase:
        if self.config.generator == "textbook":
            return ColdStart(TextbookGenerator(self.rows.shape[1]))
        return WarmStart(self.rows, hidden=self.config.hidden, folds=self.config.folds)

    def validate(self, generator: Generator) -> dict[str, float]:
        validation, train = self.prepared.validation, self.prepared.train
        if len(validation) == 0:
            return {}
        synthetic = sample(generator, max(len(validation), VALIDATION_ROWS), EVALUATION_SEED)
        return metrics.quick_score(synthetic.numpy(), validation.numpy(), train.numpy())

    def complete(self, generator: Generator) -> None:
        if isinstance(generator, NadeGenerator):
            warmup.calibrate(generator, self.rows.float().mean(0), len(self.rows))

    def judge(self, generator: Generator, warm: Generator, seconds: float) -> Evidence:
        config, prepared = self.config, self.prepared
        fitted = {"GAN": artifact.for_serving(copy.deepcopy(generator))}
        if config.generator != "textbook":
            fitted["warm start"] = warm
        announce_baselines(config)
        fitted |= baselines.fit(
            config.baselines, prepared.train, prepared.validation, seconds=seconds, seed=config.seed
        )
        n = min(len(prepared.heldout), len(prepared.train))
        contenders = {name: sample(each, n, EVALUATION_SEED).numpy() for name, each in fitted.items()}
        announce_judging(list(contenders), len(prepared.heldout))
        return evidence.judge(
            contenders,
            prepared.heldout.numpy(),
            prepared.train.numpy(),
            columns=prepared.codec.columns,
            label=prepared.dataset.label,
            seed=EVALUATION_SEED,
        )


def of(config: Config, prepared: Prepared) -> Kind:
    """The kind of sequences that a job trains."""
    return BitsKind(config, prepared)


def announce_baselines(config: Config) -> None:
    if config.baselines != "none":
        patience = ", which may take as long as training did" if config.baselines == "all" else ""
        log.info("fitting the baselines%s", patience)


def announce_judging(names: list[str], rows: int) -> None:
    log.info("judging %s by %s held-out rows", ", ".join(names), f"{rows:,}")
