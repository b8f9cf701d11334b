"""The warm start: classes, nets, joining and calibration, and resuming after an interruption."""

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.drawn import coins, two_kinds
from train import builtin, generator, judges, kinds, mixture, text_warmup, warmup
from train.constraints import satisfied_by
from train.game import NonFiniteError
from train.mixture import Choice, Mixture
from train.nade import NadeGenerator
from train.warmup import NetFit, WarmStart

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


def fitted(rows: torch.Tensor, hidden: int) -> NetFit:
    """A net of one class, fitted to five sixths of the rows."""
    seen, unseen = rows.float().tensor_split([len(rows) * 5 // 6])
    fit = NetFit(seen, unseen, mixture.fit_mixture(seen, Choice()), hidden)
    while (done := fit.done(math.inf)) < 1:
        fit.step(done)
    return fit


def test_a_likelihood_that_is_no_number_ends_the_warm_start() -> None:
    """No likelihood is greater than NaN, so the first weights would be kept as the best."""
    rows = two_kinds(60).float()
    fit = NetFit(rows[:50], rows[50:], mixture.fit_mixture(rows[:50], Choice()), 4)
    with torch.no_grad():
        fit.net.bias.fill_(float("nan"))
    for _ in range(warmup.CHECK_STEPS - 1):
        fit.step(0.0)
    with pytest.raises(NonFiniteError, match="NaN after 25 steps of the warm start"):
        fit.step(0.0)


def test_there_are_no_more_folds_than_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "STEPS", 30)
    assert warm_start(CHAIN[:5], hidden=4, folds=9).nets == 5


def test_a_net_starts_as_the_mixture_itself() -> None:
    torch.manual_seed(0)
    rows = two_kinds(1000)
    classes = mixture.fit_mixture(rows, Choice(classes=2))
    net, latent = warmup.new_net(12, classes, hidden=8), torch.arange(1000) % 2
    torch.testing.assert_close(net.logits(rows.float(), 0, latent).sigmoid(), classes.means[latent])
    assert torch.equal(net.prior, classes.prior[None])


def test_the_bound_of_a_net_approaches_the_entropy_of_the_chain() -> None:
    torch.manual_seed(0)
    fit = fitted(torch.tensor(builtin.chain(6000, length=10)), 16)
    independent = mixture.fit_mixture(fit.seen, Choice()).log_likelihoods(fit.unseen).mean()
    # In nats per row of ten bits. The stationary entropy rate of the process is about .55 nats per bit.
    assert independent < -6.5
    assert -5.9 < fit.best < -5.3


def test_what_chance_explains_is_not_learned() -> None:
    torch.manual_seed(0)
    fit = fitted((torch.rand(3000, 12) < 0.3).to(torch.uint8), 8)
    coins = fit.average
    coins.load_state_dict(fit.best_weights)
    pairs = torch.ones(12, 12).tril(-1).bool()
    assert (coins.direct[0][pairs] == 0).float().mean() > 0.8
    assert (coins.output == 0).float().mean() > 0.8
    assert coins.lags.abs().max() < 0.2


def test_what_chance_does_not_explain_is() -> None:
    torch.manual_seed(0)
    rows = (torch.rand(3000, 20) < 0.5).to(torch.uint8)
    rows[:, 15] = rows[:, 2] ^ (torch.rand(3000) < 0.2)  # outside the window of the most recent bits
    net, zeros, ones = fitted(rows, 8).best_net(), rows.float(), rows.float()
    zeros[:, 2], ones[:, 2] = 0, 1
    latent = torch.zeros(len(rows), dtype=torch.long)
    with torch.no_grad():
        effect = (net.logits(ones, 0, latent) - net.logits(zeros, 0, latent))[:, 15].mean()
    assert 2 < effect < 3  # the true effect is 2 log 4 = 2.77


def test_few_rows_tell_what_happens_at_every_position() -> None:
    """Each bit repeats the one twelve places before it, outside the window of the most recent bits."""
    torch.manual_seed(0)
    rows = (torch.rand(60, 60) < 0.5).to(torch.uint8)
    for t in range(12, 60):
        rows[:, t] = rows[:, t - 12] ^ (torch.rand(60) < 0.2)
    net = fitted(rows, 4).best_net()
    repeated = net.direct[0].diagonal(-12)
    assert 2 < repeated.mean() < 3.5  # the true effect is 2 log 4 = 2.77
    assert repeated.std() < 0.5


def test_a_net_that_has_learned_computes_what_it_did() -> None:
    torch.manual_seed(0)
    net = warmup.LearningNet(length=20, hidden=4, classes=2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
    rows, latent = (torch.rand(50, 20) < 0.5).float(), torch.arange(50) % 2
    learned = net.learned()
    assert type(learned) is NadeGenerator
    torch.testing.assert_close(learned.logits(rows, 0, latent), net.logits(rows, 0, latent))


def independent_net(chances: list[list[float]]) -> NadeGenerator:
    """A net of equally common classes with independent bits within each."""
    means = torch.tensor(chances)
    classes = Mixture(prior=torch.ones(len(means)) / len(means), means=means)
    return warmup.new_net(means.shape[1], classes, hidden=4).learned()


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


@pytest.mark.usefixtures("_gpu")
def test_between_two_checks_nobody_waits_for_the_gpu() -> None:
    rows = CHAIN.float().to("cuda")
    fit = NetFit(rows[:1000], rows[1000:], mixture.fit_mixture(rows, Choice(classes=3)), 8)
    fit.step(0.0)
    torch.cuda.set_sync_debug_mode("error")
    for _ in range(warmup.CHECK_STEPS - 2):
        fit.step(0.1)
    torch.cuda.set_sync_debug_mode("default")
    fit.step(0.1)
    assert fit.best_step == warmup.CHECK_STEPS


def test_means_that_differ_by_chance_are_drawn_together() -> None:
    rows = coins(torch.full((100,), 0.3), 400)
    plain, drawn = ((means - 0.3).square().mean().sqrt() for means in (rows.float().mean(0), warmup.likely_means(rows)))
    assert plain > 0.02  # the standard error is sqrt(.3 * .7 / 400) = .023
    assert drawn < plain / 2


def test_means_that_differ_more_than_by_chance_stay() -> None:
    rows = coins(torch.linspace(0.1, 0.9, 100), 400)
    torch.testing.assert_close(warmup.likely_means(rows), rows.float().mean(0), atol=0.005, rtol=0)


def test_rare_ones_do_not_become_rarer_as_means_are_drawn_together() -> None:
    counts = []
    for seed in range(20):
        rows = coins(torch.full((64,), 0.01), 200, seed)
        counts.append((rows.sum(), 200 * warmup.likely_means(rows).sum()))
    found, kept = torch.tensor(counts).sum(0)
    torch.testing.assert_close(kept, found, rtol=1e-5, atol=0)


def test_constant_columns_stay_beside_others() -> None:
    rows = coins(torch.tensor([0.0, 1.0, *[0.3] * 20]), 400)
    assert warmup.likely_means(rows)[:2].tolist() == [0, 1]


@pytest.mark.parametrize("length", [1, 3, 4])
def test_means_of_few_and_of_constant_columns_stay(length: int) -> None:
    assert (warmup.likely_means(torch.ones(5, length, dtype=torch.uint8)) == 1).all()


def test_calibration_brings_the_wanted_means_to_long_rows_too() -> None:
    torch.manual_seed(0)
    made = NadeGenerator(length=600, hidden=4, nets=1, classes=2)
    torch.nn.init.normal_(made.direct, std=0.02)
    wanted = torch.linspace(0.1, 0.9, 600)
    warmup.calibrate(made, wanted, rows=10_000)
    error = generator.sample(made.double(), 8000, seed=9).float().mean(0) - wanted
    # The 8000 rows have a sampling error of .0056 in the middle columns. That of calibration, with about as many rows,
    # is far smaller, because it averages probabilities, not bits.
    assert error.square().mean().sqrt() < 0.0056
    assert error.abs().max() < 4.5 * 0.0056


def test_the_rounds_of_calibration_average_out_the_scatter_of_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "CALIBRATION_ROWS", 400)
    torch.manual_seed(0)
    made = NadeGenerator(length=60, hidden=4, nets=1, classes=1)
    torch.nn.init.normal_(made.direct, std=0.5)
    warmup.calibrate(made, torch.full((60,), 0.5), rows=10_000)
    with torch.no_grad():
        found = made.probabilities(generator.draw_noise(made, 20_000, seed=9).float())
    scatter = found.var(0).div(400).mean().sqrt()
    assert (found.mean(0) - 0.5).square().mean().sqrt() < 0.6 * scatter


@pytest.mark.parametrize("opposite", [False, True])
def test_constraints_that_all_rows_satisfy_are_hardly_violated(opposite: bool) -> None:
    torch.manual_seed(0)
    rows = torch.randint(0, 2, (1000, 12), dtype=torch.uint8)
    rows[:, :4] = F.one_hot(torch.randint(0, 4, (1000,)), 4)  # exactly one of four
    rows[:, 4:7] = F.one_hot(torch.randint(0, 4, (1000,)), 4)[:, :3]  # at most one of three
    rows[:, 7], rows[:, 8] = rows[:, 9], 1 - rows[:, 9]
    if opposite:  # which leaves the pairs alone
        rows[:, 4:] = 1 - rows[:, 4:]
    made = NadeGenerator(length=12, hidden=4, nets=2, classes=2)
    means = rows.float().mean(0)
    made.bias.data[:] = torch.logit(means)
    warmup.keep_constraints(made, rows)
    warmup.calibrate(made, means, 1000)
    drawn = generator.sample(made, 20_000, 1)
    assert satisfied_by(rows.numpy()).violated_by(drawn.numpy()).mean() < 0.003
    torch.testing.assert_close(drawn.float().mean(0), means, atol=0.02, rtol=0)
    torch.testing.assert_close(drawn[:, 10:].float().T.corrcoef(), torch.eye(2), atol=0.05, rtol=0)


def test_violations_that_fresh_rows_would_have_as_often_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    independent, opposites = torch.randint(0, 2, (2, 1000, 6), dtype=torch.uint8)
    opposites[:, 1] = 1 - opposites[:, 0]
    made = NadeGenerator(length=6, hidden=4, nets=1, classes=1)
    before = copy.deepcopy(made.state_dict())
    warmup.keep_constraints(made, independent)
    monkeypatch.setattr(warmup, "expected_violations", lambda known: 0.6)
    warmup.keep_constraints(made, opposites)  # which half of the draws are not
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


def test_rows_that_calibrate_are_not_judged() -> None:
    for each in (warmup, text_warmup):
        first = each.CALIBRATION_SEED
        assert kinds.EVALUATION_SEED not in range(first, first + each.CALIBRATION_ROUNDS)


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
    monkeypatch.setattr(warmup, "STEPS", 60)
    monkeypatch.setattr(mixture, "EM_STEPS", 3)
    monkeypatch.setattr(warmup, "CALIBRATION_ROWS", 100)


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
    monkeypatch.setattr(warmup, "CALIBRATION_ROWS", 100)
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
    assert torch.equal(shown["better_classes"][2], seen)
    assert torch.equal(shown["better_classes"][3], unseen)
    generator, means, rows = shown["calibrate"]
    assert generator is phase.generator
    assert torch.equal(means, warmup.likely_means(CHAIN[:200].float()))
    assert rows == 200


def test_nets_share_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "CALIBRATION_ROWS", 100)
    monkeypatch.setattr(warmup, "affordable_folds", lambda *_: 2)
    seconds, descend = [0.0], warmup.descend  # a step takes a second

    def take_a_second(*given: Any) -> None:
        seconds[0] += 1
        descend(*given)

    monkeypatch.setattr(warmup, "descend", take_a_second)
    monkeypatch.setattr(warmup.time, "monotonic", lambda: seconds[0])
    phase, steps = WarmStart(CHAIN[:200], hidden=4, folds=2), dict[int, int]()
    while not phase.run(90.0, lambda: True):
        if phase.fit is not None:
            steps[len(phase.fitted)] = phase.fit.steps
    assert [steps[net] for net in range(3)] == pytest.approx([30, 30, 30], abs=1)
    assert phase.seconds == pytest.approx(90, abs=1)


def test_the_learning_rate_falls_to_zero_over_the_second_half() -> None:
    torch.manual_seed(0)
    optimizer = warmup.new_optimizer(warmup.new_net(5, mixture.fit_mixture(CHAIN[:, :5].float(), Choice()), hidden=4))
    rates = []
    for done in (0.0, 0.5, 0.75, 1.0):
        warmup.set_schedule(optimizer, done)
        rates.append([group["lr"] / group.get("pace", 1.0) for group in optimizer.param_groups])
    expected = [each * warmup.LEARNING_RATE for each in (1, 1, 0.5, 0)]
    assert rates == [pytest.approx([rate] * len(optimizer.param_groups)) for rate in expected]
