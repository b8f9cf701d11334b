"""Metrics of texts: equal to plain implementations of their definitions, and each failure is caught."""

import json
import math
import random
from typing import Any

import numpy as np
import pytest
import torch

from tests.sentences import random_texts
from train import cpus, text_metrics
from train.codec import words_of


def plain_bleu(text: list[str], references: list[list[str]], k: int) -> float:
    """Straight from Papineni et al. (2002), with zero counts replaced by 0.1."""
    product = 1.0
    for n in range(1, k + 1):
        grams = [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]
        hits = 0
        for gram in set(grams):
            most = max([tuple(r[i : i + n]) for i in range(len(r) - n + 1)].count(gram) for r in references)
            hits += min(grams.count(gram), most)
        if n == 1 and hits == 0:
            return 0.0
        product *= (hits or 0.1) / max(1, len(grams))
    closest = min((len(r) for r in references), key=lambda length: (abs(length - len(text)), length))
    return min(1.0, math.exp(1 - closest / len(text))) * product ** (1 / k)


def test_bleu_equals_its_definition() -> None:
    texts, references = [*random_texts(20, 1), ["unheard"], ["of"], ["film"] * 9], random_texts(30, 2)
    expected = [[plain_bleu(text, references, k) for k in range(2, 6)] for text in texts]
    np.testing.assert_allclose(text_metrics.bleu(texts, references), expected, atol=1e-9)
    alone = text_metrics.bleu([["a", "film"]], [["a", "film"], ["a", "film", "with", "no"]])
    assert alone[0, 0] == pytest.approx(1), "one reference of the same length is enough"


def test_self_bleu_leaves_a_text_out_of_its_own_references() -> None:
    texts = [*random_texts(20, 1), ["a"] * 15, ["a", "film"], ["a", "film"]]
    expected = [[plain_bleu(text, texts[:i] + texts[i + 1 :], k) for k in range(2, 6)] for i, text in enumerate(texts)]
    np.testing.assert_allclose(text_metrics.self_bleu(texts), expected, atol=1e-9)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_ngram_divergence_equals_its_definition(k: int) -> None:
    a, b = random_texts(40, 1), random_texts(40, 2)
    p, q = ([tuple(t[i : i + k]) for t in texts for i in range(len(t) - k + 1)] for texts in (a, b))
    total = 0.0
    for gram in set(p) | set(q):
        x, y = p.count(gram) / len(p), q.count(gram) / len(q)
        total += sum(0.5 * z * math.log2(z / ((x + y) / 2)) for z in (x, y) if z)
    assert text_metrics.ngram_js(a, b, k) == pytest.approx(total, abs=1e-9)
    assert text_metrics.ngram_js(a, a, k) == 0
    assert text_metrics.ngram_js(a, [["z"] * 5], k) == pytest.approx(1)
    assert text_metrics.ngram_js(a, [[], ["a"] * (k - 1)], k) == 1, "too short for any n-gram"
    assert text_metrics.ngram_js([[]], [["a"] * (k - 1)], k) == 0


def test_frechet_distance_of_known_normals() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(500, 3))
    assert text_metrics.frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert text_metrics.frechet(a, a + np.array([3, 0, 4])) == pytest.approx(25, abs=1e-9)
    # Between N(0, C) and N(0, 4 C): trace(C + 4 C - 2 * 2 C) = trace(C)
    centred = a - a.mean(axis=0)
    assert math.isnan(text_metrics.frechet(a, a[:1]))
    assert text_metrics.frechet(centred, 2 * centred) == pytest.approx(np.trace(np.cov(a.T)), abs=1e-9)


def test_presence_and_lengths_of_texts() -> None:
    texts = [["b", "a", "b"], ["b"], ["c", "a", "b"]]
    assert text_metrics.commonest_tokens(texts, 2) == ["b", "a"]
    assert text_metrics.presence(texts, ["b", "a"]).tolist() == [[1, 1], [1, 0], [1, 1]]
    assert text_metrics.length_distance(texts, [["x"] * 4] * 3) == pytest.approx(5 / 3)


def test_fresh_texts_pass_and_shuffled_words_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_metrics, "conv_judge", text_metrics.ngram_judge)
    a, b, c = (random_texts(300, seed) for seed in (1, 2, 3))
    rng = np.random.default_rng(0)
    shuffled = [rng.permutation(text).tolist() for text in a]
    fresh, caught = text_metrics.compare_text(a, b, c), text_metrics.compare_text(shuffled, b, c)
    assert 0.4 < fresh["c2st_auc"] < 0.6
    assert caught["c2st_auc_low"] > 0.7
    assert caught["ngram_js_1"] == pytest.approx(fresh["ngram_js_1"])
    assert caught["ngram_js_2"] > 5 * caught["ngram_js_2_floor"]
    assert caught["bleu_3"] < caught["bleu_3_floor"] - 0.1
    json.dumps(caught, allow_nan=False)


def test_the_convolutional_judge_sees_word_order() -> None:
    a, b = random_texts(200, 1), random_texts(200, 2)
    shuffled = [np.random.default_rng(0).permutation(text).tolist() for text in a]
    auc, error = text_metrics.text_c2st(shuffled, b, 0, text_metrics.conv_judge, 3)
    assert auc - 2 * error > 0.6
    assert text_metrics.text_c2st(shuffled, b, 0, text_metrics.conv_judge, 3) == (auc, error)


def test_the_convolutional_judge_says_the_same_in_threads_and_leaves_torchs_generator_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpus, "usable", lambda: 3)
    a, b = random_texts(100, 1), random_texts(100, 2)
    judge, before = text_metrics.conv_judge, torch.get_rng_state()
    one_by_one = text_metrics.text_c2st(a, b, 0, judge, 3)
    assert [text_metrics.text_c2st(a, b, 0, judge, 3, cpus.in_threads) for _ in range(3)] == 3 * [one_by_one]
    assert torch.equal(torch.get_rng_state(), before)


def test_judges_of_texts_need_some_texts() -> None:
    texts = random_texts(24, 1)
    assert math.isnan(text_metrics.text_c2st(texts, texts, 0, text_metrics.ngram_judge, 5)[0])


def test_the_convolutional_judge_says_the_same_of_the_same_text() -> None:
    text = ["a", "film", "with", "no", "heart"]
    texts, numbers = [*random_texts(20, 1), text, text], np.arange(22)
    first, second = text_metrics.conv_judge(texts, numbers % 2, 0)(numbers[:20], numbers[20:])
    assert first == pytest.approx(second, abs=1e-5)  # rounding; dropout would change far more


def test_texts_without_a_word_can_be_judged() -> None:
    wordless: list[list[str]] = [[]] * (2 * text_metrics.CONV_BATCH)  # enough for two batches
    texts, numbers = [*random_texts(20, 1), *wordless, [], ["a", "film"]], np.arange(150)
    scores = text_metrics.conv_judge(texts, numbers % 2, 0)(numbers[:148], numbers[148:])
    assert np.isfinite(scores).all()


def test_a_long_text_does_not_pad_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a single document among many sentences would fill the memory."""
    widths: list[int] = []
    forward = text_metrics._ConvNet.forward

    def noted(net: Any, ids: torch.Tensor, *rng: torch.Generator) -> torch.Tensor:
        widths.append(ids.shape[1])
        return forward(net, ids, *rng)

    monkeypatch.setattr(text_metrics._ConvNet, "forward", noted)
    texts, numbers = [*random_texts(127, 1), ["film"] * 300], np.arange(128)  # two batches
    text_metrics.conv_judge(texts, numbers % 2, 0)(numbers, numbers)
    assert sum(width > 200 for width in widths) == len(widths) / 2


@pytest.mark.usefixtures("_no_text_judge")
def test_collapsed_and_copied_texts_are_caught() -> None:
    a, b, c = (random_texts(100, seed) for seed in (1, 2, 3))
    collapsed = text_metrics.compare_text(a[:4] * 25, b, c, embed=lambda texts: np.eye(len(texts)))
    assert collapsed["self_bleu_5"] > collapsed["self_bleu_5_floor"] + 0.2
    assert collapsed["distinct_ratio"] < 0.05
    assert collapsed["frechet"] == pytest.approx(0, abs=1e-6)
    floor = text_metrics.text_floor(b, c, 100)
    assert text_metrics.compare_text(a, b, c, floor=floor) == text_metrics.compare_text(a, b, c)
    assert text_metrics.compare_text(c, b, c)["copy_excess_low"] > 0.5
    assert text_metrics.compare_text(c, b, a, validation=c)["copy_excess_low"] > 0.5


def test_eight_words_in_a_row_are_a_passage() -> None:
    learned = [[f"w{i}" for i in range(20)], [f"v{i}" for i in range(20)]]
    seven, eight = learned[0][3:10], learned[0][3:11]
    made = [["a", *seven, "b"], ["a", *eight, "b"], eight, learned[1], [], ["a"] * 8]
    assert text_metrics.passage_rates(made, [seven, eight], learned) == (3 / 6, 1 / 2)


@pytest.mark.usefixtures("_no_text_judge")
def test_texts_that_are_put_together_from_learned_ones_are_caught() -> None:
    fresh, heldout, train, validation = ([[f"{kind}{i}-{j}" for j in range(20)] for i in range(40)] for kind in "abcd")
    for learned in (train, validation):
        made = [one[:10] + other[10:] for one, other in zip(learned, learned[1:] + learned[:1], strict=True)]
        scores = text_metrics.compare_text(made, heldout, train, validation=validation)
        assert scores["copy_excess"] == 0
        assert scores["passage_excess_low"] > 0.5
    assert text_metrics.compare_text(fresh, heldout, train)["passage_excess"] == 0


@pytest.mark.usefixtures("_no_text_judge")
def test_every_number_stands_under_its_name() -> None:
    a, b, c = (random_texts(12, seed) for seed in (1, 2, 3))
    scores = text_metrics.compare_text(a, b, c)
    for end, made in (("", a), ("_floor", c)):
        for k in range(2, 6):
            likeness = [plain_bleu(text, b, k) for text in made]
            among = [plain_bleu(text, made[:i] + made[i + 1 :], k) for i, text in enumerate(made)]
            assert scores[f"bleu_{k}{end}"] == pytest.approx(np.mean(likeness))
            assert scores[f"self_bleu_{k}{end}"] == pytest.approx(np.mean(among))
        for k in range(1, 5):
            assert scores[f"ngram_js_{k}{end}"] == pytest.approx(text_metrics.ngram_js(made, b, k))
    for judge in ("c2st_auc", "c2st_conv_auc"):
        found = [scores[f"{judge}{end}"] for end in ("_low", "", "_high")]
        assert found == pytest.approx([0.4804, 0.5, 0.5196], abs=1e-4)


def test_the_judge_of_ngrams_reads_up_to_three_words_with_both_ends() -> None:
    words = ["", "a", "film", ""]
    expected = [tuple(words[i : i + k]) for k in (1, 2, 3) for i in range(5 - k)]
    assert text_metrics._up_to_trigrams(["a", "film"]) == expected


@pytest.fixture
def _no_text_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_metrics, "text_c2st", lambda *_: (0.5, 0.01))


def test_no_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="too few texts"):
        text_metrics.compare_text([], [["a"]], [["a"]])


def labelled_texts(n: int, seed: int, kinds: int = 2) -> tuple[list[list[str]], list[str]]:
    """Sentences and their classes: nine of ten sentences contain a word that marks their class."""
    rng = np.random.default_rng(seed)
    labels = [str(label) for label in rng.integers(kinds, size=n)]
    texts = random_texts(n, seed)
    told = rng.random(n) < 0.9
    return [
        [*text, f"of{label}"] if yes else text for text, label, yes in zip(texts, labels, told, strict=True)
    ], labels


@pytest.mark.parametrize("kinds", [2, 4])
def test_the_utility_of_texts_is_lost_when_their_classes_are_shuffled(kinds: int) -> None:
    made, heldout, train = (labelled_texts(200, seed, kinds) for seed in (1, 2, 3))
    good, floor = (text_metrics.label_scores(each, heldout, 200) for each in (made, train))
    assert good["utility"] > 0.85
    assert good["utility"] == pytest.approx(floor["utility"], abs=0.05)
    shuffled = made[0], np.random.default_rng(0).permutation(made[1]).tolist()
    bad = text_metrics.label_scores(shuffled, heldout, 200)
    assert bad["utility"] < 0.7
    assert bad["label_distance"] == good["label_distance"], "the shares are the same"


def test_utility_is_an_auc_of_each_class_against_the_rest() -> None:
    """A class that the made texts lack counts as 0.5; one that the real texts lack does not count."""
    made, heldout = labelled_texts(300, 1, 3), labelled_texts(300, 2, 3)
    whole = text_metrics.text_utility(made, heldout, 0)
    kept = [row for row, label in enumerate(made[1]) if label != "2"]
    lacking = [made[0][row] for row in kept], [made[1][row] for row in kept]
    share = heldout[1].count("2") / 300
    assert text_metrics.text_utility(lacking, heldout, 0) == pytest.approx((1 - share) * whole + share * 0.5, abs=0.03)
    more = [*made[0], *random_texts(20, 4)], [*made[1], *["unheard of"] * 20]
    assert text_metrics.text_utility(more, heldout, 0) == pytest.approx(whole, abs=0.03)


def test_texts_of_one_class_have_no_utility() -> None:
    made, heldout = labelled_texts(50, 1), labelled_texts(50, 2)
    single = made[0], ["0"] * 50
    assert text_metrics.text_utility(single, heldout, 0) == 0.5
    scores = text_metrics.label_scores(made, single, 50)
    assert scores["utility"] is None
    assert scores["label_distance"] == pytest.approx(made[1].count("1") / 50)


def test_label_distance_is_the_share_of_rows_of_another_class() -> None:
    assert text_metrics.label_distance(["a", "a", "b", "b"], ["b", "a", "a", "b"]) == 0
    assert text_metrics.label_distance(["a", "a", "b", "c"], ["a", "b"]) == pytest.approx(0.25)
    assert text_metrics.label_distance(["a"], ["b", "c"]) == 1


def test_classes_stay_with_their_texts_when_fewer_are_compared() -> None:
    made, heldout = labelled_texts(400, 1), labelled_texts(200, 2)
    assert text_metrics.label_scores(made, heldout, 200, seed=5)["utility"] > 0.85


@pytest.mark.filterwarnings("error")
def test_texts_without_words_are_compared_in_silence() -> None:
    nothing: list[list[str]] = [[]] * 30
    scores = text_metrics.compare_text(nothing, nothing, [["word"], *nothing[1:]])
    assert scores["columns"] == 0


@pytest.fixture
def _no_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_metrics, "text_c2st", lambda *_: (0.5, 0.01))


@pytest.mark.usefixtures("_no_judges")
@pytest.mark.parametrize(
    ("text", "unspaced"),
    [
        ("这部电影真的非常精彩。看完以后想再看一遍。", True),
        ("この映画はとても面白かったです。", True),
        ("ภาพยนตร์เรื่องนี้สนุกมาก", True),
        ("这 部 电影 真的 非常 精彩 。 看完 以后 想 再 看 一遍 。", False),
        ("이 영화는 정말 재미있었어요.", False),
        ("هذا الفيلم جميل جدا", False),
        ("an extraordinarily long film", False),
    ],
)
def test_texts_without_spaces_between_words_are_named(text: str, unspaced: bool) -> None:
    texts = [words_of(text)] * 12
    warnings = text_metrics.compare_text(texts, texts, texts)["warnings"]
    assert any("no spaces between words" in warning for warning in warnings) == unspaced


@pytest.mark.usefixtures("_no_judges")
def test_copies_of_any_training_text_are_found_although_fewer_are_compared() -> None:
    heldout, train = random_texts(50, 1), random_texts(400, 2)
    scores = text_metrics.compare_text(train[300:350], heldout, train)
    assert scores["n"] == 50
    assert scores["copy_rate"] == 1


@pytest.mark.usefixtures("_no_judges")
def test_repeated_texts_are_said_to_be_compared_by_their_words() -> None:
    texts = random_texts(50, 1)
    warnings = text_metrics.compare_text(texts, texts, texts)["warnings"]
    assert any("among the training texts but for capitals and punctuation" in warning for warning in warnings)


@pytest.mark.usefixtures("_no_judges")
def test_of_sorted_texts_those_that_are_compared_are_drawn_from_all() -> None:
    heldout, train, made = (sorted(random_texts(n, seed)) for n, seed in ((800, 1), (800, 2), (100, 3)))
    scores = text_metrics.compare_text(made, heldout, train)
    assert scores["ngram_js_1"] < 0.02
    assert scores["ngram_js_1_floor"] < 0.02


@pytest.mark.usefixtures("_no_judges")
def test_the_words_that_are_compared_are_those_of_the_real_texts() -> None:
    rng = random.Random(0)
    heldout, train, made = ([rng.choices("abcdefghij"[:words], k=4) for _ in range(60)] for words in (3, 5, 9))
    assert text_metrics.compare_text(made, heldout, train)["columns"] == 3
