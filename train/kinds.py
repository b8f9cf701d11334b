"""What differs between rows of 0/1 and texts: how they are warmed up, played, validated, finished and judged."""

import copy
import dataclasses
import logging
import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from train import (
    artifact,
    baselines,
    calibration,
    cpus,
    evidence,
    judges,
    loop,
    metrics,
    ratios,
    text_calibration,
    text_draws,
    text_game,
)
from train.codec import UNKNOWN, TokensCodec, class_names
from train.config import Config
from train.embeddings import embedder
from train.evidence import Evidence
from train.game import Ending, GameState, Tick
from train.generator import Generator, LabelledRows, TextbookGenerator, sample, sample_labelled
from train.nade import NadeGenerator
from train.ngram import fit_ngrams
from train.packed import PackedRows
from train.phase import ColdStart, Phase
from train.prepare import Prepared
from train.rules import RULES
from train.text_baseline import draw_trigrams, fit_rnn
from train.text_counts import new_generator
from train.text_game import TextState
from train.text_generator import TokenGenerator
from train.text_warmup import TextWarmStart
from train.warmup import WarmStart

log = logging.getLogger("lookalike")

PATIENCE_TICKS = 20  # the game on 0/1 rows stops after this many without a better validation score
PATIENCE_PASSES = 6  # the same for passes over texts
# How far a validation score must fall to count as better, since the best of many ticks beats the start by chance alone:
# for 0/1 rows in standard errors of the judge's AUC (where these are large, a refit gains more), for texts in nats, at
# least (see `text_gain`).
BITS_GAIN, TEXT_GAIN = 2.0, 0.005
VALIDATION_ROWS = 1000  # generated at each tick, at least: more than there are validation rows sharpen the judge
EVALUATION_SEED, VALIDATION_SEED = 0, 1  # a generator must not be judged by the noise by which it was chosen


class Kind(Protocol):
    """One kind of sequences, as a job trains and judges it.

    Attributes:
        patience: the game stops after this many sequences without a better validation score.
        gain: how far a validation score must fall to count as better.
        warm_share: the share of the training minutes that the warm start may take.
        game_share: the share of them that has passed when the game ends; the rest is for a refit.
    """

    patience: int
    gain: float
    warm_share: float
    game_share: float

    def warm_start(self) -> Phase:
        """The phase that makes the generator from which the game starts."""

    def refit(self) -> Phase | None:
        """The phase that makes such a start from training and validation rows; None if there is no refit.

        Its generator ships in the place of a start that the game has not improved.
        """

    def new_state(self, generator: Any) -> GameState:
        """The game at its beginning."""

    def play(self, state: Any, on_tick: Callable[[Tick], bool], interrupted: Callable[[], bool]) -> Ending:
        """Play the game; as `loop.train`."""

    def validate(self, generator: Any) -> dict[str, float]:
        """Scores on the validation rows; the generator with the smallest "score" ships. Empty without such rows."""

    def complete(self, generator: Any, warm: Any) -> None:
        """Make last changes to a trained generator and, alike, to its start, to show what the game alone has added.

        Validation rows have nothing more to decide, so both may learn from them.
        """

    def judge(self, generator: Any, warm: Any, seconds: float) -> Evidence:
        """Judge the generator by held-out rows, beside its own start and the baselines.

        Args:
            seconds: how long training took; baselines that learn may take as long.
        """


def of(config: Config, prepared: Prepared) -> Kind:
    """The kind of sequences that a job trains."""
    return TextKind(config, prepared) if isinstance(prepared.codec, TokensCodec) else BitsKind(config, prepared)


class BitsKind:
    """Rows of 0/1."""

    def __init__(self, config: Config, prepared: Prepared) -> None:
        self.config, self.prepared = config, prepared
        self.rows = _moved(prepared.rows, config.device)
        self.train = prepared.train.to(config.device)
        # A tick takes at least one step.
        tick = max(config.tick or len(self.rows), config.step_rows)
        self.patience = PATIENCE_TICKS * tick
        self.gain = BITS_GAIN * judges.auc_error(len(prepared.validation), _rows_at_a_tick(prepared.validation))
        self.rules = RULES[config.generator]
        self.refits = self.rules.warms_up and len(prepared.validation) > 1
        # A refit gets as much time as the warm start: with less, it would be worse than the start that it replaces.
        self.warm_share = config.warmup / 2 if self.refits else config.warmup
        self.game_share = 1 - self.warm_share if self.refits else 1.0

    def warm_start(self) -> Phase:
        if not self.rules.warms_up:
            return ColdStart(TextbookGenerator(self.train.shape[1]))
        return self._start(self.train)

    def refit(self) -> Phase | None:
        return self._start(self._known()) if self.refits else None

    def _start(self, rows: Tensor) -> WarmStart:
        return WarmStart(rows, hidden=self.config.hidden, folds=self.config.folds)

    def _known(self) -> Tensor:
        return torch.cat([self.train, self.prepared.validation.to(self.train)])

    def new_state(self, generator: Generator) -> loop.State:
        return loop.State.new(self.config, generator, torch.device(self.config.device))

    def play(self, state: loop.State, on_tick: Callable[[Tick], bool], interrupted: Callable[[], bool]) -> Ending:
        minutes = self.config.max_minutes
        until = dataclasses.replace(self.config, max_minutes=None if minutes is None else minutes * self.game_share)
        return loop.train(state, self.rows, until, on_tick=on_tick, interrupted=interrupted)

    def validate(self, generator: Generator) -> dict[str, float]:
        validation, train = self.prepared.validation, self.prepared.train
        if len(validation) < 2:  # the judge needs a row for each of its two folds
            return {}
        synthetic = sample(generator, _rows_at_a_tick(validation), VALIDATION_SEED)
        return metrics.quick_score(synthetic.numpy(), validation.numpy(), train.numpy())

    def complete(self, generator: Generator, warm: Generator) -> None:
        """Let draws keep the constraints of training and validation rows, and their column means."""
        if not (isinstance(generator, NadeGenerator) and isinstance(warm, NadeGenerator)):
            return
        log.info("calibrating on training and validation rows")
        known = self._known()
        means, ships_unimproved = calibration.likely_means(known), _have_equal_weights(generator, warm)
        for each in (generator,) if ships_unimproved else (generator, warm):
            calibration.keep_constraints(each, known)
            calibration.calibrate(each, means, len(known))
        if ships_unimproved:
            warm.load_state_dict(generator.state_dict())

    def judge(self, generator: Generator, warm: Generator, seconds: float) -> Evidence:
        config, prepared = self.config, self.prepared
        fitted: dict[str, Generator] = {"GAN": generator}
        if self.rules.warms_up:
            fitted["warm start"] = warm
        fitted = {name: artifact.for_serving(copy.deepcopy(each)) for name, each in fitted.items()}
        _announce_baselines(config)
        fitted |= baselines.fit(
            config.baselines,
            prepared.train,
            prepared.validation,
            seconds=seconds,
            seed=config.seed,
            device=config.device,
        )
        n = ratios.rows_to_judge(min(len(prepared.heldout), len(prepared.train)), generator.length)
        contenders = {
            name: sample_labelled(contender, n, EVALUATION_SEED, each=cpus.in_threads).codes.numpy()
            for name, contender in fitted.items()
        }
        _announce_judging(list(contenders), len(prepared.heldout))
        return evidence.judge(
            contenders,
            prepared.heldout.numpy(),
            # All rows that are in memory, since a copy of any of them counts; of packed ones, a sample.
            (prepared.train if isinstance(prepared.rows, PackedRows) else prepared.rows).numpy(),
            columns=prepared.codec.columns,
            validation=prepared.validation.numpy(),
            label=prepared.dataset.label,
            seed=EVALUATION_SEED,
        )


def _have_equal_weights(one: Generator, other: Generator) -> bool:
    others = other.state_dict()
    return all(torch.equal(weight, others[name]) for name, weight in one.state_dict().items())


def _rows_at_a_tick(validation: Tensor) -> int:
    """How many rows are drawn and judged at a tick."""
    return max(len(validation), VALIDATION_ROWS)


def text_gain(validation: int) -> float:
    """How far the score of this many validation texts must fall to count as better.

    The scale of the discriminator's scores is fitted to these texts. If the scores are noise, it still wins half a
    chi-squared variable with one degree of freedom over all texts (Wilks 1938), which is above 2 in less than 1 of 20.
    """
    return max(TEXT_GAIN, 2 / validation) if validation else math.inf


def _moved(rows: Tensor | PackedRows, device: str) -> Tensor | PackedRows:
    """The training rows on the nets' device, or where they were if they do not fit: then each batch is moved."""
    try:
        return rows.to(device)
    except torch.OutOfMemoryError:
        log.warning("the training rows do not fit into the GPU's memory, so each batch is copied to it")
        return rows


class TextKind:
    """Texts as token ids."""

    def __init__(self, config: Config, prepared: Prepared) -> None:
        assert isinstance(prepared.codec, TokensCodec)
        self.config, self.prepared, self.codec = config, prepared, prepared.codec
        self.patience = PATIENCE_PASSES * min(len(prepared.train), text_game.PASS_ROWS)
        self.gain = text_gain(len(prepared.validation))
        self.warm_share, self.game_share = config.warmup, 1.0
        # Tokens that training rows lack are UNKNOWN to the nets; their untrained embeddings would be noise.
        in_train = torch.zeros(len(self.codec.pieces), dtype=torch.bool)
        in_train[prepared.train.unique().long()] = True
        self.validation_codes = prepared.validation.masked_fill(~in_train[prepared.validation.long()], UNKNOWN)
        self.checked: tuple[LabelledRows, LabelledRows] | None = None

    def warm_start(self) -> Phase:
        prepared, config = self.prepared, self.config
        generator = new_generator(
            prepared.train,
            vocabulary=len(self.codec.pieces),
            head=config.head,
            hidden=config.text_hidden,
            labels=prepared.train_labels,
            classes=len(self.codec.labels),
            candidates=config.candidates,
        )
        return TextWarmStart(generator, *self._rows(), seed=config.seed, device=config.device)

    def refit(self) -> Phase | None:
        return None

    def new_state(self, generator: TokenGenerator) -> TextState:
        return TextState(generator.to(self.config.device))

    def play(self, state: TextState, on_tick: Callable[[Tick], bool], interrupted: Callable[[], bool]) -> Ending:
        rows = self._shown(state.generator, self.prepared.train, self.prepared.train, self.prepared.train_labels)
        return text_game.play(state, rows, self.config, on_tick=on_tick, interrupted=interrupted)

    def _shown(self, generator: TokenGenerator, codes: Tensor, given: Tensor, labels: Tensor | None) -> LabelledRows:
        """Real rows as the discriminator sees them, on the CPU: tokens that are never drawn are replaced by draws.

        The discriminator reads a rare word as UNKNOWN, real or drawn. A generator without rare words draws no UNKNOWN.

        Args:
            codes: token ids; tokens that the generator has not learned from are UNKNOWN.
            given: the same rows; only words without a token are UNKNOWN.
        """
        unknown = (codes if generator.model.rare is None else given) == UNKNOWN
        rows = LabelledRows(codes=codes, labels=labels).to(self.config.device)
        return text_draws.filled(generator, rows, unknown.to(self.config.device), text_game.CHECK_SEED).to("cpu")

    def validate(self, generator: TokenGenerator) -> dict[str, float]:
        """The score is 1 if choosing among candidates makes validation rows no likelier, 1/e if it wins one nat."""
        if len(self.validation_codes) == 0:
            return {}
        won, _ = text_game.nats_won(generator.scorer, *self._checked(generator))
        return {"score": math.exp(-won)}

    def complete(self, generator: TokenGenerator, warm: TokenGenerator) -> None:
        """Fit the scale of the scores to the validation texts, then count these into the n-grams."""
        if len(self.validation_codes):
            log.info("calibrating on training and validation texts")
            _, scale = text_game.nats_won(generator.scorer, *self._checked(generator))
            generator.scorer.rescale(scale)
            known = torch.cat([self.prepared.train, self.prepared.validation]).to(self.config.device)
            text_calibration.recount(generator, known)
            text_calibration.recount(warm, known, chosen=False)  # the start has no trained discriminator to choose by

    def judge(self, generator: TokenGenerator, warm: TokenGenerator, seconds: float) -> Evidence:
        prepared, dataset = self.prepared, self.prepared.dataset
        fitted = {"GAN": generator, "warm start": warm.with_options(candidates=1), **self._learned_baselines(seconds)}
        served = {name: artifact.for_serving(copy.deepcopy(each)) for name, each in fitted.items()}
        judges = prepared.parts.heldout[: len(prepared.heldout)]
        real = [dataset.part(part) for part in (judges, prepared.parts.train, prepared.parts.validation)]
        heldout, train, validation = (list(part.rows) for part in real)
        contenders, classes = self._contenders(served, min(len(heldout), len(train)))
        _announce_judging(list(contenders), len(judges))
        found = evidence.judge_texts(
            contenders,
            heldout,
            train,
            validation=validation,
            labels=evidence.labels_of(classes, *real),
            seed=EVALUATION_SEED,
            embed=embedder(),
        )
        draws = {name: self._drawer(each) for name, each in served.items()}
        return dataclasses.replace(found, curves=evidence.curves(draws, heldout, train))

    def _contenders(
        self, served: dict[str, Generator], n: int
    ) -> tuple[dict[str, list[str]], dict[str, list[str] | None]]:
        """`n` texts of every contender, and their classes as far as it has any; trigrams have none."""
        drawn = {
            name: sample_labelled(contender, n, EVALUATION_SEED, each=cpus.in_threads)
            for name, contender in served.items()
        }
        texts = {name: self.codec.decode(made.codes) for name, made in drawn.items()}
        if self.config.baselines != "none":
            known = torch.cat([self.prepared.train, self.prepared.validation])
            ngrams = fit_ngrams(known, len(self.codec.pieces))
            if len(ngrams.grams):  # there are none if each holds a word without a token
                texts["trigram"] = self.codec.decode(draw_trigrams(ngrams, n, self.codec.length, EVALUATION_SEED))
        return texts, {name: class_names(self.codec, made.labels) for name, made in drawn.items()}

    def _learned_baselines(self, seconds: float) -> dict[str, TokenGenerator]:
        """An RNN with as much time as the GAN had."""
        if self.config.baselines != "all":
            return {}
        _announce_baselines(self.config)
        rnn = fit_rnn(
            *self._rows(),
            vocabulary=len(self.codec.pieces),
            classes=len(self.codec.labels),
            seconds=seconds,
            seed=self.config.seed,
            device=self.config.device,
        )
        return {"RNN": rnn}

    def _drawer(self, generator: Generator) -> Callable[[float, int], list[str]]:
        return lambda temperature, n: self.codec.decode(
            sample(generator.with_options(temperature=temperature), n, EVALUATION_SEED)
        )

    def _rows(self) -> tuple[LabelledRows, LabelledRows]:
        """The training and the validation rows, as nets learn from them."""
        train = LabelledRows(codes=self.prepared.train, labels=self.prepared.train_labels)
        return train, LabelledRows(codes=self.validation_codes, labels=self.prepared.validation_labels)

    def _checked(self, generator: TokenGenerator) -> tuple[LabelledRows, LabelledRows]:
        """The validation rows, and draws of the language model; kept, since the game changes neither."""
        if self.checked is None:
            n = text_game.CHECKED_DRAWS * len(self.validation_codes)
            draws = text_draws.draw(generator, n, text_game.CHECK_SEED).to(self.config.device)
            given, labels = self.prepared.validation, self.prepared.validation_labels
            shown = self._shown(generator, self.validation_codes, given, labels)
            self.checked = shown.to(self.config.device), draws
        return self.checked


def _announce_baselines(config: Config) -> None:
    if config.baselines != "none":
        patience = ", which may take as long as training did" if config.baselines == "all" else ""
        log.info("fitting the baselines%s", patience)


def _announce_judging(names: list[str], rows: int) -> None:
    log.info("judging %s against %s held-out rows", ", ".join(names), f"{rows:,}")
