"""Numbers for texts: equal to a plain computation of their definitions, and each failure caught."""

import json
import math

import numpy as np
import pytest

from train import text_metrics

WORDS = ["a", "film", "with", "no", "heart", "and", "great", "wit", "the", "plot"]


def random_texts(n: int, seed: int) -> list[list[str]]:
    """Sentences in which a word depends on the one before it."""
    rng = np.random.default_rng(seed)
    texts = []
    for length in rng.integers(3, 12, n):
        words = [int(rng.integers(10))]
        while len(words) < length:
            words.append(int(words[-1] * 3 + rng.integers(4)) % 10)
        texts.append([WORDS[word] for word in words])
    return texts


def plain_bleu(text: list[str], references: list[list[str]], k: int) -> float:
    """Straight from Papineni et al. (2002), zero counts replaced by 0.1."""
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


def test_frechet_distance_of_known_normals() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(500, 3))
    assert text_metrics.frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert text_metrics.frechet(a, a + np.array([3, 0, 4])) == pytest.approx(25, abs=1e-9)
    # Of N(0, C) and N(0, 4 C): trace(C + 4 C - 2 * 2 C) = trace(C)
    centred = a - a.mean(axis=0)
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


def test_texts_without_a_word_can_be_judged() -> None:
    wordless: list[list[str]] = [[]] * (2 * text_metrics.CONV_BATCH)  # whole batches of them
    scores = text_metrics.conv_judge([*random_texts(20, 1), *wordless], np.arange(148) % 2, [[], ["a", "film"]], 0)
    assert np.isfinite(scores).all()


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


@pytest.fixture
def _no_text_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_metrics, "text_c2st", lambda *_: (0.5, 0.01))


def test_no_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="too few texts"):
        text_metrics.compare_text([], [["a"]], [["a"]])
