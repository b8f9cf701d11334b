"""The warm start of texts: what it learns, and fits that resume where they stopped."""

import copy
import math

import pytest
import torch
from torch import Tensor

from tests.grammar import LENGTH, VOCABULARY, after, grammar, pointed, warm_start
from train import text_calibration, text_warmup
from train.codec import END
from train.generator import LabelledRows, draw_noise, generate
from train.text_counts import new_generator
from train.text_generator import TokenGenerator
from train.text_warmup import Rows, TextWarmStart


@pytest.mark.usefixtures("_eager")
def test_learns_what_the_ngrams_cannot() -> None:
    rows = pointed(grammar(300))
    fit = warm_start(rows)
    before = fit.model.ngrams
    assert before is not None
    assert not fit.run(600, after(500))
    torch.testing.assert_close(fit.best, 1.1, rtol=0, atol=0.4)  # log 3 nats: only the start is uncertain
    fit.model.load_state_dict(fit.best_weights)
    drawn = generate(fit.generator, draw_noise(fit.generator, 200, seed=1))
    known = {tuple(row) for row in rows.tolist()}
    assert sum(tuple(row) in known for row in drawn.tolist()) > 180


@pytest.mark.parametrize("name", ["DROPOUT", "WORD_DROPOUT"])
def test_a_warm_start_learns_from_less_than_all_that_the_rows_say(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    disturbed = warm_start()
    disturbed.run(600, after(1))
    monkeypatch.setattr(text_warmup, name, 0.0)
    plain = warm_start()
    plain.run(600, after(1))
    assert not torch.equal(disturbed.model.gru.weight_hh_l0, plain.model.gru.weight_hh_l0)


def test_without_time_a_warm_start_ends_as_it_began_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    fit = warm_start()
    began = copy.deepcopy(fit.model.state_dict())
    with caplog.at_level("WARNING", "lookalike"):
        assert fit.run(0, lambda: False)
        assert "no time left to sharpen and calibrate" in caplog.text
        caplog.clear()
        without = warm_start()
        without.rounds = 0
        assert without.run(0, lambda: False)
        assert not caplog.text, "nothing was cut off"
    assert all(torch.equal(values, began[name]) for name, values in fit.model.state_dict().items())


@pytest.mark.usefixtures("_eager")
def test_labels_are_followed() -> None:
    rows = grammar(300)
    fit = warm_start(rows, rows[:, 0] - 3)
    fit.run(600, after(400))
    fit.model.load_state_dict(fit.best_weights)
    generator = fit.generator
    assert isinstance(generator, TokenGenerator)
    for label in range(3):
        only = generator.with_options(label=label)
        starts = generate(only, draw_noise(only, 100, seed=1))[:, 0]
        assert (starts == 3 + label).double().mean() > 0.55
    shares = (generate(generator, draw_noise(generator, 600, seed=1))[:, 0] == 3).double().mean()
    assert abs(shares - generator.shares[0]) < 0.1


def test_the_net_gives_words_of_the_class() -> None:
    torch.manual_seed(0)
    generator = TokenGenerator(LENGTH, VOCABULARY, VOCABULARY, 8, 16, labels=2, candidates=1).double().eval()
    model = generator.model
    assert model.label is not None
    assert model.label_output is not None
    torch.nn.init.zeros_(model.label.weight)  # the net's input tells nothing of the class
    model.label_output.weight.data[1] = 100 * model.embedding.weight[4]
    shares = []
    for label in (0, 1):
        only = generator.with_options(label=label)
        shares.append((generate(only, draw_noise(only, 200, seed=1)) == 4).double().mean())
    assert shares[1] > 2 * shares[0]
    given = LabelledRows(codes=torch.full((1, 1), 4).repeat(2, 1), labels=torch.tensor([0, 1]))
    rows = Rows.of(given, model)
    likelihood, _ = model(rows.codes, rows.known.double(), rows.masses.double(), rows.backoff.double(), rows.labels)
    assert likelihood[1] > likelihood[0] + 0.5


@pytest.mark.usefixtures("_eager")
def test_a_warm_start_ends_with_the_weights_under_which_validation_rows_are_likeliest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_warmup, "PATIENCE", 1)
    monkeypatch.setattr(text_warmup, "LEARNING_RATE", 0.1)  # so high that the loss soon rises
    fit = warm_start()
    fit.rounds = 0
    began = copy.deepcopy(fit.model.state_dict())
    last: dict[str, Tensor] = {}
    choose = fit._choose_weights
    monkeypatch.setattr(fit, "_choose_weights", lambda: [last.update(copy.deepcopy(fit.model.state_dict())), choose()])
    assert fit.run(math.inf, lambda: False)
    shipped = fit.model.state_dict()
    assert all(torch.equal(value, fit.best_weights[name]) for name, value in shipped.items())
    for other in (began, last):
        assert not torch.equal(shipped["gru.weight_hh_l0"], other["gru.weight_hh_l0"])
    assert fit.best == pytest.approx(text_warmup.mean_loss(fit.model, fit.validation))
    assert fit.best != pytest.approx(text_warmup.mean_loss(fit.model, fit.train))


def test_a_row_is_looked_up_in_the_counts_of_the_others() -> None:
    codes = torch.cat([torch.arange(3, 43).view(20, 2), torch.full((20, 1), END)], 1)  # no token is in two rows
    model = new_generator(codes, vocabulary=43, head=43, embedding=8, hidden=16, candidates=1).model
    for counted in (False, True):
        rows = Rows.of(LabelledRows(codes=codes), model, counted=counted)
        assert ((rows.known[:, 0] == 0) == counted).all()


def test_an_interrupted_warm_start_goes_on_bit_for_bit() -> None:
    whole = warm_start()
    whole.run(600, after(11))
    first = warm_start()
    assert not first.run(600, after(5))
    state = copy.deepcopy(first.state_dict())
    second = warm_start()
    torch.manual_seed(99)
    second.load_state_dict(state)
    second.run(600, after(6))
    assert second.step == whole.step == 11
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name]), name


@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize("classes", [False, True])
def test_between_two_checks_nobody_waits_for_the_gpu(classes: bool) -> None:
    rows = grammar(320)  # ten batches, and a check after them
    labels = rows[:, 0] - 3 if classes else None
    fit = warm_start(rows, labels=labels, device="cuda")
    asked = after(9)

    def interrupted() -> bool:
        going = not asked()
        # The first step may wait: it moves the order of the whole epoch to the GPU.
        torch.cuda.set_sync_debug_mode("error" if going else "default")
        return not going

    assert not fit.run(600, interrupted)
    assert fit.step == 9


def test_an_interrupted_calibration_goes_on_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_warmup, "LEARNING_RATE", 0.0)
    whole, first, second = (warm_start() for _ in range(3))
    assert whole.run(math.inf, lambda: False)
    assert not first.run(math.inf, after(whole.step + 2))
    assert first.calibrated == 2
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert second.run(math.inf, lambda: False)
    assert second.calibrated == whole.calibrated > 2
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name]), name
    assert not torch.equal(whole.model.bias, first.model.bias)


def test_a_warm_start_sharpens_the_net_once_and_leaves_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_warmup, "LEARNING_RATE", 0.0)  # so that training changes no weights
    fit = warm_start()
    began = {name: value.clone() for name, value in fit.model.named_parameters()}
    assert fit.run(math.inf, lambda: False)
    assert fit.calibrated == text_calibration.ROUNDS > 1
    for name, value in fit.model.named_parameters():
        if name.startswith("project."):
            torch.testing.assert_close(value, began[name] / text_calibration.TEMPERATURE)
        elif name != "bias":  # the bias is calibrated
            assert torch.equal(value, began[name]), name


def test_a_net_that_is_not_calibrated_is_not_sharpened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_warmup, "LEARNING_RATE", 0.0)
    fit = warm_start()
    fit.rounds = 0
    began = copy.deepcopy(fit.model.state_dict())
    assert fit.run(math.inf, lambda: False)
    assert fit.step > 0
    assert all(torch.equal(values, began[name]) for name, values in fit.model.state_dict().items())


def test_a_warm_start_in_a_hurry_is_calibrated_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_warmup, "PATIENCE", 1000)
    seconds = iter(range(10**9))  # a step takes a second
    monkeypatch.setattr(text_warmup.time, "monotonic", lambda: float(next(seconds)))
    fit = warm_start()
    assert fit.run(20.0, lambda: False)
    assert fit.step > 10
    assert fit.calibrated > 1
    assert fit.seconds < 25


def test_a_warm_start_learns_from_rows_as_if_they_had_not_been_counted() -> None:
    codes = torch.cat([torch.arange(3, 43).view(20, 2), torch.full((20, 1), END)], 1)  # no token is in two rows
    generator = new_generator(codes, vocabulary=43, head=43, embedding=8, hidden=16, candidates=4)
    fit = TextWarmStart(generator, LabelledRows(codes=codes), LabelledRows(codes=codes[:5]))
    assert (fit.train.known[:, 0] == 0).all()
    assert (fit.validation.known[:, 0] > 0).all()
