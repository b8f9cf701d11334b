"""Details that a small mistake would change unnoticed: draws, choices, interruptions, verdicts and grades."""

import math
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.train.test_details_rows import AskedError, ask
from tests.unit.train.test_text_game import REAL, ROWS, state  # noqa: F401
from tests.unit.train.test_text_generator import VOCABULARY, grammar
from tests.unit.train.test_warmup import CHAIN
from train import __main__ as commands
from train import baselines, builtin, evaluate, evidence, fit, report, rundir, text_game, warmup
from train.codec import END
from train.config import resolve
from train.generator import draw_noise, generate
from train.loop import Tick
from train.prepare import prepare, resolved
from train.text_game import TextState
from train.text_generator import Scorer, TokenGenerator
from train.text_warmup import new_generator
from train.warmup import WarmStart


def drawn_after(generator: TokenGenerator, first: int, second: int, temperature: float) -> torch.Tensor:
    """How often each token comes after two others, over an even grid of uniform numbers."""
    n, model = 20_000, generator.model
    steps = torch.tensor([1 / n, math.sqrt(2), math.sqrt(3)], dtype=torch.float64)
    uniform = (torch.arange(n, dtype=torch.float64)[:, None] + 0.5) * steps % 1
    hidden = torch.zeros(n, generator.hidden, dtype=torch.float64)
    before = torch.full((n,), first), torch.full((n,), second)
    drawn = model.draw(*before, None, hidden, uniform, temperature, 1)
    return drawn.bincount(minlength=generator.vocabulary) / n


def test_a_temperature_holds_for_the_net_and_for_the_ngrams_beside_it() -> None:
    torch.manual_seed(0)
    rows = torch.tensor([[3, 6, 4, 1, 0, 0]] * 90 + [[3, 7, 4, 1, 0, 0]] * 30)
    generator = new_generator(rows, vocabulary=VOCABULARY, embedding=8, hidden=16, candidates=1).double().eval()
    with torch.no_grad():
        generator.model.embedding.weight.mul_(10)  # so that the net has likes of its own
        alone = generator.model._logits(generator.model.project.bias[None], None, torch.zeros(1).double())[0]
        found = drawn_after(generator, 11, 11, 0.5)  # what the n-grams never saw
        torch.testing.assert_close(found, (alone / 0.5).softmax(0).float(), rtol=0, atol=1e-3)
        generator.model.gate.bias.fill_(-50.0)  # all that the n-grams can say is theirs
        usual, cold = (drawn_after(generator, END, 3, each) for each in (1.0, 0.1))
    assert 0.6 < usual[6] < 0.85
    assert cold[6] > 0.95


def test_which_rare_token_it_is_does_not_follow_from_what_made_it_a_rare_one() -> None:
    torch.manual_seed(0)
    rows = torch.tensor([[3, 4 + i % 3 if i % 4 else 8 + i // 4 % 4, 1, 0, 0, 0] for i in range(480)])
    generator = new_generator(rows, vocabulary=VOCABULARY, head=8, embedding=8, hidden=16, candidates=1)
    with torch.no_grad():
        found = drawn_after(generator.double().eval(), END, 3, 1.0)
    assert 0.2 < found[8:].sum() < 0.5
    torch.testing.assert_close(found[8:] / found[8:].sum(), torch.full((4,), 0.25), rtol=0, atol=0.02)


def test_what_the_scorer_drops_and_pads_is_not_scored() -> None:
    torch.manual_seed(0)
    scorer, rows = Scorer(VOCABULARY).eval(), grammar(3)
    torch.nn.init.normal_(scorer.weights)
    nothing = scorer(rows, kept=torch.zeros(3, scorer.features))
    torch.testing.assert_close(nothing, scorer._linear(rows) + scorer.output.bias)
    torch.testing.assert_close(scorer._linear(torch.nn.functional.pad(rows, (0, 9))), scorer._linear(rows))


def test_draws_are_those_of_the_language_model_alone(state: TextState) -> None:  # noqa: F811
    alone = state.generator.with_options(candidates=1)
    torch.nn.init.normal_(state.generator.scorer.weights)
    drawn = text_game.draw(state.generator, 50, seed=3)
    assert torch.equal(drawn.codes, generate(alone, draw_noise(alone, 50, seed=3)).long())


def test_each_pass_shows_other_rows(state: TextState, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(text_game, "PASS_ROWS", 30)
    taken: list[set[int]] = []
    take = type(REAL).take

    def spy(rows: Any, numbers: torch.Tensor) -> Any:
        if len(rows.codes) == len(ROWS) and len(numbers) == 30:
            taken.append(set(numbers.tolist()))
        return take(rows, numbers)

    monkeypatch.setattr(type(REAL), "take", spy)
    for seed in range(2):
        text_game.one_pass(state, REAL, seed, lambda: False)
    assert [len(each) for each in taken] == [30, 30]
    assert taken[0] != taken[1]


def test_the_minutes_of_all_passes_add_up(state: TextState, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    seconds = iter(range(10**9))  # a pass asks when it begins and when it ends
    monkeypatch.setattr(text_game.time, "monotonic", lambda: float(next(seconds)))
    config = resolve({"max_minutes": 0.05, "generator": "tokens"})
    reason = text_game.play(state, REAL, config, on_tick=lambda tick: tick.epoch == 9, interrupted=lambda: False)
    assert (reason, state.passes, state.seconds) == ("minutes", 3, 3.0)


def test_the_losses_are_those_of_each_side(state: TextState) -> None:  # noqa: F811
    with torch.no_grad():
        state.generator.scorer.output.bias.fill_(5.0)  # everything looks real
    losses = text_game.update(state, REAL.take(torch.arange(10)), (torch.arange(10) < 5).float())
    assert losses[0] > 1
    assert losses[1] < 0.2, "so the draws fool it"


def test_the_presence_of_words_is_judged_by_the_real_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"real": ("a film", "a plot"), "made": ("a film", "a film"), "seen": ("a story", "a plot")}
    for name, lines in texts.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(lines * 10))
    monkeypatch.setattr(evidence, "judge", ask)
    real, made, seen = (tmp_path / f"{name}.txt" for name in texts)
    with pytest.raises(AskedError) as caught:
        evaluate._judged_files(real, made, seen, column=None, codec="presence", words=2, max_bad_rows=0)
    (contenders, heldout, learned), _ = caught.value.args
    codec = evaluate.PresenceCodec(["film", "plot"])
    for found, path in ((contenders["synthetic"], made), (heldout, real), (learned, seen)):
        assert np.array_equal(found, codec.encode(path.read_text().splitlines()).numpy())


def test_copies_of_validation_rows_are_copies_too() -> None:
    heldout, train, validation = builtin.chain(120, length=16).reshape(3, 40, 16)
    for beside, share in ((None, 0.5), (validation, 1)):
        found = evidence.judge(
            {"GAN": np.concatenate([train[:20], validation[:20]])},
            heldout,
            train,
            columns=[*"abcdefghijklmnop"],
            validation=beside,
        )
        assert found.scores["GAN"]["copy_rate"] == pytest.approx(share, abs=0.2 if beside is None else 0)


def test_evaluate_says_so_when_independent_columns_pass_the_gate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = (np.random.default_rng(0).random((600, 5)) < 0.2).astype(np.uint8)
    told = []
    for name, rows in (("noise", noise), ("toy", builtin.toy(600))):
        np.save(tmp_path / f"{name}.npy", rows[:400])
        np.save(tmp_path / f"{name}-made.npy", rows[400:])
        (tmp_path / "gate.yaml").write_text("correlation_ratio: <= 1.5\nmarginal_ratio: <= 2.5\n")
        files = ["--real", f"{tmp_path}/{name}.npy", "--synthetic", f"{tmp_path}/{name}-made.npy"]
        assert commands.main(["evaluate", *files, "--gate", str(tmp_path / "gate.yaml")]) == 0
        told.append("independent columns pass it, too" in capsys.readouterr().out)
    assert told == [True, False]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interruption_ends_at_once(number: signal.Signals) -> None:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as `fit.fit` does
    try:
        with fit._interruptible() as interrupted:
            assert not interrupted()
            signal.raise_signal(number)
            assert interrupted()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
        assert signal.getsignal(signal.SIGTERM) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_patience_of_a_game_begins_anew_with_each_better_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolve({"data": "toy", "device": "cpu"})
    found = prepare(config)
    config = resolved(config, found)
    tracker: Any = None  # asked for nothing here
    job = fit._Job(rundir.create(tmp_path, "toy-bits", config.to_json()), config, found, tracker, None)
    job.kind.patience = 1000
    job.state = Any
    job.state.best_seen = 1500
    monkeypatch.setattr(job, "_validate", lambda: {"score": 0.5})
    monkeypatch.setattr(job, "_show", lambda *_: None)
    monkeypatch.setattr(job, "_checkpoint_is_due", lambda: False)

    def enough(seen: int) -> bool:
        losses = {"generator_loss": 1.0, "discriminator_loss": 1.0}
        return job._on_tick(
            Tick(seen=seen, epoch=1, seconds=1, sequences_per_second=1, losses=losses, last_losses=losses)
        )

    assert [enough(seen) for seen in (2000, 2499, 2500)] == [False, False, True]


def test_classes_are_chosen_by_rows_that_the_first_nets_have_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "STEPS", 30)
    monkeypatch.setattr(warmup, "CALIBRATION_ROWS", 100)
    shown: dict[str, list[torch.Tensor]] = {}

    def spied(name: str) -> Any:
        function = getattr(warmup, name)
        return lambda *given: [shown.update({name: given}), function(*given)][1]

    for name in ("choose_mixture", "better_classes", "calibrate"):
        monkeypatch.setattr(warmup, name, spied(name))
    phase = WarmStart(CHAIN[:200], hidden=4, folds=3)
    assert phase.run(math.inf, lambda: False)
    seen, unseen = phase._fold(0)
    assert torch.equal(shown["choose_mixture"][0], seen)
    assert torch.equal(shown["choose_mixture"][1], unseen)
    assert torch.equal(shown["better_classes"][2], unseen)
    generator, means, rows = shown["calibrate"]
    assert generator is phase.generator
    assert torch.equal(means, warmup.likely_means(CHAIN[:200].float()))
    assert rows == 200


@pytest.mark.parametrize(
    ("key", "grades"),
    [
        ("correlation_ratio", {0.5: "good", 1.2: "good", 1.5: "fair", 2.0: "poor"}),
        ("c2st_auc", {0.5: "good", 0.6: "fair", 0.9: "poor", 0.1: "poor"}),
        ("distinct_ratio", {1.2: "good", 0.98: "good", 0.85: "fair", 0.5: "poor"}),
        ("copy_excess", {-0.3: "good", 0.0: "good", 0.03: "fair", 0.2: "poor"}),
        ("utility", {0.9: "good", 0.8: "good", 0.75: "fair", 0.5: "poor"}),
        ("self_bleu_3", {0.8: "good", 0.85: "fair", 0.5: "poor", 1.0: "poor"}),
    ],
)
def test_a_value_is_graded_by_its_distance_from_the_ideal(key: str, grades: dict[float, str]) -> None:
    (row,) = (row for row in report.ROWS if row.key == key)
    for value, grade in grades.items():
        scores = {"GAN": {key: value}, evidence.FLOOR: {key: 0.8}}
        assert report._cell(scores, "GAN", row)["grade"] == grade, value


def test_the_nearest_training_text_stands_beside_a_text() -> None:
    train = ["a long story about nothing", "a fine film", "the plot"]
    (found,) = report._text_neighbours(["a very fine film"], train)
    assert found == {"row": "a very fine film", "nearest": "a fine film", "distance": 1}


def test_of_all_looks_and_of_all_nets_the_best_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.from_numpy(builtin.chain(300, length=8)).float()
    monkeypatch.setattr(baselines, "LEARNING_RATES", (0.3,))  # so that it soon gets worse
    made = baselines._untrained(rows)
    torch.manual_seed(0)
    loss, _ = baselines._train(made, rows[:200], rows[200:], (0.0, 0.0), math.inf)
    assert baselines._loss(made, rows[200:]) == pytest.approx(loss)
    nets: list[Any] = []
    losses = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(baselines, "_train", lambda net, *_: [nets.append(net), (next(losses), [0])][1])
    monkeypatch.setattr(baselines, "_train_again", lambda *_: False)  # there is no time for it
    assert baselines.fit_autoregressive(rows.to(torch.uint8), rows[:50].to(torch.uint8), 600, seed=0) is nets[1]
