"""The game of the text generator: the discriminator learns, and is trusted only as far as it deserves."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from train import scorer, text_draws, text_game
from train.config import resolve
from train.game import NonFiniteError, Tick
from train.generator import LabelledRows, draw_noise, generate_labelled
from train.text_calibration import ROUNDS, calibrate
from train.text_counts import new_generator
from train.text_game import TextState
from train.text_generator import TokenGenerator

ROWS = torch.tensor([[3, 6, 7, 1, 0, 0], [4, 6, 6, 8, 1, 0], [5, 6, 6, 6, 9, 1]]).repeat(40, 1)
REAL = LabelledRows(codes=ROWS)
CONFIG = resolve({"epochs": 4, "generator": "tokens"})


@pytest.fixture
def state() -> TextState:
    """A game in which the draws are worse than the rows: the trigrams were counted on rows with another middle."""
    torch.manual_seed(0)
    other = torch.where(ROWS == 6, 2 + torch.randint(4, 9, ROWS.shape), ROWS)
    return TextState(new_generator(other, vocabulary=12, head=12, embedding=8, hidden=16, candidates=8))


def play(
    state: TextState, interrupted: Callable[[], bool] = lambda: False, rows: LabelledRows = REAL
) -> tuple[str, list[Tick]]:
    ticks: list[Tick] = []
    reason = text_game.play(state, rows, CONFIG, on_tick=lambda t: bool(ticks.append(t)), interrupted=interrupted)
    return reason, ticks


def test_the_discriminator_learns_and_choosing_helps(state: TextState) -> None:
    draws = text_draws.draw(state.generator, 400, seed=77)
    before, _ = text_game.nats_won(state.generator.scorer, REAL, draws)
    reason, ticks = play(state)
    after, _ = text_game.nats_won(state.generator.scorer, REAL, draws)
    assert reason == "epochs"
    assert [tick.seen for tick in ticks] == [120, 240, 360, 480]
    assert ticks[-1].losses["discriminator_loss"] < ticks[0].losses["discriminator_loss"]
    assert after > before + 0.1


def test_choosing_brings_the_words_of_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    # Rows that begin with 3 are of class 0, others of class 1; the net has not learned, so it knows of no class.
    labels = (ROWS[:, 0] != 3).long()
    torch.manual_seed(0)
    monkeypatch.setattr(text_game, "LINEAR_RATE", 0.1)  # there are only 16 updates
    made = new_generator(ROWS, vocabulary=12, head=12, embedding=8, hidden=16, labels=labels, classes=2, candidates=16)
    for seed in range(ROUNDS):  # as before a real game: the texts are as long as the rows
        calibrate(made, ROWS, seed)
    before = share_of_its_own(made)
    assert play(TextState(made), rows=LabelledRows(codes=ROWS, labels=labels))[0] == "epochs"
    assert share_of_its_own(made) > before + 0.2


def share_of_its_own(generator: TokenGenerator) -> float:
    drawn = generate_labelled(generator, draw_noise(generator, 300, seed=1))
    return float(((drawn.codes[:, 0] != 3).long() == drawn.labels).double().mean())


def test_an_epoch_is_a_pass_however_many_rows_there_are(state: TextState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_game, "PASS_ROWS", 30)
    assert [(tick.epoch, tick.seen) for tick in play(state)[1]] == [(1, 30), (2, 60), (3, 90), (4, 120)]


def test_each_pass_has_draws_of_its_own(state: TextState, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    draw = text_game.draw_together

    def spy(generator: TokenGenerator, rows: int, seed: int) -> LabelledRows:
        seeds.append(seed)
        return draw(generator, rows, seed)

    monkeypatch.setattr(text_game, "draw_together", spy)
    config = resolve({"epochs": 4, "generator": "tokens", "seed": 7})
    text_game.play(state, REAL, config, on_tick=lambda tick: False, interrupted=lambda: False)
    assert seeds == [7, 8, 9, 10]


def test_an_interrupted_game_goes_on_bit_for_bit(state: TextState) -> None:
    whole, first, second = (copied(state) for _ in range(3))
    torch.manual_seed(5)
    play(whole)
    torch.manual_seed(5)
    asked = iter(range(6))  # batches: stop in the middle of the second pass
    reason, ticks = play(first, lambda: next(asked, None) is None)
    assert (reason, len(ticks), first.passes) == ("interrupted", 1, 1)
    saved = copy.deepcopy(first.state_dict())
    torch.manual_seed(99)
    second.load_state_dict(saved)
    assert play(second)[0] == "epochs"
    for name, weight in whole.generator.state_dict().items():
        assert torch.equal(weight, second.generator.state_dict()[name]), name


def copied(state: TextState) -> TextState:
    generator: TokenGenerator = copy.deepcopy(state.generator)
    return TextState(generator)


class Scores(torch.nn.Module):
    """The score is the first token's number."""

    def forward(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        assert len(codes) <= scorer.SCORED_ROWS  # so that memory does not grow with the rows
        return codes[:, 0].float()


def test_the_scale_is_that_of_the_density_ratio() -> None:
    # Draws are 0 or 1 with equal probability, real rows are 1 with probability e / (1 + e): the true log ratio is the
    # score itself up to a constant, so the best scale is 1.
    draws = torch.tensor([[0], [1]]).repeat(5000, 1)
    share = math.e / (1 + math.e)
    real = (torch.arange(10_000) < 10_000 * share).long()[:, None]
    scorer: Any = Scores()
    won, scale = text_game.nats_won(scorer, LabelledRows(codes=real), LabelledRows(codes=draws))
    assert scale == pytest.approx(1, abs=0.05)
    assert won == pytest.approx(share * math.log(2 * share) + (1 - share) * math.log(2 * (1 - share)), abs=1e-3)


def test_what_a_class_has_in_common_neither_wins_nor_costs() -> None:
    """Two classes as above, whose scores differ by 20: candidates compete only within their class."""
    draws = torch.tensor([[0], [1]]).repeat(5000, 1)
    real = (torch.arange(10_000) < 10_000 * math.e / (1 + math.e)).long()[:, None]
    scorer: Any = Scores()
    expected = text_game.nats_won(scorer, LabelledRows(codes=real), LabelledRows(codes=draws))
    label = torch.arange(20_000) // 10_000
    both = [LabelledRows(codes=rows.repeat(2, 1) + 20 * label[:, None], labels=label) for rows in (real, draws)]
    assert text_game.nats_won(scorer, *both) == pytest.approx(expected, abs=1e-3)
    absent = LabelledRows(codes=both[0].codes, labels=label + 2)
    assert text_game.nats_won(scorer, absent, both[1])[0] == 0, "nothing was drawn for these classes"


def test_before_it_has_learned_a_discriminator_prefers_nothing(state: TextState) -> None:
    assert (state.generator.scorer(ROWS) == 0).all()


def test_a_useless_discriminator_is_not_believed() -> None:
    rows = torch.randint(0, 9, (2000, 1), generator=torch.Generator().manual_seed(0))
    scorer: Any = Scores()
    won, scale = text_game.nats_won(scorer, LabelledRows(codes=rows.flip(0)), LabelledRows(codes=rows))
    assert scale == 0
    assert won == pytest.approx(0, abs=1e-6)


def test_a_lost_game_is_noticed(state: TextState) -> None:
    with torch.no_grad():
        state.generator.scorer.output.bias.fill_(math.nan)
    with pytest.raises(NonFiniteError, match="losses are"):
        play(state)


def test_a_game_that_is_lost_in_mid_pass_is_noticed_in_that_pass(state: TextState) -> None:
    asked = iter(range(3))  # three of the four batches

    def spoil() -> bool:
        if next(asked, None) is None:
            state.generator.scorer.output.bias.data.fill_(math.nan)
        return False

    with pytest.raises(NonFiniteError, match="losses are"):
        play(state, spoil)
    assert state.passes == 0


def test_each_pass_shows_other_rows(state: TextState, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_minutes_of_all_passes_add_up(state: TextState, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(10**9))  # a pass reads the clock when it begins and when it ends
    monkeypatch.setattr(text_game.time, "monotonic", lambda: float(next(seconds)))
    config = resolve({"max_minutes": 0.05, "generator": "tokens"})
    reason = text_game.play(state, REAL, config, on_tick=lambda tick: tick.epoch == 9, interrupted=lambda: False)
    assert (reason, state.passes, state.seconds) == ("minutes", 3, 3.0)


def test_the_losses_are_those_of_each_side(state: TextState) -> None:
    with torch.no_grad():
        state.generator.scorer.output.bias.fill_(5.0)  # everything looks real
    losses = text_game.update(state, REAL.take(torch.arange(10)), (torch.arange(10) < 5).float())
    assert losses[0] > 1
    assert losses[1] < 0.2, "the draws fool the discriminator"
