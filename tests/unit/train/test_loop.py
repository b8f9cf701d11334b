"""The training loop: the textbook pinned to a plain reference, data order, averaging, stopping, resuming."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from train import builtin, kinds, loop, losses
from train.config import Config, resolve
from train.game import NonFiniteError, Tick
from train.generator import TextbookGenerator
from train.loop import State
from train.nade import NadeGenerator
from train.packed import PackedRows

ROWS = torch.tensor(builtin.toy(60))


def configured(**given: Any) -> Config:
    sizes = {"width": 8, "batch_size": 16, "turns": 1, "head_start": 32, "tick": 16, "epochs": 2}
    return resolve({"generator": "nade", **sizes, **given})


def textbook(**given: Any) -> Config:
    return resolve({"preset": "textbook", "epochs": 2, "tick": 1, **given})


def new_state(config: Config, device: str = "cpu") -> State:
    torch.manual_seed(config.seed)
    textbook = config.generator == "textbook"
    generator = TextbookGenerator(5) if textbook else NadeGenerator(length=5, hidden=4, nets=2, classes=2)
    return State.new(config, generator, torch.device(device))


def trained(config: Config, ticks: list[Tick] | None = None) -> State:
    state = new_state(config)

    def on_tick(tick: Tick) -> bool:
        if ticks is not None:
            ticks.append(tick)
        return False

    loop.train(state, ROWS, config, on_tick=on_tick)
    return state


def plain_textbook(rows: Tensor, epochs: int, seed: int) -> list[tuple[float, float]]:
    """The textbook GAN as a textbook prints it: the losses of every step."""
    torch.manual_seed(seed)
    length = rows.shape[1]
    G, D = nn.Sequential(nn.Linear(length, length), nn.Sigmoid()), nn.Sequential(nn.Linear(length, 1), nn.Sigmoid())  # noqa: N806
    bce, optimize = nn.BCELoss(), lambda net: torch.optim.Adam(net.parameters(), lr=0.001)
    g_optimizer, d_optimizer = optimize(G), optimize(D)
    losses, real_label, fake_label = [], torch.ones(1, 1), torch.zeros(1, 1)
    for real in rows.float().repeat(epochs, 1).split(1):
        fake = G(torch.rand(1, length))
        d_loss = bce(D(real), real_label) + bce(D(fake.detach()), fake_label)
        d_optimizer.zero_grad(), d_loss.backward(), d_optimizer.step()
        g_loss = bce(D(fake), real_label)
        g_optimizer.zero_grad(), g_loss.backward(), g_optimizer.step()
        losses.append((g_loss.item(), d_loss.item()))
    return losses


def test_the_textbook_preset_is_the_textbook() -> None:
    ticks: list[Tick] = []
    trained(textbook(seed=5), ticks)
    ours = [(tick.losses["generator_loss"], tick.losses["discriminator_loss"]) for tick in ticks]
    assert len(ours) == 120
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(plain_textbook(ROWS, 2, seed=5)), atol=1e-6, rtol=0)


def test_a_tick_tells_the_mean_of_its_steps_and_the_last_one() -> None:
    ticks: list[Tick] = []
    trained(textbook(seed=5, tick=7), ticks)
    parts = torch.tensor(plain_textbook(ROWS, 2, seed=5)).split(7)
    assert [len(part) for part in parts] == [7] * 17 + [1]
    for tick, part in zip(ticks, parts, strict=True):
        for told, expected in ((tick.losses, part.mean(0)), (tick.last_losses, part[-1])):
            found = torch.tensor([told["generator_loss"], told["discriminator_loss"]])
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_every_epoch_shows_every_row_once() -> None:
    config = configured()
    order = loop.data_order(60, config)
    numbers = torch.arange(60, dtype=torch.uint8)[:, None]
    shown = torch.cat(list(loop.batches(order, numbers, 0, 16, 120))).flatten()
    assert sorted(shown[:60].tolist()) == sorted(shown[60:].tolist()) == list(range(60))
    assert shown[:60].tolist() != shown[60:].tolist()


def test_the_data_order_goes_on_where_it_was_left() -> None:
    config = configured()
    order = loop.data_order(60, config)
    whole = torch.cat(list(loop.batches(order, ROWS, 0, 16, 200)))
    rest = torch.cat(list(loop.batches(order, ROWS, 96, 16, 200)))
    assert torch.equal(rest, whole[96:])


def test_a_batch_may_be_larger_than_the_data() -> None:
    order = loop.data_order(60, configured())
    assert [len(batch) for batch in loop.batches(order, ROWS, 0, 150, 200)] == [150, 50]


@pytest.mark.parametrize(
    "config", [configured(epochs=8, turns=3), textbook(epochs=4, tick=7)], ids=["default", "textbook"]
)
def test_a_resumed_run_ends_with_the_same_weights(config: Config) -> None:
    undisturbed = trained(config)
    steps = 0

    def interrupted() -> bool:
        nonlocal steps
        steps += 1
        return steps == 5

    first = new_state(config)
    assert loop.train(first, ROWS, config, on_tick=lambda tick: False, interrupted=interrupted) == "interrupted"
    saved = copy.deepcopy(first.state_dict())
    second = new_state(replace(config, seed=999))
    second.load_state_dict(saved)
    assert loop.train(second, ROWS, config, on_tick=lambda tick: False) == "epochs"
    for part in ("generator", "discriminator", "averaged"):
        expected, found = getattr(undisturbed, part).state_dict(), getattr(second, part).state_dict()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def steps_of(optimizer: torch.optim.Optimizer) -> int:
    return max((int(moments["step"]) for moments in optimizer.state.values()), default=0)


def test_the_discriminator_has_several_turns_for_each_of_the_generator() -> None:
    config = configured(turns=3, head_start=0)
    state = new_state(config)
    loop.step(state, ROWS[:48].float(), config)
    assert (steps_of(state.discriminator_optimizer), steps_of(state.generator_optimizer)) == (3, 1)
    loop.step(state, ROWS[:40].float(), config)  # a third batch would be half empty
    assert (steps_of(state.discriminator_optimizer), steps_of(state.generator_optimizer)) == (5, 2)


@pytest.mark.parametrize(("turns", "weights"), [(5, [0.06, 0, 0.06, 0, 0.06]), (1, [0.03])])
def test_a_penalty_that_comes_now_and_then_weighs_more(
    turns: int, weights: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "PENALTY_EVERY", 2)
    given: list[float] = []

    def update(state: State, real: Tensor, fake: Tensor, config: Config, weight: float) -> tuple[Tensor, Tensor]:
        given.append(weight)
        return torch.zeros(()), torch.zeros(())

    monkeypatch.setattr(loop, "update_discriminator", update)
    config = configured(turns=turns, penalty=0.03)
    loop.step(new_state(config), ROWS[:1].float().repeat(16 * turns, 1), config)
    assert given == weights


def test_the_penalty_makes_the_discriminator_flatter() -> None:
    steepness = []
    for weight in (0.0, 10.0):
        config = configured(discriminator_rate=0.01)
        state = new_state(config)
        for _ in range(30):
            loop.update_discriminator(state, ROWS.float(), 1 - ROWS.float(), config, weight)
        shown = ROWS.float().requires_grad_()
        steepness.append(losses.gradient_penalty(shown, state.discriminator(shown)).item())
    assert steepness[1] < steepness[0] / 2


def test_the_penalty_is_that_of_real_rows_and_that_of_generated_ones() -> None:
    config = configured()
    state = new_state(config)
    linear = nn.Linear(5, 1, bias=False)
    state.discriminator = nn.Sequential(linear, nn.Flatten(0))
    state.discriminator_optimizer = torch.optim.Adam(linear.parameters())
    expected = linear.weight.square().sum().item()  # half from real rows, half from generated ones
    _, penalty = loop.update_discriminator(state, ROWS.float(), 1 - ROWS.float(), config, 1.0)
    assert penalty.item() == pytest.approx(expected)


def test_averaged_weights_follow_slowly() -> None:
    state = new_state(configured(average=0.9))
    with torch.no_grad():
        for weight in state.generator.parameters():
            weight.add_(1)
    loop.update_average(state, 0.9)
    for average, weight in zip(state.averaged.parameters(), state.generator.parameters(), strict=True):
        torch.testing.assert_close(average, weight - 0.9)


@pytest.mark.usefixtures("_gpu")
def test_rows_without_room_on_the_gpu_are_moved_there_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(rows: Tensor, device: str) -> None:
        raise torch.OutOfMemoryError

    rows = ROWS.clone()
    with monkeypatch.context() as patched:
        patched.setattr(Tensor, "to", full)
        assert kinds._moved(rows, "cuda") is rows
    config = configured()
    state = new_state(config, "cuda")
    assert loop.train(state, rows, config, on_tick=lambda tick: False) == "epochs"


def stored(where: str) -> Tensor | PackedRows:
    packed = PackedRows(torch.as_tensor(np.packbits(ROWS.numpy(), axis=1)), ROWS.shape[1])
    return {"there": ROWS.to("cuda"), "here": ROWS, "packed": packed.to("cuda"), "packed here": packed}[where]


@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize("where", ["there", "here", "packed", "packed here"])
@pytest.mark.parametrize("preset", [configured(turns=3, head_start=0), textbook()], ids=["default", "textbook"])
def test_between_two_ticks_nobody_waits_for_the_gpu(preset: Config, where: str) -> None:
    config = replace(preset, tick=10**6, epochs=100)
    state, rows, steps = new_state(config, "cuda"), stored(where), iter(range(10))

    def interrupted() -> bool:
        going = next(steps, None) is not None
        torch.cuda.set_sync_debug_mode("error" if going else "default")  # the losses are read after the last step
        return not going

    assert loop.train(state, rows, config, on_tick=lambda tick: False, interrupted=interrupted) == "interrupted"
    assert state.seen == 11 * config.step_rows


def test_training_stops_when_a_tick_says_so() -> None:
    config = configured(epochs=100)
    state = new_state(config)
    assert loop.train(state, ROWS, config, on_tick=lambda tick: tick.seen >= 64) == "stopped"
    assert state.seen == 64


def test_an_interruption_at_the_last_tick_does_not_make_it_another_one() -> None:
    config = configured(epochs=100)
    state, steps = new_state(config), []

    def interrupted() -> bool:
        steps.append(state.seen)
        return state.seen == 64

    assert loop.train(state, ROWS, config, on_tick=lambda tick: tick.seen >= 64, interrupted=interrupted) == "stopped"
    assert steps[-1] == state.seen == 64


def test_an_interruption_between_two_ticks_is_no_tick() -> None:
    config = configured(tick=64)
    state, ticks, asked = new_state(config), [], iter([False, True])
    ended = loop.train(state, ROWS, config, on_tick=lambda tick: bool(ticks.append(tick)), interrupted=asked.__next__)
    assert ended == "interrupted"
    assert (state.seen, ticks) == (32, [])
    assert state.seconds > 0


def test_weights_that_are_no_numbers_are_not_saved_by_an_interruption() -> None:
    config = configured(tick=64)
    state = new_state(config)
    with torch.no_grad():
        next(state.discriminator.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="16 sequences"):
        loop.train(state, ROWS, config, on_tick=lambda tick: False, interrupted=lambda: True)


def test_weights_that_the_last_step_lost_are_not_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses of a step are those of the weights before it."""
    config = configured(epochs=1)
    state, ticks = new_state(config), []
    step = loop.step

    def losing(*given: Any) -> dict[str, torch.Tensor]:
        losses = step(*given)
        if state.seen + config.step_rows >= len(ROWS):
            with torch.no_grad():
                next(state.generator.parameters()).fill_(float("inf"))
        return losses

    monkeypatch.setattr(loop, "step", losing)
    with pytest.raises(NonFiniteError, match="weights are infinite or NaN after"):
        loop.train(state, ROWS, config, on_tick=lambda tick: bool(ticks.append(tick.seen)))
    assert len(ROWS) not in ticks


def test_training_stops_at_the_time_limit() -> None:
    config = configured(epochs=None, max_minutes=0.01)
    state = new_state(config)
    assert loop.train(state, ROWS, config, on_tick=lambda tick: False) == "minutes"
    assert state.seconds >= 0.6


def test_a_loss_that_is_no_number_stops_training() -> None:
    config = configured()
    state = new_state(config)
    with torch.no_grad():
        next(state.discriminator.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="16 sequences"):
        loop.train(state, ROWS, config, on_tick=lambda tick: False)


def test_the_generator_waits_until_the_discriminator_has_had_its_head_start() -> None:
    config = configured(epochs=1, head_start=1000)
    before, after = new_state(config).generator.state_dict(), trained(config).generator.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_flipping_exchanges_zeros_and_ones_where_it_should() -> None:
    rows, where = torch.tensor([[0.0, 1, 0, 1]]), torch.tensor([[True, True, False, False]])
    assert loop.flip(rows, where).tolist() == [[1, 0, 0, 1]]


def test_the_discriminator_sees_the_share_flipped_that_was_asked_for() -> None:
    config = configured(flip=0.03, head_start=10**6, batch_size=5000)
    state = new_state(config)
    assert isinstance(state.generator, NadeGenerator)
    with torch.no_grad():
        for weight in state.generator.parameters():
            weight.zero_()
        state.generator.bias.fill_(-50)  # it generates zeros only
    shown: list[torch.Tensor] = []
    state.discriminator.register_forward_pre_hook(lambda module, rows: shown.append(rows[0]))
    torch.manual_seed(0)
    loop.step(state, torch.zeros(5000, ROWS.shape[1]), config)
    real, fake = shown[0].split(5000)
    assert real.mean().item() == pytest.approx(0.03, abs=0.005)
    assert fake.mean().item() == pytest.approx(0.03, abs=0.005)
    assert not torch.equal(real, fake)


def test_learning_rates_fall_over_the_second_half_of_the_budget() -> None:
    config = configured()
    state = new_state(config)
    rates = []
    for done in (0.0, 0.5, 0.75, 1.0):
        loop.set_rates(state, config, done)
        rates.append(state.generator_optimizer.param_groups[0]["lr"] / config.generator_rate)
    assert rates == pytest.approx([1.0, 1.0, 0.5, 0.0])


@pytest.mark.parametrize("budget", [{"epochs": 8}, {"epochs": 1000, "max_minutes": 2}], ids=["epochs", "minutes"])
def test_at_the_end_of_either_budget_the_learning_rates_have_fallen(
    budget: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(range(10**9))
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(seconds)))
    config = configured(**{"max_minutes": 10**6, **budget})
    state = trained(config)
    rates = config.generator_rate, config.discriminator_rate
    for optimizer, rate in zip((state.generator_optimizer, state.discriminator_optimizer), rates, strict=True):
        assert optimizer.param_groups[0]["lr"] < rate / 2


def test_the_game_draws_the_generator_towards_the_rows() -> None:
    config = configured(generator_rate=0.05, discriminator_rate=0.01, turns=4, head_start=0)
    state, real = new_state(config), torch.ones(64, ROWS.shape[1])
    noise = torch.rand(500, state.generator.noise_size)
    before = state.generator(noise).mean().item()
    for _ in range(60):
        loop.step(state, real, config)
    with torch.no_grad():
        made = state.generator(noise)
    assert before < 0.7
    assert made.mean().item() > 0.9


def test_the_discriminator_scores_real_rows_higher() -> None:
    config = configured(discriminator_rate=0.01)
    state, real, fake = new_state(config), torch.ones(16, ROWS.shape[1]), torch.zeros(16, ROWS.shape[1])
    for _ in range(30):
        loop.update_discriminator(state, real, fake, config, 0.0)
    assert state.discriminator(real).min() > state.discriminator(fake).max() + 1


def test_another_seed_shows_the_rows_in_another_order() -> None:
    orders = [loop.data_order(60, configured(seed=seed))(0).tolist() for seed in (0, 1)]
    assert orders[0] != orders[1]
