"""Baselines: they keep what they claim to keep, whatever the columns look like."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from train import artifact, baselines, builtin, generator, moments
from train.baseline_generators import AutoregressiveGenerator

N = 20_000


def chain(n: int, length: int = 12) -> Tensor:
    return torch.from_numpy(builtin.chain(n=n, length=length))


def awkward(n: int) -> Tensor:
    """Fair coins with columns that are constant, equal to, and the opposite of another one."""
    codes = (torch.rand(n, 7, generator=torch.Generator().manual_seed(2)) < 0.5).to(torch.uint8)
    codes[:, 1], codes[:, 2] = 0, 1
    codes[:, 4], codes[:, 5] = codes[:, 3], 1 - codes[:, 3]
    return codes


def correlations(codes: Tensor) -> Tensor:
    return torch.from_numpy(moments.correlations(moments.Moments.of(codes.numpy())))


def test_marginals_are_carried_and_nothing_else() -> None:
    codes = chain(2000)
    rows = generator.sample(baselines.fit_marginals(codes).double(), N, 1)
    torch.testing.assert_close(rows.double().mean(0), codes.double().mean(0), atol=0.015, rtol=0)
    assert correlations(rows).abs().max() < 0.04
    assert correlations(codes).abs().max() > 0.2


def test_the_gaussian_carries_marginals_and_correlations() -> None:
    codes = chain(4000)
    rows = generator.sample(baselines.fit_gaussian(codes[:3500], codes[3500:]).double(), N, 1)
    torch.testing.assert_close(rows.double().mean(0), codes.double().mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(correlations(rows), correlations(codes), atol=0.06, rtol=0)


def test_the_gaussian_of_many_columns_repairs_one_matrix_of_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """One matrix for each prior width would take minutes of thousands of columns."""
    repaired, repair = [], baselines.nearest_correlation

    def spy(matrix: Tensor) -> Tensor:
        repaired.append(len(matrix))
        return repair(matrix)

    monkeypatch.setattr(baselines, "nearest_correlation", spy)
    monkeypatch.setattr(baselines, "CHOOSING_COLUMNS", 8)
    codes = chain(4000)
    rows = generator.sample(baselines.fit_gaussian(codes[:3500], codes[3500:]).double(), N, 1)
    assert repaired == [8] * len(baselines.PRIOR_WIDTHS) + [12]
    torch.testing.assert_close(correlations(rows), correlations(codes), atol=0.06, rtol=0)


@pytest.mark.parametrize("correlation", [-0.99, -0.6, 0.0, 0.3, 0.9, 0.99])
def test_orthant_probabilities_are_the_bivariate_normals(correlation: float) -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(20, 2)) * 1.3
    expected = multivariate_normal(cov=[[1, correlation], [correlation, 1]]).cdf(points)
    h, k = torch.from_numpy(points).unbind(dim=1)
    found = baselines.orthant(h, k, torch.full_like(h, correlation))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


def test_the_solver_inverts_orthant_probabilities() -> None:
    rng = np.random.default_rng(1)
    h, k = torch.from_numpy(rng.normal(size=(2, 500)))
    correlation = torch.from_numpy(rng.uniform(-0.95, 0.95, 500))
    joint = baselines.orthant(h, k, correlation)
    found = baselines.solve_correlation(h, k, joint)
    torch.testing.assert_close(baselines.orthant(h, k, found), joint, atol=1e-10, rtol=0)
    likely = (h.abs() < 1) & (k.abs() < 1)
    torch.testing.assert_close(found[likely], correlation[likely], atol=1e-7, rtol=0)


def test_impossible_probabilities_get_the_nearest_correlation() -> None:
    h = torch.zeros(2, dtype=torch.float64)
    found = baselines.solve_correlation(h, h, torch.tensor([0.6, -0.1], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([1.0, -1.0], dtype=torch.float64), atol=1e-6, rtol=0)


def test_tetrachoric_correlations_of_median_splits_have_a_closed_form() -> None:
    """With both thresholds at 0, P(both) = 1/4 + asin(r) / (2 pi) (Sheppard 1899)."""
    counts = [(30, 30), (20, 40), (20, 40), (30, 30)]  # pairs of bits: 00, 01, 10, 11
    rows = [[x, y] for (x, y), (n, _) in zip([(0, 0), (0, 1), (1, 0), (1, 1)], counts, strict=True) for _ in range(n)]
    found, _ = baselines.tetrachoric(torch.tensor(rows, dtype=torch.uint8))
    assert found.item() == pytest.approx(np.sin(2 * np.pi * (0.3 - 0.25)), abs=1e-9)


@pytest.mark.parametrize("n", [20, 1000])
def test_constant_and_duplicated_columns_stay_what_they_are(n: int) -> None:
    codes = awkward(n)
    split = n * 4 // 5
    rows = generator.sample(baselines.fit_gaussian(codes[:split], codes[split:]).double(), N, 1)
    assert rows[:, 1].max() == 0
    assert rows[:, 2].min() == 1
    assert (rows[:, 3] != rows[:, 4]).float().mean() < 0.001
    assert (rows[:, 3] == rows[:, 5]).float().mean() < 0.001


@pytest.mark.parametrize(("train", "validation", "length"), [(1, 1, 5), (20, 0, 5), (20, 4, 1), (20, 4, 2)])
def test_tiny_sets_can_be_fitted(train: int, validation: int, length: int) -> None:
    codes = chain(train + validation, length)
    made = baselines.fit_gaussian(codes[:train], codes[train:]).double()
    assert generator.sample(made, 5, 1).shape == (5, length)


def test_repaired_matrices_are_correlation_matrices() -> None:
    rng = np.random.default_rng(0)
    noise = np.tril(rng.uniform(-1, 1, (30, 30)), -1)
    repaired = baselines.nearest_correlation(torch.from_numpy(noise + noise.T + np.eye(30)))
    torch.testing.assert_close(repaired.diagonal(), torch.ones(30, dtype=torch.float64))
    torch.testing.assert_close(repaired, repaired.T)
    assert torch.linalg.eigvalsh(repaired).min() > 0


def test_a_correlation_matrix_needs_no_repair() -> None:
    rows = torch.randn(100, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = torch.corrcoef(rows.T)
    torch.testing.assert_close(baselines.nearest_correlation(matrix), matrix)


def test_shrinking_takes_the_unreliable_and_leaves_the_perfect() -> None:
    correlation = torch.tensor([0.5, 0.5, 1.0, -1.0, 0.3], dtype=torch.float64)
    error = torch.tensor([0.01, 0.5, 0.1, 0.1, torch.inf], dtype=torch.float64)
    shrunk = baselines.shrink(correlation, error, 0.2)
    assert shrunk[0] == pytest.approx(0.5, abs=0.01)
    assert shrunk[1] < 0.1
    assert shrunk[2:].tolist() == [1.0, -1.0, 0.0]
    assert baselines.shrink(correlation, error, 0.0).tolist() == [0.0] * 5
    assert torch.equal(baselines.shrink(correlation, error, float("inf")), correlation)


def random_net(length: int = 12, width: int = 30) -> AutoregressiveGenerator:
    torch.manual_seed(1)
    made = AutoregressiveGenerator(length, width)
    torch.nn.init.normal_(made.direct.weight)
    return made.double()


@pytest.mark.parametrize(("length", "width"), [(12, 30), (12, 5), (1, 4)])
def test_bits_are_drawn_one_by_one_as_the_logits_say(length: int, width: int) -> None:
    made = random_net(length, width)
    noise = generator.draw_noise(made, 200, 1)
    bits = made(noise)
    assert torch.equal(bits, (noise < made.logits(bits).sigmoid()).to(noise))


def test_a_logit_depends_on_earlier_bits_only() -> None:
    made = random_net()
    bits = torch.zeros(1, 12, dtype=torch.float64, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(lambda x: made.logits(x)[0], bits)[:, 0]
    assert torch.equal(jacobian, jacobian.tril(-1))
    assert (jacobian.tril(-1) != 0).sum() == 66, "on all 12 * 11 / 2 pairs"


def test_the_autoregressive_net_learns_what_pairs_do_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third column is the exclusive or of two fair coins, so every pair of columns is independent."""
    monkeypatch.setattr(baselines, "DROPOUTS", baselines.DROPOUTS[:1])
    coins = torch.randint(0, 2, (2000, 2), generator=torch.Generator().manual_seed(1))
    codes = torch.cat([coins, coins.sum(dim=1, keepdim=True) % 2], dim=1).to(torch.uint8)
    made = baselines.fit_autoregressive(codes[:1600], codes[1600:], seconds=120, seed=0).double()  # a few are enough
    rows = generator.sample(made, 2000, 1)
    assert (rows[:, 0] ^ rows[:, 1] == rows[:, 2]).double().mean() > 0.9


@pytest.mark.parametrize(("train", "validation"), [(1, 0), (1, 1), (20, 0), (20, 4)])
def test_without_time_there_still_is_an_autoregressive_net(train: int, validation: int) -> None:
    codes = awkward(train + validation)
    made = baselines.fit_autoregressive(codes[:train], codes[train:], seconds=0, seed=0).double()
    mean = generator.sample(made, 4000, 1).double().mean(0)
    # Means stay half a row away from 0 and 1, so with a single row every bit is a fair coin.
    half_a_row = 0.5 / len(codes)
    torch.testing.assert_close(mean, codes.double().mean(0).clamp(half_a_row, 1 - half_a_row), atol=0.05, rtol=0)


def test_baselines_learn_from_validation_rows_once_these_have_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two columns that are independent in the training rows and equal in the validation rows."""
    train = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]] * 100, dtype=torch.uint8)
    validation = torch.tensor([[0, 0], [1, 1]] * 200, dtype=torch.uint8)
    monkeypatch.setattr(baselines, "_train", lambda *_: (0.0, [20, 0, 0]))
    for made in (
        baselines.fit_gaussian(train, validation),
        baselines.fit_autoregressive(train, validation, seconds=60, seed=0),
    ):
        rows = generator.sample(made.double().eval(), 4000, 1)
        assert (rows[:, 0] == rows[:, 1]).double().mean() == pytest.approx(0.75, abs=0.04)


def test_looks_that_there_is_no_time_for_are_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    train, validation = torch.zeros(50, 2, dtype=torch.uint8), torch.ones(50, 2, dtype=torch.uint8)
    monkeypatch.setattr(baselines, "_train", lambda *_: (0.0, [1, 0, 0]))
    monkeypatch.setattr(baselines, "_look", lambda *_: pytest.fail("no time"))
    made = baselines.fit_autoregressive(train, validation, seconds=0, seed=0)
    assert generator.sample(made.double(), 1000, 1).double().mean() < 0.05, "the net of the training rows stays"


def test_fitting_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    baselines.fit("all", chain(50), chain(10), seconds=0, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("_gpu")
def test_the_autoregressive_net_learns_where_the_gan_did() -> None:
    codes = chain(60)
    found = baselines.fit("all", codes[:50], codes[50:], seconds=1, seed=0, device="cuda")
    assert all(weight.device.type == "cpu" for each in found.values() for weight in each.state_dict().values())
    assert generator.sample(found["autoregressive"], 10, seed=0).shape == (10, codes.shape[1])


@pytest.mark.parametrize("fitted", ["independent", "Gaussian copula", "autoregressive"])
def test_baselines_are_sampled_as_what_ships_is(fitted: str) -> None:
    codes = chain(400)
    made = baselines.fit("all", codes[:300], codes[300:], seconds=0, seed=0)[fitted]
    served = artifact.for_serving(copy.deepcopy(made).float())  # an artifact keeps weights in float32
    assert all(weight.dtype == torch.float64 for weight in made.parameters())
    assert torch.equal(generator.sample(served, 100, 3), generator.sample(made, 100, 3))


def test_validation_rows_count_for_the_means_as_they_do_for_the_gan() -> None:
    train, validation = torch.eye(4, dtype=torch.uint8), torch.ones(4, 4, dtype=torch.uint8)
    made = baselines.fit("fast", train, validation, seconds=0, seed=0)
    for name, each in made.items():
        drawn = generator.sample(each, 4000, 0).float()
        assert torch.allclose(drawn.mean(0), torch.tensor(5 / 8), atol=0.03), name


def test_none_are_fitted_when_none_are_asked_for() -> None:
    assert baselines.fit("none", chain(10), chain(10), seconds=0, seed=0) == {}


def test_of_all_looks_and_of_all_nets_the_best_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.from_numpy(builtin.chain(300, length=8)).float()
    monkeypatch.setattr(baselines, "LEARNING_RATES", (0.3,))  # so high that the loss soon rises
    made = baselines._untrained(rows)
    torch.manual_seed(0)
    loss, _ = baselines._train(made, rows[:200], rows[200:], (0.0, 0.0), math.inf)
    assert baselines._loss(made, rows[200:]) == pytest.approx(loss)
    nets: list[Any] = []
    losses = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(baselines, "_train", lambda net, *_: [nets.append(net), (next(losses), [0])][1])
    monkeypatch.setattr(baselines, "_train_again", lambda *_: False)  # as if there were no time for it
    assert baselines.fit_autoregressive(rows.to(torch.uint8), rows[:50].to(torch.uint8), 600, seed=0) is nets[1]
