"""The pictures: they show what they say, whatever the columns are called."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import StepPatch

from tests.history import HISTORY
from train import evidence, figures
from train.evidence import Evidence, Point


def test_steps_come_down_at_both_ends(found: Evidence) -> None:
    for steps in figures._ones(found).axes[0].patches:
        assert isinstance(steps, StepPatch)
        shares, edges, baseline = steps.get_data()
        assert shares.sum() == pytest.approx(1)
        assert edges[0] == found.heldout.sum(axis=1).min() - 0.5
        assert (np.diff(edges) == 1).all()
        assert baseline == 0


def test_counts_are_labelled_by_whole_numbers_even_if_all_are_equal() -> None:
    axis = figures._histograms({"real": np.full(9, 5), "GAN": np.full(9, 5)}, "ones", "share").axes[0]
    low, high = axis.get_xlim()
    assert [tick for tick in axis.get_xticks() if low <= tick <= high] == [5]


def test_many_different_counts_share_steps() -> None:
    counts = {"real": np.arange(300, 1300), "GAN": np.arange(400, 600)}
    for steps in figures._histograms(counts, "ones", "share").axes[0].patches:
        assert isinstance(steps, StepPatch)
        shares, edges, _ = steps.get_data()
        assert figures.BINS / 2 < len(shares) <= figures.BINS + 1
        assert shares.sum() == pytest.approx(1)
        assert edges[0] == 299.5


def test_the_score_that_chooses_is_shown_among_many() -> None:
    scores = {f"validation_{name}": 1.0 for name in ("a", "b", "c", "d", "e", "f", "score")}
    legend = figures._training([{**HISTORY[0], **scores}]).axes[1].get_legend()
    assert legend is not None
    assert legend.get_texts()[0].get_text() == "validation score"


def test_a_single_tick_can_be_seen() -> None:
    for history, mark in ((HISTORY[:1], "o"), (HISTORY, "None")):
        assert {line.get_marker() for line in figures._training(history).axes[0].get_lines()} == {mark}


def test_the_temperatures_of_equal_curves_do_not_overlap(found: Evidence) -> None:
    points = [Point(temperature=t, bleu=0.2 - t / 10, self_bleu=0.2 - t / 9) for t in evidence.TEMPERATURES]
    real = [Point(temperature=None, bleu=0.1, self_bleu=0.1)]
    judged = dataclasses.replace(found, curves={**dict.fromkeys(("GAN", "warm start", "RNN"), points), "floor": real})
    figure = figures._temperatures(judged)
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].texts]
    assert len(boxes) == 3 * len(points)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_pictures_are_saved_as_files(found: Evidence, tmp_path: Path) -> None:
    figures.save(figures.draw(found, HISTORY), tmp_path / "plots")
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert names == ["correlations.png", "moments.png", "ones.png", "training.png"]


def test_a_busy_machine_is_no_reason_for_a_warning(
    found: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count(step=2)
    monkeypatch.setattr("matplotlib.legend.time.perf_counter", lambda: next(seconds))
    figures.save(figures.draw(found, HISTORY), tmp_path)


def test_few_columns_are_named_in_the_heat_map(found: Evidence) -> None:
    names = ["a$_b$", "a very long name of a column", "shortness_of_breath", "two\nlines", "e"]
    figure = figures.draw(dataclasses.replace(found, columns=names), [])["correlations"]
    shown = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert shown == ["a$_b$", "a very long nam…", "shortness_of_br…", "two lines", "e"]
    settled = figure.axes[0].get_position().intervaly
    figure.set_layout_engine("constrained")
    figure.draw_without_rendering()
    assert figure.axes[0].get_position().intervaly == pytest.approx(settled, abs=1e-3)


def test_columns_may_be_named_in_any_script_without_a_warning(found: Evidence, tmp_path: Path) -> None:
    pictures = figures.draw(dataclasses.replace(found, columns=["发烧", "咳嗽", "皮疹", "头痛", "مرض"]), [])
    assert "发烧" in figures.inline("correlations", pictures["correlations"])
    figures.save({"correlations": pictures["correlations"]}, tmp_path)


@pytest.mark.parametrize("cells", [(0.015, 0.005, 0.005), (0.4, 0.1, 0.1), (0.01, 0.19, 0.01)])
def test_correlations_of_rare_bits_scatter_as_the_picture_says(cells: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(0)
    shares = [*cells, 1 - sum(cells)]
    values = np.array([[1, 1], [1, 0], [0, 1], [0, 0]], dtype=np.uint8)
    samples = [values[rng.choice(4, 1000, p=shares)] for _ in range(400)]
    found = [figures._matrix(sample)[0, 1] for sample in samples]
    expected = figures._correlation_errors(figures._matrix(np.concatenate(samples)), np.concatenate(samples))[0, 1]
    assert np.std(found) == pytest.approx(expected / np.sqrt(1000), rel=0.12)


def test_the_difference_is_what_synthetic_rows_have_more_of() -> None:
    rng = np.random.default_rng(0)
    real = rng.integers(0, 2, (600, 2)).astype(np.uint8)
    made = np.repeat(rng.integers(0, 2, (300, 1)), 2, axis=1).astype(np.uint8)
    figure = figures._correlations(evidence.judge({"GAN": made}, real[:300], real[300:], columns=["a", "b"]))
    shown = [np.asarray(axes.images[0].get_array())[0, 1] for axes in figure.axes[:3]]
    assert shown == pytest.approx([0, 1, 1], abs=0.2)
