"""Generators: noise, rounding, and the same rows from a seed everywhere."""

from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from torch import Tensor

from tests.rated import rated_artifact
from train import MAX_SEED, baseline_generators, catalogue, generator, nade
from train.baseline_generators import AutoregressiveGenerator, GaussianGenerator, IndependentGenerator
from train.catalogue import GENERATORS
from train.generator import Generator
from train.nade import NadeGenerator

ARGUMENTS = {"hidden": 8, "nets": 3, "classes": 2}
SHIPPED = [name for name in GENERATORS if name != "tokens"]  # which has its own tests
BASELINES = {kind.__name__: kind for kind in (IndependentGenerator, GaussianGenerator, AutoregressiveGenerator)}


def small(name: str, length: int = 12) -> Generator:
    torch.manual_seed(3)
    if name in BASELINES:
        return BASELINES[name](length).double().eval()
    extra = ARGUMENTS if name == "nade" else {}
    return catalogue.build({"name": name, "length": length, **extra}).double().eval()


@pytest.fixture(params=[*SHIPPED, *BASELINES])
def made(request: pytest.FixtureRequest) -> Generator:
    return small(request.param)


def test_samples_are_rounded(made: Generator) -> None:
    rows = generator.sample(made, 50, seed=1)
    assert rows.shape == (50, 12)
    assert rows.dtype == torch.uint8
    assert set(rows.unique().tolist()) <= {0, 1}


def test_a_seed_always_gives_the_same_rows_and_more_rows_continue_them(made: Generator) -> None:
    rows = generator.sample(made, 40, seed=7)
    assert torch.equal(generator.sample(made, 40, seed=7), rows)
    assert torch.equal(generator.sample(made, 9, seed=7), rows[:9])
    assert not torch.equal(generator.sample(made, 40, seed=8), rows)


@pytest.mark.parametrize("block", [1, 7, 30])
def test_noise_drawn_block_by_block_is_the_same(made: Generator, block: int) -> None:
    with mock.patch.object(type(made), "rows_per_pass", block):
        drawn = generator.sample_labelled(made, 30, 5)
    assert torch.equal(drawn.codes, generator.sample(made, 30, 5))
    assert drawn.labels is None


@pytest.mark.parametrize("block", [1, 7, 30])
def test_classes_drawn_block_by_block_are_the_same(tmp_path: Path, block: int) -> None:
    rated = rated_artifact(tmp_path / "artifact")
    with mock.patch.object(type(rated.generator), "rows_per_pass", block):
        drawn = generator.sample_labelled(rated.generator, 30, 5)
    whole = rated.sample_labelled(30, 5)
    assert torch.equal(drawn.codes, whole.codes)
    assert drawn.labels is not None
    assert whole.labels is not None
    assert torch.equal(drawn.labels, whole.labels)


def test_a_row_depends_on_its_own_noise_only(made: Generator) -> None:
    noise = torch.cat([generator.draw_noise(made, 5, seed) for seed in range(40)])
    together = generator.generate(made, noise)
    assert torch.equal(together[35:40], generator.sample(made, 5, seed=7))


def test_nothing_asked_for_is_nothing_given(made: Generator) -> None:
    assert generator.sample(made, 0, seed=1).shape == (0, 12)


def test_without_options_nothing_can_be_chosen(made: Generator) -> None:
    assert torch.equal(generator.sample(made.with_options(), 5, seed=1), generator.sample(made, 5, seed=1))
    with pytest.raises(ValueError, match="temperature: this model has no such option"):
        made.with_options(temperature=1.0)


@pytest.mark.parametrize("name", SHIPPED)
def test_config_builds_the_same_network(name: str) -> None:
    made = small(name)
    again = catalogue.build(made.config()).double().eval()
    again.load_state_dict(made.state_dict())
    assert torch.equal(generator.sample(again, 20, seed=1), generator.sample(made, 20, seed=1))


@given(st.floats(0, 1, exclude_max=True))
def test_normal_noise_is_always_finite(uniform: float) -> None:
    for kind in (torch.float32, torch.float64):
        assert torch.isfinite(baseline_generators.normal_noise(torch.tensor([uniform], dtype=kind))).all()


LONG = 2 * nade.BLOCK + 5  # two whole blocks and a part of one


def lively_nade(length: int = 12) -> NadeGenerator:
    """A net with random weights everywhere, so that no zeros hide an error."""
    made = small("nade", length)
    assert isinstance(made, NadeGenerator)
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(std=0.5)
        made.center.uniform_()
    return made


def test_training_passes_rounded_values_and_a_gradient() -> None:
    made = lively_nade().train()
    rows = made.stratified(torch.rand(64, made.noise_size, dtype=torch.float64), 0)
    assert set(rows.unique().tolist()) <= {0, 1}
    rows.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in made.parameters())


def test_drawing_bit_by_bit_follows_the_logits_of_whole_rows() -> None:
    """Bit t is 1 exactly where its uniform number exceeds 1 - p_t, with p_t from the bits drawn before."""
    made = lively_nade(LONG)
    noise = generator.draw_noise(made, 300, seed=2)
    noise[:, -2], noise[:, -1] = 0.4, 0.9  # the second of three nets, the second of two classes
    rows = generator.generate(made, noise)
    with torch.no_grad():
        chance = torch.sigmoid(made.logits(rows.double(), 1, torch.ones(300, dtype=torch.long)))
    assert torch.equal(rows.bool(), noise[:, :LONG] > 1 - chance)


def drawn_plainly(made: NadeGenerator, noise: Tensor) -> Tensor:
    """One bit after the other, every sum written out: the definition that fast implementations must match."""
    rows = torch.zeros(len(noise), made.length, dtype=noise.dtype)
    for row, numbers in zip(rows, noise, strict=True):
        net = int(numbers[-2] * made.nets)
        latent = min(int((numbers[-1] >= made.prior[net].cumsum(0)).sum()), made.classes - 1)
        for t in range(made.length):
            before = row[:t] - made.center[net, :t]
            hidden = made.hidden_bias[net] + made.class_hidden[net, latent] + before @ made.input[net, :t]
            window = sum(2**age * int(bit) for age, bit in enumerate(reversed(row[max(t - made.WINDOW, 0) : t])))
            logit = made.bias[net, t] + made.class_bias[net, latent, t] + before @ made.direct[net, t, :t]
            logit = logit + made.local[net, window] + hidden.relu() @ made.output[net, t]
            row[t] = logit + torch.logit(numbers[t], eps=1e-16) > 0
    return rows


SIZES = st.fixed_dictionaries(
    {"length": st.integers(1, 24), "hidden": st.integers(1, 8), "nets": st.integers(1, 4), "classes": st.integers(1, 3)}
)


@given(sizes=SIZES, rows=st.integers(1, 9), seed=st.integers(0, MAX_SEED))
@settings(max_examples=40)
def test_all_ways_of_drawing_agree_with_the_plain_one(sizes: dict[str, int], rows: int, seed: int) -> None:
    torch.manual_seed(seed)
    made = NadeGenerator(**sizes).double()
    for weight in made.parameters():
        torch.nn.init.normal_(weight)
    torch.nn.init.uniform_(made.center)
    noise = generator.draw_noise(made, rows, seed)
    with torch.no_grad():
        expected = drawn_plainly(made, noise)
        assert torch.equal(made(noise), expected)
        assert torch.equal(made.codes(noise), expected.byte())
        with mock.patch.object(Tensor, "is_cpu", False):  # the path on a GPU
            assert torch.equal(made(noise), expected)
            assert torch.equal(made.codes(noise), expected.byte())


@pytest.mark.parametrize("rows", [*range(1, 10), 21, 3 * nade.ROWS_ABREAST, 80])
def test_a_row_is_the_same_in_a_batch_of_any_size(rows: int) -> None:
    made = lively_nade(LONG)
    noise = generator.draw_noise(made, 80, seed=5)
    alone = torch.cat([generator.generate(made, row) for row in noise.split(1)])
    assert torch.equal(generator.generate(made, noise[:rows]), alone[:rows])


def test_probabilities_are_those_that_the_bits_were_drawn_with() -> None:
    made = lively_nade(LONG)
    noise = generator.draw_noise(made, 50, seed=5)
    with torch.no_grad():
        probabilities, bits = made.probabilities(noise), made(noise)
    # A bit is 1 exactly where its uniform number exceeds 1 - p.
    assert torch.equal(bits == 1, noise[:, : made.length] > 1 - probabilities)


def relaxed_plainly(made: NadeGenerator, noise: Tensor) -> Tensor:
    """The same with a gradient: a bit is rounded, but has the slope of the relaxed bit at its own logit."""
    net = (noise[:, -2] * made.nets).long()
    latent = (noise[:, -1:] >= made.prior.cumsum(1)[net]).sum(1).clamp(max=made.classes - 1)
    bits = [torch.zeros(len(noise)).to(noise)] * made.WINDOW  # before the first bit
    for t in range(made.length):
        before = torch.stack(bits, dim=1)[:, made.WINDOW :].detach() - made.center[net, :t] if t else noise[:, :0]
        hidden = made.hidden_bias[net] + made.class_hidden[net, latent]
        hidden = hidden + (before[:, :, None] * made.input[net, :t]).sum(1)
        window = sum(2**age * bit.detach().long() for age, bit in enumerate(reversed(bits[t:])))
        logit = made.bias[net, t] + made.class_bias[net, latent, t] + (before * made.direct[net, t, :t]).sum(1)
        logit = logit + made.local[net, window] + (hidden.relu() * made.output[net, t]).sum(1)
        logit = logit + torch.logit(noise[:, t], eps=1e-16)
        soft = torch.sigmoid(logit / made.TAU)
        bits.append((logit > 0).to(soft) + (soft - soft.detach()))
    return torch.stack(bits[made.WINDOW :], dim=1)


@given(sizes=SIZES, rows=st.integers(1, 9), first=st.integers(0, 10**9), seed=st.integers(0, MAX_SEED))
@settings(max_examples=40)
def test_rows_that_take_turns_have_the_gradient_of_each_bits_own_logit(
    sizes: dict[str, int], rows: int, first: int, seed: int
) -> None:
    torch.manual_seed(seed)
    made = NadeGenerator(**sizes).double()
    for weight in made.parameters():
        torch.nn.init.normal_(weight)
    torch.nn.init.uniform_(made.center)
    noise, wanted = generator.draw_noise(made, rows, seed), torch.randn(rows, made.length, dtype=torch.float64)
    in_turn = noise.clone()
    in_turn[:, -2] = torch.tensor([((first + i) % made.nets + 0.5) / made.nets for i in range(rows)])
    with mock.patch.object(Tensor, "is_cpu", False):
        on_a_gpu = made.stratified(noise, first)
    drawn = relaxed_plainly(made, in_turn), made.stratified(noise, first), on_a_gpu
    plain, *ours = (
        torch.autograd.grad((each * wanted).sum() + each.prod(), list(made.parameters()), materialize_grads=True)
        for each in drawn
    )
    for each, gradients in zip(drawn[1:], ours, strict=True):
        assert torch.equal(each, made(in_turn))
        torch.testing.assert_close(gradients, plain, rtol=1e-8, atol=1e-10)


def test_logits_see_earlier_bits_only() -> None:
    made = lively_nade(LONG)
    rows = (torch.rand(1, LONG, dtype=torch.float64) < 0.5).double()
    latent = torch.zeros(1, dtype=torch.long)
    for t in range(LONG):
        changed = rows.clone()
        changed[0, t] = 1 - changed[0, t]
        same = torch.isclose(made.logits(rows, 0, latent)[0], made.logits(changed, 0, latent)[0], rtol=0, atol=1e-12)
        assert same[: t + 1].all()
        assert not same[t + 1 :].any()


def test_nets_and_classes_are_drawn_as_often_as_they_should_be() -> None:
    made = small("nade")
    assert isinstance(made, NadeGenerator)
    with torch.no_grad():
        made.prior.copy_(torch.tensor([[0.25, 0.75]] * 3))
        made.class_bias[:, 0], made.class_bias[:, 1] = -50.0, 50.0
        made.bias[2], made.class_bias[2] = 50.0, 0.0
    ones = generator.sample(made, 4000, seed=0).float().mean().item()
    assert ones == pytest.approx((0.75 + 0.75 + 1) / 3, abs=0.03)


@given(rows=st.lists(st.lists(st.integers(0, 1), min_size=11, max_size=11), min_size=1, max_size=5))
@settings(max_examples=20)
def test_compiled_code_numbers_the_last_bits_as_one_product_does(rows: list[list[int]]) -> None:
    made, bits = NadeGenerator(length=11, hidden=1, nets=1, classes=1), torch.tensor(rows).float()
    expected = (bits @ made.place.T).long()
    assert torch.equal(nade.last_bits(bits, made.WINDOW), expected)
    assert expected[:, 1].tolist() == bits[:, 0].long().tolist()


def test_a_model_that_was_saved_before_bits_were_centred_draws_the_same_rows() -> None:
    made = lively_nade()
    made.center.fill_(0.5)  # what was taken from all bits then
    state = made.state_dict()
    del state["center"]
    again = NadeGenerator(length=12, hidden=made.hidden, nets=made.nets, classes=made.classes).double()
    again.center.zero_()
    again.load_state_dict(state)
    assert torch.equal(generator.sample(again, 50, seed=0), generator.sample(made, 50, seed=0))


def test_compiled_code_reads_noise_as_torch_does() -> None:
    torch.manual_seed(0)
    made = NadeGenerator(length=3, hidden=2, nets=3, classes=4).double()
    made.prior.copy_(torch.tensor([[0.25] * 4, [0.0, 0.5, 0.0, 0.5], [0.1, 0.2, 0.3, 0.3]]))  # the last sum to .9
    numbers = torch.cat([torch.rand(500, dtype=torch.float64), made.prior.cumsum(1).flatten().clamp(max=1 - 2**-53)])
    noise = torch.rand(3 * len(numbers), made.noise_size, dtype=torch.float64)
    noise[:, -2:] = torch.cartesian_prod(torch.tensor([0.0, 1 / 3, 1 - 2**-53], dtype=torch.float64), numbers)
    net, latent = torch.empty(2, len(noise), dtype=torch.int64)
    logistic = torch.empty(len(noise), made.length, dtype=torch.float64)
    nade._read_noise(*(each.numpy() for each in (noise, made.prior, net, latent, logistic)))
    assert torch.equal(net, torch.tensor([0, 1, 2]).repeat_interleave(len(numbers)))
    assert all(map(torch.equal, made._choose(noise), (net, latent)))
    torch.testing.assert_close(logistic, made._logistic(noise), rtol=1e-14, atol=1e-15)
    assert set(latent[net == 1].tolist()) == {1, 3}


def test_nothing_is_left_to_compile_when_training_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("_read_noise", "_draw_rows", "_hidden_term_forward", "_hidden_term_backward")
    loops = {name: njit(getattr(nade, name).py_func) for name in names}
    for name, loop in loops.items():
        monkeypatch.setattr(nade, name, loop)
    nade.compile_loops()
    before = {name: list(loop.signatures) for name, loop in loops.items()}
    made = NadeGenerator(length=5, hidden=3, nets=2, classes=2)
    rows = made.stratified(torch.rand(6, made.noise_size), 0)
    made.logits(rows, 0, torch.zeros(6, dtype=torch.long)).sum().backward()
    made.probabilities(torch.rand(6, made.noise_size))
    made.codes(torch.rand(6, made.noise_size))
    assert {name: loop.signatures for name, loop in loops.items()} == before
    assert all(before.values())
