"""The warm start: classes, nets, joining, and resuming after an interruption."""

import io
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.drawn import coins, two_kinds
from train import builtin, calibration, generator, judges, mixture, net_fit, warmup
from train.mixture import Mixture
from train.nade import NadeGenerator
from train.warmup import WarmStart

CHAIN = torch.tensor(builtin.chain(1200, length=10))


def warm_start(rows: torch.Tensor, *, hidden: int, folds: int, seconds: float = math.inf) -> NadeGenerator:
    phase = WarmStart(rows, hidden=hidden, folds=folds)
    assert phase.run(seconds, lambda: False)
    return phase.generator


def saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    """The state as a checkpoint gives it back."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def test_there_are_no_more_folds_than_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net_fit, "STEPS", 30)
    assert warm_start(CHAIN[:5], hidden=4, folds=9).nets == 5


def independent_net(chances: list[list[float]]) -> NadeGenerator:
    """A net of equally common classes with independent bits within each."""
    means = torch.tensor(chances)
    classes = Mixture(prior=torch.ones(len(means)) / len(means), means=means)
    return net_fit.new_net(means.shape[1], classes, hidden=4).learned()


def test_likelihoods_are_summed_over_classes() -> None:
    rows = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    expected = torch.tensor([(0.9 * 0.8 + 0.1 * 0.3) / 2, (0.1 * 0.8 + 0.9 * 0.3) / 2]).log()
    torch.testing.assert_close(warmup.log_likelihoods(independent_net([[0.9, 0.8], [0.1, 0.3]]), rows), expected)


def test_many_classes_are_kept_unless_one_is_clearly_likelier() -> None:
    one, many = independent_net([[0.3] * 8]), independent_net([[0.2] * 8, [0.4] * 8])
    of_one, of_many = torch.full((8,), 0.3), torch.tensor([[0.2], [0.4]]).expand(2, 8)
    rows = torch.cat([coins(part, 1000, seed) for seed, part in enumerate(of_many)]).float()
    assert warmup.better_classes(one, many, rows, rows) == 1
    assert warmup.better_classes(one, one, rows, rows) == 1
    rows = coins(of_one, 2000).float()
    assert warmup.better_classes(one, many, rows, rows) == 0


@pytest.mark.parametrize(("more", "better"), [(0.0, 0), (1.9, 0), (2.1, 1)])
def test_many_classes_are_kept_where_their_draws_have_a_clearly_better_score(
    more: float, better: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, many = independent_net([[0.3] * 8]), independent_net([[0.2] * 8, [0.4] * 8])
    rows = coins(torch.full((8,), 0.3), 2000).float()
    error = judges.auc_error(2000, 2000)
    scores = iter([0.6, 0.6 - more * error])  # of one class and of many, whose rows are less likely
    monkeypatch.setattr(warmup.metrics, "quick_score", lambda *_: {"score": next(scores)})
    assert warmup.better_classes(one, many, rows[:500], rows) == better


@pytest.mark.parametrize(("more", "better"), [(0.0, 1), (0.02, 0)])  # 2.8 and 3.1 standard errors
def test_one_class_must_be_likelier_by_three_standard_errors(
    more: float, better: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, many = independent_net([[0.3]]), independent_net([[0.2], [0.4]])
    nats = {one: torch.zeros(4), many: -torch.tensor([0.0, 0.2, 0.4, 0.2]) - more}
    monkeypatch.setattr(warmup, "log_likelihoods", lambda net, rows: nats[net])
    rows = torch.tensor([[0.0], [1.0], [0.0], [1.0]])
    assert warmup.better_classes(one, many, rows, rows) == better


def test_a_fold_is_not_seen_by_its_nets() -> None:
    start = WarmStart(two_kinds(60), hidden=4, folds=3)
    start.rows[:, :6] = torch.tensor([[n >> bit & 1 for bit in range(6)] for n in range(60)])  # all rows differ
    for number in range(3):
        seen, unseen = ({tuple(row) for row in part.tolist()} for part in start._fold(number))
        assert len(seen) + len(unseen) == 60
        assert not seen & unseen


def test_a_warm_start_keeps_means_and_correlations() -> None:
    torch.manual_seed(0)
    made = warm_start(CHAIN, hidden=16, folds=2).double()
    rows = generator.sample(made, 20_000, seed=3).float()
    torch.testing.assert_close(rows.mean(0), CHAIN.float().mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(torch.corrcoef(rows.T), torch.corrcoef(CHAIN.float().T), atol=0.15, rtol=0)


def test_the_same_seed_gives_the_same_warm_start() -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(5)
        weights.append(warm_start(CHAIN[:200], hidden=4, folds=2).state_dict())
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())


@pytest.mark.parametrize(("length", "hidden"), [(10, 128), (512, 128), (1024, 64), (100_000, 1)])
def test_nets_of_long_rows_have_fewer_hidden_units(length: int, hidden: int) -> None:
    assert WarmStart(torch.zeros(2, length, dtype=torch.uint8), hidden=128, folds=2).hidden == hidden


@pytest.mark.parametrize("rows", [10, 25])
def test_tiny_and_degenerate_sets_end_in_a_sane_generator(rows: int) -> None:
    torch.manual_seed(0)
    data = CHAIN[:rows].clone()
    data[:, 3], data[:, 7] = 0, 1
    made = warm_start(data, hidden=8, folds=6).double()
    drawn = generator.sample(made, 2000, seed=0).float()
    assert drawn[:, 3].mean() < 0.1
    assert drawn[:, 7].mean() > 0.9


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net_fit, "STEPS", 60)
    monkeypatch.setattr(mixture, "EM_STEPS", 3)
    monkeypatch.setattr(calibration, "ROWS", 100)


def every(steps: int) -> Callable[[], bool]:
    """Interrupt after every `steps` steps."""
    asked = iter(range(1, 10**9))
    return lambda: next(asked) % steps == 0


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize("steps", [1, 7, 61])
def test_a_warm_start_interrupted_again_and_again_ends_in_the_same_weights(steps: int) -> None:
    torch.manual_seed(5)
    undisturbed = warm_start(CHAIN, hidden=4, folds=3)
    after = torch.rand(3)

    torch.manual_seed(5)
    phase = WarmStart(CHAIN, hidden=4, folds=3)
    sessions = 1
    while not phase.run(math.inf, every(steps)):
        saved = saved_and_loaded(phase.state_dict())
        torch.manual_seed(sessions)  # as in a new process
        phase = WarmStart(CHAIN, hidden=4, folds=3)
        phase.load_state_dict(saved)
        sessions += 1
    assert sessions > 240 // steps
    assert all(
        torch.equal(value, phase.generator.state_dict()[name]) for name, value in undisturbed.state_dict().items()
    )
    assert torch.equal(torch.rand(3), after)


@pytest.mark.usefixtures("_short")
def test_a_warm_start_that_is_given_minutes_when_it_has_fitted_more_nets_than_these_allow_ends_with_those(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    phase = WarmStart(CHAIN, hidden=4, folds=9)
    assert not phase.run(math.inf, lambda: len(phase.fitted) == 4)
    monkeypatch.setattr(warmup, "affordable_folds", lambda *_: 1)
    again = WarmStart(CHAIN, hidden=4, folds=9)
    again.load_state_dict(saved_and_loaded(phase.state_dict()))
    assert again.run(1.0, every(1000))
    assert again.generator.nets == 3  # the first fold has two of the four


@pytest.mark.parametrize(("step", "folds"), [(1.0, 1), (0.25, 3), (0.125, 7), (0.0625, 9)])
def test_there_are_as_many_folds_as_there_is_time_for(monkeypatch: pytest.MonkeyPatch, step: float, folds: int) -> None:
    """At `step` seconds per step, there is time for 1 / step nets of FEWEST_STEPS steps; the first fold has two."""
    times = iter([0.0, 100.0, 100.0 + step])  # the first step also warms up
    monkeypatch.setattr(warmup.time, "monotonic", lambda: next(times))
    assert warmup.affordable_folds(CHAIN[:200].float(), 4, 9, float(warmup.FEWEST_STEPS)) == folds


@pytest.mark.usefixtures("_short")
def test_a_finished_warm_start_comes_back_finished() -> None:
    phase = WarmStart(CHAIN[:200], hidden=4, folds=2)
    assert phase.run(math.inf, lambda: False)
    again = WarmStart(CHAIN[:200], hidden=4, folds=2)
    again.load_state_dict(saved_and_loaded(phase.state_dict()))
    assert again.run(math.inf, lambda: False)
    assert torch.equal(again.generator.bias, phase.generator.bias)


def test_the_seconds_of_all_sessions_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock advances a second with each reading, so time is up long before the last step."""
    monkeypatch.setattr(calibration, "ROWS", 100)
    ticks = iter(range(10**9))
    monkeypatch.setattr(warmup.time, "monotonic", lambda: float(next(ticks)))
    phase, seconds, sessions = WarmStart(CHAIN[:200], hidden=4, folds=2), 0.0, 0
    while not phase.run(600.0, every(20)):
        assert phase.seconds > seconds
        seconds, sessions = phase.seconds, sessions + 1
        again = WarmStart(CHAIN[:200], hidden=4, folds=2)
        again.load_state_dict(saved_and_loaded(phase.state_dict()))
        phase = again
    assert sessions > 3
    assert 500 < phase.seconds < 700


@pytest.mark.usefixtures("_short")
def test_progress_only_grows_and_ends_at_one() -> None:
    phase, shares = WarmStart(CHAIN[:200], hidden=4, folds=2), [0.0]
    while not phase.run(math.inf, lambda: True):
        shares.append(phase.progress)
    shares.append(phase.progress)
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_classes_are_chosen_by_rows_that_the_first_nets_have_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net_fit, "STEPS", 30)
    monkeypatch.setattr(calibration, "ROWS", 100)
    shown: dict[str, list[torch.Tensor]] = {}

    def spied(module: ModuleType, name: str) -> Any:
        function = getattr(module, name)
        return lambda *given: [shown.update({name: given}), function(*given)][1]

    for module, name in ((warmup, "choose_mixture"), (warmup, "better_classes"), (calibration, "calibrate")):
        monkeypatch.setattr(module, name, spied(module, name))
    phase = WarmStart(CHAIN[:200], hidden=4, folds=3)
    assert phase.run(math.inf, lambda: False)
    seen, unseen = phase._fold(0)
    assert torch.equal(shown["choose_mixture"][0], seen)
    assert torch.equal(shown["choose_mixture"][1], unseen)
    assert torch.equal(shown["better_classes"][2], seen)
    assert torch.equal(shown["better_classes"][3], unseen)
    generator, means, rows = shown["calibrate"]
    assert generator is phase.generator
    assert torch.equal(means, calibration.likely_means(CHAIN[:200].float()))
    assert rows == 200


def test_nets_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "ROWS", 100)
    monkeypatch.setattr(warmup, "affordable_folds", lambda *_: 2)
    seconds, descend, fit_mixture = [0.0], net_fit.descend, warmup.fit_mixture

    def take_a_second(*given: Any) -> None:
        seconds[0] += 1
        descend(*given)

    def take_three_seconds(*given: Any) -> Mixture:
        seconds[0] += 3
        return fit_mixture(*given)

    monkeypatch.setattr(warmup, "fit_mixture", take_three_seconds)
    monkeypatch.setattr(net_fit, "descend", take_a_second)
    monkeypatch.setattr(warmup.time, "monotonic", lambda: seconds[0])
    phase, steps = WarmStart(CHAIN[:200], hidden=4, folds=2), dict[int, int]()
    while not phase.run(90.0, lambda: True):
        if phase.fit is not None:
            steps[len(phase.fitted)] = phase.fit.steps
    assert [steps[net] for net in range(3)] == pytest.approx([27, 27, 27], abs=1)
    assert phase.seconds == pytest.approx(90, abs=1)
