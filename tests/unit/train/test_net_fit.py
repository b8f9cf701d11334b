"""The fit of one net: what it starts from, learns and leaves at zero."""

import math

import pytest
import torch

from tests.drawn import two_kinds
from train import builtin, mixture, net_fit
from train.game import NonFiniteError
from train.mixture import Choice
from train.nade import NadeGenerator
from train.net_fit import NetFit

CHAIN = torch.tensor(builtin.chain(1200, length=10))


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
    for _ in range(net_fit.CHECK_STEPS - 1):
        fit.step(0.0)
    with pytest.raises(NonFiniteError, match="NaN after 25 steps of the warm start"):
        fit.step(0.0)


def test_a_net_starts_as_the_mixture_itself() -> None:
    torch.manual_seed(0)
    rows = two_kinds(1000)
    classes = mixture.fit_mixture(rows, Choice(classes=2))
    net, latent = net_fit.new_net(12, classes, hidden=8), torch.arange(1000) % 2
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
    coins = fitted((torch.rand(3000, 12) < 0.3).to(torch.uint8), 8).best_net()
    pairs = torch.ones(12, 12).tril(-1).bool()
    assert (coins.direct[0][pairs] == 0).float().mean() > 0.8
    assert (coins.output == 0).float().mean() > 0.8


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
    net = net_fit.LearningNet(length=20, hidden=4, classes=2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
    rows, latent = (torch.rand(50, 20) < 0.5).float(), torch.arange(50) % 2
    learned = net.learned()
    assert type(learned) is NadeGenerator
    torch.testing.assert_close(learned.logits(rows, 0, latent), net.logits(rows, 0, latent))


@pytest.mark.usefixtures("_gpu")
def test_between_two_checks_nobody_waits_for_the_gpu() -> None:
    rows = CHAIN.float().to("cuda")
    fit = NetFit(rows[:1000], rows[1000:], mixture.fit_mixture(rows, Choice(classes=3)), 8)
    fit.step(0.0)
    torch.cuda.set_sync_debug_mode("error")
    for _ in range(net_fit.CHECK_STEPS - 2):
        fit.step(0.1)
    torch.cuda.set_sync_debug_mode("default")
    fit.step(0.1)
    assert fit.best_step == net_fit.CHECK_STEPS


def test_the_learning_rate_falls_to_zero_over_the_second_half() -> None:
    torch.manual_seed(0)
    optimizer = net_fit.new_optimizer(net_fit.new_net(5, mixture.fit_mixture(CHAIN[:, :5].float(), Choice()), hidden=4))
    rates = []
    for done in (0.0, 0.5, 0.75, 1.0):
        net_fit.set_schedule(optimizer, done)
        rates.append([group["lr"] / group.get("pace", 1.0) for group in optimizer.param_groups])
    expected = [each * net_fit.LEARNING_RATE for each in (1, 1, 0.5, 0)]
    assert rates == [pytest.approx([rate] * len(optimizer.param_groups)) for rate in expected]
