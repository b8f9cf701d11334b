"""What differs between kinds of sequences, as far as can be tested without a whole job."""

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.asked import asked
from train import (
    artifact,
    baselines,
    calibration,
    evidence,
    generator,
    judges,
    kinds,
    loop,
    metrics,
    text_calibration,
    text_game,
)
from train.codec import UNKNOWN, TokensCodec
from train.config import resolve
from train.generator import LabelledRows, sample_labelled
from train.nade import NadeGenerator
from train.prepare import Prepared, prepare, resolved
from train.text_counts import new_generator
from train.text_generator import TokenGenerator
from train.warmup import WarmStart


def bits_job(**given: Any) -> tuple[Prepared, kinds.BitsKind]:
    """The prepared rows of a small job, and its kind."""
    config = resolve({"data": "toy", "device": "cpu", **given})
    found = prepare(config)
    kind = kinds.of(resolved(config, found), found)
    assert isinstance(kind, kinds.BitsKind)
    return found, kind


def text_job(folder: Path, numbers: int = 9, **given: Any) -> tuple[Prepared, kinds.TextKind]:
    """The same for texts with `numbers` different numbers in them."""
    path = folder / "texts.txt"
    path.write_text("".join(f"a film with number{i % numbers} in it\n" for i in range(60)))
    options = {"data": str(path), "codec": "tokens", "device": "cpu", "baselines": "none", "text_hidden": 4, **given}
    found = prepare(config := resolve(options))
    kind = kinds.of(resolved(config, found), found)
    assert isinstance(kind, kinds.TextKind)
    return found, kind


def untrained() -> NadeGenerator:
    """A generator of the small job's rows."""
    return NadeGenerator(length=5, hidden=4, nets=1, classes=2)


def judged(kind: kinds.Kind, made: Any) -> None:
    kind.judge(made, made, 0.0)


@pytest.mark.parametrize("improved", [False, True])
def test_a_complete_generator_has_the_means_of_training_and_validation_rows(
    improved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, kind = bits_job()
    found = dataclasses.replace(found, validation=torch.ones_like(found.validation))
    made, warm = untrained(), untrained()
    made.load_state_dict(warm.state_dict())
    if improved:
        made.bias.data[0, -1] += 0.1
    calibrate, times = calibration.calibrate, []
    monkeypatch.setattr(calibration, "calibrate", lambda *given: (times.append(1), calibrate(*given)))
    kinds.of(kind.config, found).complete(made, warm)
    assert len(times) == (2 if improved else 1)
    wanted = torch.cat([found.train, found.validation]).float().mean(0)
    assert (wanted - found.train.float().mean(0)).abs().max() > 0.05
    for each in (made, warm):
        drawn = generator.sample(each.double(), 20_000, seed=1).float().mean(0)
        torch.testing.assert_close(drawn, wanted, atol=0.015, rtol=0)


@pytest.mark.parametrize(
    ("given", "tick"),
    [({}, 200_000), ({"tick": 1000}, 32 * 576), ({"preset": "textbook"}, 800)],
    ids=["default", "a tick shorter than a step", "an epoch a tick"],
)
def test_the_game_is_given_twenty_ticks_to_get_better(given: dict[str, Any], tick: int) -> None:
    _, kind = bits_job(**given)
    assert kind.patience == kinds.PATIENCE_TICKS * tick


def test_the_fewer_validation_rows_the_more_the_game_must_gain() -> None:
    assert judges.auc_error(134, 1000) == pytest.approx(0.0266, abs=1e-4)
    assert judges.auc_error(1000, 1000) == pytest.approx(0.0129, abs=1e-4)
    assert judges.auc_error(0, 1000) == math.inf
    found, kind = bits_job()
    error = judges.auc_error(len(found.validation), kinds.VALIDATION_ROWS)
    assert kind.gain == kinds.BITS_GAIN * error


@pytest.mark.parametrize("n", [20, 100, 300, 1270])
def test_a_scorer_of_noise_is_not_believed_however_few_the_validation_texts(
    monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(text_game, "scores_of", lambda _, codes, labels: torch.randn(len(codes)))
    sets = [LabelledRows(codes=torch.zeros(size, 1), labels=None) for size in (n, text_game.CHECKED_DRAWS * n)]
    scorer: Any = None
    scores = [math.exp(-text_game.nats_won(scorer, *sets)[0]) for _ in range(2000)]
    assert sum(score < 1 - kinds.text_gain(n) for score in scores) / len(scores) < 0.05


def test_many_validation_texts_must_not_gain_more_than_before(texts: tuple[kinds.TextKind, TokenGenerator]) -> None:
    kind, _ = texts
    assert kind.gain == 2 / len(kind.prepared.validation) > kinds.TEXT_GAIN
    assert kinds.text_gain(1270) == kinds.TEXT_GAIN
    assert kinds.text_gain(0) == math.inf


def test_a_refit_learns_from_validation_rows_too_in_the_time_that_the_others_leave() -> None:
    found, kind = bits_job(warmup=0.5)
    start, refit = kind.warm_start(), kind.refit()
    assert isinstance(start, WarmStart)
    assert isinstance(refit, WarmStart)
    assert torch.equal(start.rows, found.train.float())
    assert torch.equal(refit.rows, torch.cat([found.train, found.validation]).float())
    assert (kind.warm_share, kind.game_share) == (0.25, 0.75)


@pytest.mark.parametrize("given", [{"validation": 0.0}, {"preset": "textbook"}])
def test_without_a_choice_by_validation_rows_there_is_no_refit(given: dict[str, Any]) -> None:
    _, kind = bits_job(**given)
    assert kind.refit() is None
    assert (kind.warm_share, kind.game_share) == (kind.config.warmup, 1)


def test_words_of_validation_texts_alone_are_unknown_until_they_are_counted_in(tmp_path: Path) -> None:
    found, kind = text_job(tmp_path, numbers=60)
    assert isinstance(found.codec, TokensCodec)
    assert not (found.validation == UNKNOWN).any()
    assert ((kind.validation_codes == UNKNOWN).sum(1) == 1).all()
    sizes = {"vocabulary": len(found.codec.pieces), "head": 10, "embedding": 8, "hidden": 16}
    made = new_generator(found.train, **sizes, candidates=2)
    warm = copy.deepcopy(made)
    kind.complete(made, warm)
    only = set(found.validation.unique().tolist()) - set(found.train.unique().tolist())
    for each in (made, warm):
        drawn = generator.sample(each.with_options(candidates=1).double(), 500, seed=1)
        assert only & set(drawn.unique().tolist())


@pytest.fixture
def texts(tmp_path: Path) -> tuple[kinds.TextKind, TokenGenerator]:
    """A job on a few texts, and an untrained generator of them."""
    found, kind = text_job(tmp_path)
    torch.manual_seed(0)
    return kind, new_generator(
        found.train, vocabulary=len(kind.codec.pieces), head=10, embedding=8, hidden=16, candidates=2
    )


@pytest.mark.parametrize("head", [10, 100])
def test_the_discriminator_meets_no_unknown_word_that_cannot_be_drawn(
    texts: tuple[kinds.TextKind, TokenGenerator], head: int
) -> None:
    """It reads rare words as UNKNOWN, also in draws; without rare words, draws replace UNKNOWN in real rows."""
    kind, _ = texts
    kind.validation_codes[:, 2] = UNKNOWN  # words that the training rows lack
    torch.manual_seed(0)
    made = new_generator(
        kind.prepared.train, vocabulary=len(kind.codec.pieces), head=head, embedding=8, hidden=16, candidates=2
    )
    validation, draws = kind._checked(made)
    assert (made.model.rare is not None) == (head == 10)
    assert ((validation.codes == UNKNOWN).any() == (head == 10)).all()
    assert not (draws.codes == UNKNOWN).any()
    assert torch.equal(validation.codes[:, :2], kind.validation_codes[:, :2].long())


def test_the_score_of_texts_falls_with_the_nats_won(
    texts: tuple[kinds.TextKind, TokenGenerator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_game, "nats_won", lambda *_: (1.0, 1.0))
    kind, made = texts
    assert kind.validate(made) == {"score": pytest.approx(1 / math.e)}


def test_a_complete_generator_of_texts_has_its_scores_scaled(
    texts: tuple[kinds.TextKind, TokenGenerator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_game, "nats_won", lambda *_: (1.0, 0.5))
    kind, made = texts
    torch.nn.init.normal_(made.scorer.weights)
    codes = kind.validation_codes
    before = made.scorer(codes).detach()
    kind.complete(made, copy.deepcopy(made))
    torch.testing.assert_close(made.scorer(codes), before / 2)


def test_rows_are_judged_by_those_that_were_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "c2st", lambda *_: (0.5, 0.01))
    found, kind = bits_job(baselines="none")
    judged = kind.judge(untrained(), untrained(), 0.0)
    assert np.array_equal(judged.heldout, found.heldout.numpy())
    assert np.array_equal(judged.train, found.train.numpy())


def test_one_validation_row_decides_nothing() -> None:
    found, kind = bits_job()
    few = dataclasses.replace(found, validation=found.validation[:1])
    assert kinds.of(kind.config, few).validate(untrained()) == {}
    two = dataclasses.replace(found, validation=found.validation[:2])
    assert 0 <= kinds.of(kind.config, two).validate(untrained())["c2st_auc"] <= 1


def test_the_start_of_texts_is_judged_without_a_choice_that_nobody_has_learned(tmp_path: Path) -> None:
    found, kind = text_job(tmp_path)
    made = kind.warm_start().generator
    (contenders, *_), _ = asked(evidence, "judge_texts", lambda: kind.judge(made, made, 0.0))
    for name, each in (("GAN", made), ("warm start", made.with_options(candidates=1))):
        served = artifact.for_serving(copy.deepcopy(each))
        drawn = sample_labelled(served, len(found.heldout), kinds.EVALUATION_SEED).codes
        assert contenders[name] == kind.codec.decode(drawn), name


def test_a_job_on_bits_is_judged_by_all_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.prepare.LEARNING_ROWS", 300)
    found, kind = bits_job(label_column="x5")
    (_, heldout, learned), named = asked(evidence, "judge", lambda: kind.judge(untrained(), untrained(), 0.0))
    assert np.array_equal(heldout, found.heldout.numpy())
    assert len(learned) == 680 > len(found.train), "copies of any training row count"
    assert np.array_equal(learned, torch.as_tensor(found.rows).numpy())
    assert np.array_equal(named["validation"], found.validation.numpy())
    assert named["label"] == "x5"


def test_a_job_on_texts_is_judged_by_all_that_it_has(tmp_path: Path) -> None:
    found, kind = text_job(tmp_path)
    made = kind.warm_start().generator
    (_, heldout, learned), named = asked(evidence, "judge_texts", lambda: kind.judge(made, made, 0.0))
    assert [heldout, learned] == [found.dataset.take(part) for part in (found.parts.heldout, found.parts.train)]
    assert named["validation"] == found.dataset.take(found.parts.validation)


def test_what_ships_is_chosen_by_validation_rows_and_by_other_noise_than_judges_it() -> None:
    found, kind = bits_job()
    (_, validation, train), _ = asked(metrics, "quick_score", lambda: kind.validate(untrained()))
    assert np.array_equal(validation, found.validation.numpy())
    assert np.array_equal(train, found.train.numpy())
    assert kinds.VALIDATION_SEED != kinds.EVALUATION_SEED


def test_what_learns_of_bits_is_given_no_held_out_row() -> None:
    found, kind = bits_job()
    state: Any = None
    (_, rows, _), _ = asked(loop, "train", lambda: kind.play(state, lambda tick: False, lambda: False))
    assert torch.equal(rows, found.rows)
    (_, train, validation), _ = asked(baselines, "fit", lambda: kind.judge(untrained(), untrained(), 0.0))
    assert torch.equal(train, found.train)
    assert torch.equal(validation, found.validation)


def test_what_learns_of_texts_is_given_no_held_out_text(tmp_path: Path) -> None:
    found, kind = text_job(tmp_path, baselines="all")
    known = torch.cat([found.train, found.validation])
    made = kind.warm_start().generator
    for starts in (asked(kinds, "TextWarmStart", kind.warm_start), asked(kinds, "fit_rnn", lambda: judged(kind, made))):
        train, validation = (each for each in starts[0] if isinstance(each, LabelledRows))
        assert torch.equal(train.codes, found.train)
        assert torch.equal(validation.codes, kind.validation_codes)
    (counted, *_), _ = asked(kinds, "new_generator", kind.warm_start)
    assert torch.equal(counted, found.train)
    state = kind.new_state(made)
    (_, shown, _), _ = asked(text_game, "play", lambda: kind.play(state, lambda tick: False, lambda: False))
    assert torch.equal(shown.codes, found.train.long())
    (_, counted), _ = asked(text_calibration, "recount", lambda: kind.complete(made, made))
    assert torch.equal(counted, known)
    found, kind = text_job(tmp_path, baselines="fast")
    (counted, _), _ = asked(kinds, "fit_ngrams", lambda: judged(kind, made))
    assert torch.equal(counted, known)


def test_validation_texts_are_counted_in_as_each_generator_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ships chooses among candidates; its warm start has no trained scorer to choose by."""
    _, kind = text_job(tmp_path)
    made, warm = kind.warm_start().generator, kind.warm_start().generator
    recounted: list[tuple[TokenGenerator, bool]] = []

    def recount(generator: TokenGenerator, _: torch.Tensor, *, chosen: bool = True) -> None:
        recounted.append((generator, chosen))

    monkeypatch.setattr(text_calibration, "recount", recount)
    kind.complete(made, warm)
    assert [chosen for _, chosen in recounted] == [True, False]
    assert [generator for generator, _ in recounted] == [made, warm]


def test_the_game_leaves_the_refit_its_time() -> None:
    _, kind = bits_job(max_minutes=10.0, warmup=0.5)
    state: Any = None
    (_, _, config), _ = asked(loop, "train", lambda: kind.play(state, lambda tick: False, lambda: False))
    assert config.max_minutes == 7.5
