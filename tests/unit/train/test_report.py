"""The report: self-contained, escaped, and honest about what it was given."""

import dataclasses
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.patches import StepPatch
from torch import Tensor

from train import builtin, evidence, gate, report, text_metrics
from train.evidence import Evidence, Strings

MISSED = "c2st_auc is 0.9; the gate asks for <= 0.7, missed by 0.2"
HISTORY = [
    {"seen": 1000 * i, "generator_loss": 0.8, "discriminator_loss": 0.6, "validation_score": 2.0 - i / 10}
    for i in range(10)
]


@pytest.fixture(scope="module")
def found() -> Evidence:
    rows = builtin.toy(900)
    shuffled = np.random.default_rng(0).permuted(rows[:300], axis=0)
    contenders = {"GAN": rows[600:], "marginals": shuffled}
    return evidence.judge(contenders, rows[:300], rows[300:600], columns=list("abcde"))


def page(decode: Callable[[Tensor], list[str] | None] = lambda codes: None, **changes: object) -> report.Page:
    fields = {
        "title": "toy <b>rows</b>",
        "verdict": gate.Verdict(reasons=[MISSED], missed=[MISSED]),
        "history": HISTORY,
        "decode": decode,
        "provenance": {"data": "toy"},
    }
    return report.Page(**{**fields, **changes})  # type: ignore[arg-type]


def rendered(found: Evidence, shown: report.Page) -> str:
    return report.render(found, shown, report.figures(found, shown.history))


def test_the_page_needs_nothing_from_outside(found: Evidence) -> None:
    html = rendered(found, page())
    assert not re.search(r"<(script|link|img|iframe)|url\(|@import", html.replace("url(#", ""))
    links = set(re.findall(r'(?:src|href)="([^"]*)"', html))
    assert all(link.startswith(("#", "data:")) for link in links)


def test_the_page_shows_every_contender_and_the_verdict(found: Evidence) -> None:
    html = rendered(found, page())
    for part in (">GAN<", ">marginals<", ">floor<", "The quality gate failed: c2st_auc is 0.9", "correlation_ratio"):
        assert part in html
    assert html.count("<svg") == 4


@pytest.mark.parametrize("length", [1, 2])
def test_rows_too_short_for_pairs_or_triples_have_pictures(length: int) -> None:
    rows = builtin.toy(90)[:, :length]
    short = evidence.judge({"GAN": rows[60:]}, rows[:30], rows[30:60], columns=list("ab"[:length]))
    assert rendered(short, page()).count("<svg") == 4


def test_of_texts_it_speaks_of_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_metrics, "text_c2st", lambda *_: (0.5, 0.01))
    rng = random.Random(0)
    texts = [" ".join(rng.choices(["film", "good", "plot", "dull"], k=rng.randrange(2, 9))) for _ in range(60)]
    found = evidence.judge_texts({"GAN": texts[40:]}, texts[:20], texts[20:40])
    verdict = gate.check(gate.read("default", texts=True), found.scores["GAN"])
    html = rendered(found, page(title="reviews", verdict=verdict, history=[], provenance={}, generator="tokens"))
    words = re.sub("<style.*?</style>|<[^>]*>", " ", html, flags=re.DOTALL)
    assert "Common words" in words
    assert "texts are too few to measure" in words
    spoken = " ".join([words, verdict.sentence, evidence.table(found)])
    assert re.findall(r".*\b(?:columns?|rows?|ones in)\b.*", spoken) == []


def test_steps_come_down_at_both_ends(found: Evidence) -> None:
    for steps in report._ones(found).axes[0].patches:
        assert isinstance(steps, StepPatch)
        shares, edges, baseline = steps.get_data()
        assert shares.sum() == pytest.approx(1)
        assert edges[0] == found.heldout.sum(axis=1).min() - 0.5
        assert (np.diff(edges) == 1).all()
        assert baseline == 0


def test_many_different_counts_share_steps() -> None:
    counts = {"real": np.arange(300, 1300), "GAN": np.arange(400, 600)}
    for steps in report._histograms(counts, "ones", "share").axes[0].patches:
        assert isinstance(steps, StepPatch)
        shares, edges, _ = steps.get_data()
        assert report.BINS / 2 < len(shares) <= report.BINS + 1
        assert shares.sum() == pytest.approx(1)
        assert edges[0] == 299.5


def test_what_users_bring_is_escaped(found: Evidence) -> None:
    html = rendered(found, page(decode=lambda codes: ["<script>alert(1)</script>"] * len(codes)))
    assert "<script>" not in html
    assert "toy &lt;b&gt;rows" in html


def test_control_characters_are_replaced(found: Evidence) -> None:
    html = rendered(found, page(decode=lambda codes: ["a\x00b\x1b\x7f\x85\tc\n"] * len(codes)))
    assert "a\ufffdb\ufffd\ufffd\ufffd\tc\n" in html
    assert not re.search(r"[^\n\t -~\u00a0-\U0010ffff]", html)


def test_without_training_there_are_no_loss_curves(found: Evidence) -> None:
    html = rendered(found, page(history=[]))
    assert "<h2>Training</h2>" not in html
    assert html.count("<svg") == 3


def test_the_same_evidence_gives_the_same_page(found: Evidence) -> None:
    assert rendered(found, page()) == rendered(found, page())


def test_neighbours_are_the_nearest_training_rows(found: Evidence) -> None:
    for pair, row in zip(report.neighbours(found, lambda codes: None), found.contenders["GAN"], strict=False):
        assert pair["distance"] == np.abs(found.train.astype(int) - row).sum(axis=1).min()


def test_validation_rows_may_be_the_nearest_too(found: Evidence) -> None:
    copied = dataclasses.replace(found, validation=found.contenders["GAN"])
    assert {pair["distance"] for pair in report.neighbours(copied, lambda codes: None)} == {0}
    texts = Strings(contenders={"GAN": ["A dull film"]}, heldout=[], train=["a film"], validation=["dull: a film"])
    (pair,) = report.neighbours(dataclasses.replace(found, texts=texts), lambda codes: None)
    assert (pair["nearest"], pair["distance"]) == ("dull: a film", "0.00")


def test_a_text_is_near_to_another_by_the_share_of_their_words(found: Evidence) -> None:
    real = ["A film", "Not a funny film, and not a short one, but with a heart", "A dull and long film with a heart"]
    texts = Strings(contenders={"GAN": ["a short film with a great heart"]}, heldout=real, train=real)
    (pair,) = report.neighbours(dataclasses.replace(found, texts=texts), lambda codes: None)
    assert (pair["nearest"], pair["distance"]) == (real[2], f"{5 / 15:.2f}")  # the first is at 5 / 9


def test_without_training_rows_every_real_row_may_be_the_nearest(found: Evidence) -> None:
    copied = dataclasses.replace(found, contenders={"GAN": found.heldout[:50]})
    assert {pair["distance"] for pair in report.neighbours(copied, lambda codes: None, train_known=False)} == {0}
    html = rendered(copied, page(train_known=False, history=[]))
    assert "Rows, and the nearest real rows</h2>" in html
    assert "nearest row seen in training" not in html
    assert "nearest row seen in training" in rendered(copied, page())


def test_the_page_says_what_ships(found: Evidence) -> None:
    for history in (HISTORY, []):  # a game may have had no time for a tick
        html = rendered(found, page(history=history, outcome="The warm start ships: the game had no time."))
        assert "The warm start ships: the game had no time." in html


def test_a_missed_limit_stands_out(found: Evidence) -> None:
    assert f"<strong>{MISSED.replace('<', '&lt;')}</strong>" in rendered(found, page())


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, "Balanced"),
        ({"discriminator_loss": 0.01}, "Discriminator too strong"),
        ({"validation_score": 9.0}, "Past its best"),
        ({"validation_distinct_ratio": 0.3}, "Collapsing"),
        ({"validation_copy_excess": 0.2, "validation_copy_excess_low": 0.05}, "Memorising"),
        ({"validation_copy_excess": 0.2, "validation_copy_excess_low": -0.05}, "Balanced"),
    ],
)
def test_loss_curves_are_read_in_plain_words(changes: dict[str, float], word: str) -> None:
    assert report.diagnosis([*HISTORY, {**HISTORY[-1], **changes}]).startswith(word)


@pytest.mark.parametrize(
    "scores", [{"constant_columns": 4, "distinct_ratio": 0.1}, {"distinct_ratio": 0.5, "distinct_ratio_high": 0.6}]
)
def test_what_ships_collapsed_is_said_to_have(scores: dict[str, float]) -> None:
    for generator, word in (("nade", "--penalty"), ("textbook", "column means"), ("tokens", "temperature")):
        said = report.diagnosis(HISTORY, generator, scores)
        assert said.startswith("Collapsed")
        assert word in said
        assert ("unlike in real ones" in said) == ("constant_columns" in scores)
        assert generator != "tokens" or not re.search("column|row", said)


def test_advice_names_options_that_the_game_has() -> None:
    lost = [{**HISTORY[-1], "discriminator_loss": 0.01}]
    assert "--penalty" in report.diagnosis(lost)
    for generator in ("tokens", "textbook"):
        assert "--" not in report.diagnosis(lost, generator)


def test_only_the_game_that_flips_is_told_to_flip_more() -> None:
    copies = [{**HISTORY[-1], "validation_copy_excess": 0.2, "validation_copy_excess_low": 0.1}]
    assert "--flip" in report.diagnosis(copies)
    assert report.diagnosis(copies, "textbook").endswith("Use more data.")


def test_the_textbook_adds_two_losses_up() -> None:
    lost = [{**HISTORY[-1], "discriminator_loss": 0.12}]  # less than a tenth of 2 log 2
    assert report.diagnosis(lost).startswith("Balanced")
    assert "(balance: 1.39)" in report.diagnosis(lost, "textbook")


def test_the_score_that_chooses_is_shown_among_many() -> None:
    scores = {f"validation_{name}": 1.0 for name in ("a", "b", "c", "d", "e", "f", "score")}
    legend = report._training([{**HISTORY[0], **scores}]).axes[1].get_legend()
    assert legend is not None
    assert legend.get_texts()[0].get_text() == "validation score"


def test_a_single_tick_can_be_seen() -> None:
    for history, mark in ((HISTORY[:1], "o"), (HISTORY, "None")):
        assert {line.get_marker() for line in report._training(history).axes[0].get_lines()} == {mark}


def test_pictures_are_saved_as_files(found: Evidence, tmp_path: Path) -> None:
    report.save_figures(report.figures(found, HISTORY), tmp_path / "plots")
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert names == ["correlations.png", "moments.png", "ones.png", "training.png"]


def test_wide_rows_are_shown_by_their_liveliest_columns() -> None:
    rows = (torch.rand(60, 300, generator=torch.Generator().manual_seed(0)) < 0.5).numpy().astype(np.uint8)
    rows[:, :100] = 0
    assert report._most_varying(rows).min() >= 100
    assert len(report._most_varying(rows)) == report.HEATMAP_COLUMNS
    wide = evidence.judge({"GAN": rows[:20]}, rows[20:40], rows[40:], columns=[f"x{i}" for i in range(300)])
    assert "Shown are the 128 of 300 columns that vary most." in rendered(wide, page())


def test_few_columns_are_named_in_the_heat_map(found: Evidence) -> None:
    names = ["a$_b$", "a very long name of a column", "shortness_of_breath", "two\nlines", "e"]
    figure = report.figures(dataclasses.replace(found, columns=names), [])["correlations"]
    shown = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert shown == ["a$_b$", "a very long nam…", "shortness_of_br…", "two lines", "e"]
    settled = figure.axes[0].get_position().intervaly
    figure.set_layout_engine("constrained")
    figure.draw_without_rendering()
    assert figure.axes[0].get_position().intervaly == pytest.approx(settled, abs=1e-3)


def test_columns_may_be_named_in_any_script_without_a_warning(found: Evidence, tmp_path: Path) -> None:
    pictures = report.figures(dataclasses.replace(found, columns=["发烧", "咳嗽", "皮疹", "头痛", "مرض"]), [])
    assert "发烧" in report._inline("correlations", pictures["correlations"])
    report.save_figures({"correlations": pictures["correlations"]}, tmp_path)


@pytest.mark.parametrize("cells", [(0.015, 0.005, 0.005), (0.4, 0.1, 0.1), (0.01, 0.19, 0.01)])
def test_correlations_of_rare_bits_scatter_as_the_picture_says(cells: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(0)
    shares = [*cells, 1 - sum(cells)]
    values = np.array([[1, 1], [1, 0], [0, 1], [0, 0]], dtype=np.uint8)
    samples = [values[rng.choice(4, 1000, p=shares)] for _ in range(400)]
    found = [report._matrix(sample)[0, 1] for sample in samples]
    expected = report._correlation_errors(report._matrix(np.concatenate(samples)), np.concatenate(samples))[0, 1]
    assert np.std(found) == pytest.approx(expected / np.sqrt(1000), rel=0.12)


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
    assert found == {"row": "a very fine film", "nearest": "a fine film", "distance": "0.14"}


def test_the_difference_is_what_synthetic_rows_have_more_of() -> None:
    rng = np.random.default_rng(0)
    real = rng.integers(0, 2, (600, 2)).astype(np.uint8)
    made = np.repeat(rng.integers(0, 2, (300, 1)), 2, axis=1).astype(np.uint8)
    figure = report._correlations(evidence.judge({"GAN": made}, real[:300], real[300:], columns=["a", "b"]))
    shown = [np.asarray(axes.images[0].get_array())[0, 1] for axes in figure.axes[:3]]
    assert shown == pytest.approx([0, 1, 1], abs=0.2)
