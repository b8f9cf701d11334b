"""The report: self-contained, escaped, and honest about what it was given."""

import dataclasses
import random
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.history import HISTORY
from train import builtin, evidence, figures, gate, report, text_metrics
from train.evidence import Evidence, Strings

MISSED = "c2st_auc is 0.9; the gate asks for <= 0.7, missed by 0.2"


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
    return report.render(found, shown, figures.draw(found, shown.history))


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


def test_of_long_rows_only_some_columns_are_shown(found: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight rows of 3,000 columns would push all pictures eight screens down."""
    note = "Shown are the 3 of 5 columns that vary most; distances count all."
    assert note not in rendered(found, page())
    whole = report.neighbours(found, lambda codes: None)
    monkeypatch.setattr(report, "NEIGHBOUR_COLUMNS", 3)
    shown = report.neighbours(found, lambda codes: None)
    assert {len(re.sub("<.*?>", "", pair["row"])) for pair in shown} == {3}
    assert [pair["distance"] for pair in shown] == [pair["distance"] for pair in whole]
    assert note in rendered(found, page())
    assert note not in rendered(found, page(decode=lambda codes: ["a text"] * len(codes)))


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


def test_wide_rows_are_shown_by_their_liveliest_columns() -> None:
    rows = (torch.rand(60, 300, generator=torch.Generator().manual_seed(0)) < 0.5).numpy().astype(np.uint8)
    rows[:, :100] = 0
    assert figures.most_varying(rows).min() >= 100
    assert len(figures.most_varying(rows)) == figures.HEATMAP_COLUMNS
    wide = evidence.judge({"GAN": rows[:20]}, rows[20:40], rows[40:], columns=[f"x{i}" for i in range(300)])
    assert "Shown are the 128 of 300 columns that vary most." in rendered(wide, page())


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


def test_the_texts_that_are_shown_come_from_all_of_a_sorted_file() -> None:
    shown = [pair["row"] for pair in report._text_neighbours([f"text {i:03}" for i in range(100)], ["a text"])]
    assert len(set(shown)) == report.NEIGHBOUR_ROWS
    assert shown == sorted(shown)
    assert shown[-1] > "text 050"


def test_texts_and_their_neighbours_are_shown_with_their_classes(found: Evidence) -> None:
    texts = Strings(
        contenders={"GAN": ["a film"]}, heldout=["a film"], train=["a dull film"], validation=["a fine film"]
    )
    labels = Strings(contenders={"GAN": ["good"]}, heldout=["none"], train=["bad"], validation=["<good>"])
    judged = dataclasses.replace(found, texts=texts, labels=labels)
    (pair,) = report.neighbours(judged, lambda codes: None)
    assert (pair["row"], pair["nearest"]) == ("[good] a film", "[bad] a dull film")
    (pair,) = report.neighbours(judged, lambda codes: None, train_known=False)
    assert pair["nearest"] == "[none] a film"


def test_the_nearest_training_text_stands_beside_a_text() -> None:
    train = ["a long story about nothing", "a fine film", "the plot"]
    (found,) = report._text_neighbours(["a very fine film"], train)
    assert found == {"row": "a very fine film", "nearest": "a fine film", "distance": "0.14"}
