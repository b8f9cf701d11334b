"""Metrics for texts, beside those of metrics.py: n-grams, BLEU, lengths, and judges that read.

Texts are lists of lists of tokens. As with bits, the numbers of the synthetic texts against the held-out ones stand
beside those of the training texts, their floors.
"""

import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from scipy.stats import wasserstein_distance
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from train import cpus
from train.bits import Array, Bits, Floats
from train.copies import constant_columns, distinct_scores, excess_scores
from train.intervals import Scores
from train.judges import FOLDS, Map, auc_over_folds, auc_scores, auc_with_variance
from train.metrics import finite, warnings_of
from train.ratios import ratio_scores

Texts = Sequence[Sequence[str]]
Labelled = tuple[Texts, Sequence[str]]  # texts and their classes
Item = TypeVar("Item")
Embed = Callable[[Texts], Array]  # sentence embeddings, (texts, dimensions)
# Given texts, which of them are made, and a seed: a function that learns from texts, whose indices come first, and
# says how synthetic others look to it.
TextJudge = Callable[[Texts, Array, int], Callable[[Array, Array], Array]]

CONV_EPOCHS, CONV_BATCH = 8, 64
PRESENCE_WORDS = 64  # the held-out texts' commonest, whose presence the ratios are about
CONV_FOLDS = 3  # fewer, because the net is slower to train than the other judges
EMBEDDED_TEXTS = 1000  # of each kind, for the Frechet distance: a thousand sentences take ten seconds
WIDEST = 5  # tokens that the net's widest filter sees
TORCH_RANDOM = threading.Lock()  # held while torch's own random generator is seeded
# Six letters in a row of Thai, Lao, Burmese, Khmer, Japanese or Chinese, which put no spaces between words. Where a
# text has been cut into words, most are shorter.
UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]{6}")
UNSPACED_SHARE = 0.5  # the share of all letters in such words from which on numbers about words say little
PASSAGE_WORDS = 8  # consecutive: 1 of 900 film reviews shares that many with 5,000 others, and 1 of 30 captions


def compare_text(
    synthetic: Texts,
    heldout: Texts,
    train: Texts,
    *,
    validation: Texts = (),
    seed: int = 0,
    embed: Embed | None = None,
    floor: Scores | None = None,
) -> Scores:
    """Every number for text, at equal n, in the shape that `compare` returns.

    The ratios are those of ratios.py for the presence of the held-out texts' 64 commonest tokens. Floors are the
    numbers of training texts in place of synthetic ones.

    Args:
        synthetic, heldout, train: token lists.
        validation: further token lists that a text, or a passage, may be a copy of.
        embed: sentence embeddings of texts, (texts, dimensions), for the Frechet distance.
        floor: what `text_floor` returned for the same arguments; measured if not given.

    Raises:
        ValueError: a set is empty.
    """
    if not (synthetic and heldout and train):
        raise ValueError("there are too few texts to compare")
    n = min(len(synthetic), len(heldout), len(train))
    s, h, t = (_drawn(rows, n, seed) for rows in (synthetic, heldout, train))
    vocabulary = commonest_tokens(h, PRESENCE_WORDS)
    a, b, c = (presence(rows, vocabulary) for rows in (s, h, t))
    sizes = {"synthetic_rows": len(synthetic), "heldout_rows": len(heldout), "train_rows": len(train)}
    scores: Scores = {"n": n, **sizes, "columns": len(vocabulary), "soft_share": 0.0}
    scores |= ratio_scores(a, b, c, seed) | constant_columns(a, b)
    scores |= _numbers(s, h, seed, embed) | (floor or text_floor(heldout, train, n, seed=seed, embed=embed))
    scores |= _text_copy_scores(s, h, [*train, *validation])
    # The columns have no natural order, so lags say nothing.
    scores = {name: finite(score) for name, score in scores.items() if not name.startswith("lag_")}
    warnings = warnings_of(scores, texts=True)
    if is_unspaced(h):
        warnings.insert(
            0, "the texts have no spaces between words: whole clauses count as words, so the numbers mean little"
        )
    return {**scores, "warnings": warnings}


def label_scores(synthetic: Labelled, heldout: Labelled, n: int, *, seed: int = 0) -> Scores:
    """What classes add to `compare_text`: how common each is, and whether it matches the texts.

    Args:
        n: how many texts of each set are compared; must not exceed their number.
    """
    made, real = ((_drawn(texts, n, seed), _drawn(labels, n, seed)) for texts, labels in (synthetic, heldout))
    return {
        "label_distance": label_distance(made[1], real[1]),
        "utility": finite(text_utility(made, real, seed)),
    }


def text_floor(heldout: Texts, train: Texts, n: int, *, seed: int = 0, embed: Embed | None = None) -> Scores:
    """What `n` training texts score in place of synthetic ones; the same for all contenders.

    Args:
        n: how many texts of each set are compared; must not exceed their number.
    """
    found = _numbers(_drawn(train, n, seed), _drawn(heldout, n, seed), seed, embed)
    return {
        f"{name.removesuffix('_auc')}_floor": v for name, v in found.items() if not name.endswith(("_low", "_high"))
    }


def _drawn(texts: Sequence[Item], n: int, seed: int) -> list[Item]:
    return [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))[:n]]


def commonest_tokens(texts: Texts, size: int) -> list[str]:
    """The `size` tokens that are present in most texts, ties in alphabetical order."""
    counts = Counter(token for text in texts for token in set(text))
    return sorted(counts, key=lambda token: (-counts[token], token))[:size]


def is_unspaced(texts: Texts) -> bool:
    """Whether most letters are in `UNSPACED` words: those of languages written without spaces, not cut into words."""
    words = [word for text in texts for word in text]
    return sum(len(word) for word in words if UNSPACED.search(word)) > UNSPACED_SHARE * sum(map(len, words))


def presence(texts: Texts, tokens: Sequence[str]) -> Bits:
    """Which of the tokens each text has: uint8 (texts, tokens)."""
    return np.array([[token in text for token in tokens] for text in map(set, texts)], np.uint8)


def ngram_js(a: Texts, b: Texts, k: int) -> float:
    """Jensen-Shannon divergence of the k-gram distributions, in bits: 0 is equal, 1 is nothing in common.

    It is 1 if all texts of one set are too short for a k-gram, and 0 if all texts of both are.
    """
    p, q = (Counter(gram for text in texts for gram in _ngrams(text, k)) for texts in (a, b))
    if not p or not q:
        return float(bool(p or q))
    grams = list(p | q)
    shares = [np.array([counts[gram] for gram in grams]) / counts.total() for counts in (p, q)]
    middle = (shares[0] + shares[1]) / 2
    return float(sum(0.5 * (x[x > 0] * np.log2(x[x > 0] / middle[x > 0])).sum() for x in shares))


def bleu(texts: Texts, references: Texts) -> Floats:
    """Sentence BLEU-2 .. 5 of each text against all references: (texts, 4).

    Papineni et al. (2002) with uniform weights and smoothing that replaces a zero count by 0.1 (method 1 of Chen and
    Cherry 2014); a text without any known token scores 0. Equal to NLTK's sentence_bleu.
    """
    counted = _References(references)
    return np.array([counted.bleu(text, None) for text in texts])


def self_bleu(texts: Texts) -> Floats:
    """Sentence BLEU-2 .. 5 of each text against all the others (leave one out): (texts, 4)."""
    counted = _References(texts)
    return np.array([counted.bleu(text, own) for own, text in enumerate(texts)])


class _References:
    """The highest count of each n-gram in any reference, also with one reference left out; computed once for all."""

    def __init__(self, texts: Texts) -> None:
        self.lengths = Counter(len(text) for text in texts)
        self.most: dict[tuple[str, ...], tuple[int, int, int]] = {}  # the most, whose it is, the second most
        for own, text in enumerate(texts):
            for gram, count in _counts(text).items():
                first, owner, second = self.most.get(gram, (0, -1, 0))
                better = count > first
                self.most[gram] = (count, own, first) if better else (first, owner, max(second, count))

    def bleu(self, text: Sequence[str], own: int | None) -> list[float]:
        hits = dict.fromkeys(range(1, 6), 0)
        for gram, count in _counts(text).items():
            first, owner, second = self.most.get(gram, (0, -1, 0))
            hits[len(gram)] += min(count, second if owner == own else first)
        if not hits[1]:
            return [0.0] * 4
        totals = {k: max(1, len(text) - k + 1) for k in hits}
        logs = np.cumsum([math.log((hits[k] or 0.1) / totals[k]) for k in hits])
        brevity = min(0.0, 1 - self._closest_length(len(text), own) / len(text))
        return [math.exp(brevity + logs[k - 1] / k) for k in range(2, 6)]

    def _closest_length(self, length: int, own: int | None) -> int:
        """The reference length closest to a text's, the shorter one of two; its own only if another text shares it."""
        others = (each for each, count in self.lengths.items() if count > (own is not None and each == length))
        return min(others, key=lambda each: (abs(each - length), each), default=length)


def _ngrams(text: Sequence[str], k: int) -> Iterator[tuple[str, ...]]:
    return zip(*(text[start:] for start in range(k)), strict=False)


def _counts(text: Sequence[str]) -> Counter[tuple[str, ...]]:
    return Counter(gram for k in range(1, 6) for gram in _ngrams(text, k))


def length_distance(a: Texts, b: Texts) -> float:
    """Wasserstein-1 distance of the text lengths, in tokens."""
    return float(wasserstein_distance([len(text) for text in a], [len(text) for text in b]))


def label_distance(a: Sequence[str], b: Sequence[str]) -> float:
    """Total variation distance of the class distributions: the share of rows that would have to change class."""
    p, q = Counter(a), Counter(b)
    return 0.5 * sum(abs(p[name] / len(a) - q[name] / len(b)) for name in p | q)


def text_utility(made: Labelled, real: Labelled, seed: int) -> float:
    """Train on synthetic, test on real (Esteban et al. 2017): ROC AUC of real texts' classes, each against the rest.

    By logistic regression on the 1- to 3-grams that occur in at least two texts: with rarer ones, a hundred classes
    would take ten times as long. The mean over classes, weighted by their real texts. A class that the made texts lack
    counts 0.5; NaN if all real texts are of one class.
    """
    (texts, labels), (test_texts, test_labels) = made, real
    names, counts = np.unique(test_labels, return_counts=True)
    if len(names) < 2:
        return math.nan
    if len(set(labels)) < 2:
        return 0.5
    grams = _ngram_counts([*texts, *test_texts])
    model, vectors = _ngram_regression(grams[: len(texts)], labels, grams[len(texts) :], seed, min_texts=2)
    chances = dict(zip(model.classes_, model.predict_proba(vectors).T, strict=True))
    truth, no_idea = np.array(test_labels), np.zeros(len(test_labels))
    aucs = []
    for name in names:
        chance, own = chances.get(name, no_idea), truth == name
        aucs.append(auc_with_variance(chance[own], chance[~own])[0])
    return float(np.average(aucs, weights=counts))


def frechet(a: Array, b: Array) -> float:
    """Frechet distance of two sets of embeddings (rows, dimensions), taken as normal (Heusel et al. 2017).

    |mean_a - mean_b|^2 + trace(A + B - 2 (A B)^(1/2)); the trace of the root is that of the symmetric
    (A^(1/2) B A^(1/2))^(1/2). NaN if a set has fewer than two rows, and so no covariance.
    """
    if min(len(a), len(b)) < 2:
        return math.nan
    cov_a, cov_b = (np.atleast_2d(np.cov(rows, rowvar=False)) for rows in (a, b))
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(min=0)).sum()
    gap = a.mean(axis=0) - b.mean(axis=0)
    return float(gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2 * shared)


def text_c2st(
    synthetic: Texts, heldout: Texts, seed: int, judge: TextJudge, folds: int, each: Map = map
) -> tuple[float, float]:
    """ROC AUC of a judge trained to tell synthetic from held-out texts, and its standard error; as `c2st`.

    Args:
        judge: `ngram_judge` or `conv_judge`.
        folds: how many; each is scored by a judge that has learned from the others.
        each: how folds are mapped to scores, one after the other or several at a time.
    """
    texts = [*heldout, *synthetic]
    made = np.arange(len(texts)) >= len(heldout)
    return auc_over_folds(made, folds, seed, judge(texts, made, seed), each)


def ngram_judge(texts: Texts, made: Array, seed: int) -> Callable[[Array, Array], Array]:
    """Logistic regression on 1- to 3-grams, which are counted once for all folds."""
    counts = _ngram_counts(texts)

    def score(fit: Array, test: Array) -> Array:
        model, vectors = _ngram_regression(counts[fit], made[fit], counts[test], seed)
        return np.asarray(model.decision_function(vectors))

    return score


def _ngram_counts(texts: Texts) -> Any:
    """How often each text has each 1- to 3-gram: a sparse matrix (texts, n-grams)."""
    return CountVectorizer(analyzer=_up_to_trigrams).fit_transform(texts)


def _ngram_regression(
    counts: Any, target: Any, test_counts: Any, seed: int, min_texts: int = 1
) -> tuple[LogisticRegression, Any]:
    """Logistic regression on the n-grams that at least `min_texts` texts have, and the test texts' vectors."""
    known = np.flatnonzero(counts.getnnz(axis=0) >= min_texts)
    weights = TfidfTransformer(sublinear_tf=True)
    vectors = weights.fit_transform(counts[:, known])
    with threadpool_limits(1):
        model = LogisticRegression(C=10, max_iter=1000, random_state=seed).fit(vectors, target)
    return model, weights.transform(test_counts[:, known])


def conv_judge(texts: Texts, made: Array, seed: int) -> Callable[[Array, Array], Array]:
    """A small convolutional net (Kim 2014), which sees local word order."""
    target = torch.from_numpy(made.astype(np.float32))

    def score(fit: Array, test: Array) -> Array:
        counts = Counter(token for i in fit for token in set(texts[i]))
        index = {token: i for i, token in enumerate(sorted(t for t, count in counts.items() if count > 1), start=2)}
        rows = [torch.tensor([index.get(token, 1) for token in text], dtype=torch.long) for text in texts]
        lengths = np.array([len(text) for text in texts])
        net, rng = _new_net(len(index) + 2, seed)
        optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.1, fused=True)
        for _ in range(CONV_EPOCHS):
            for batch in _batches(lengths[fit], rng):
                cpus.stop_if_abandoned()
                optimizer.zero_grad()
                scores = net(_padded([rows[i] for i in fit[batch]]), rng)
                nn.functional.binary_cross_entropy_with_logits(scores, target[fit[batch]]).backward()
                optimizer.step()
        with torch.no_grad():
            return torch.cat([net(_padded([rows[i] for i in part])) for part in _chunks(test)]).numpy()

    return score


def _new_net(tokens: int, seed: int) -> tuple["_ConvNet", torch.Generator]:
    """An untrained net, and a random generator of its own; torch's is shared with the threads of the other folds."""
    with TORCH_RANDOM, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _ConvNet(tokens), torch.default_generator.clone_state()


def _padded(rows: list[Tensor]) -> Tensor:
    """Token numbers (rows, length): 0 is padding, 1 a rare token. Every row ends in padding, which shows its end."""
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return nn.functional.pad(ids, (0, WIDEST - min(1, ids.shape[1])))  # texts may have no words at all


def _batches(lengths: Array, rng: torch.Generator) -> Iterator[list[int]]:
    """Indices of rows in random batches of similar length, which saves most of the padding."""
    order = torch.randperm(len(lengths), generator=rng).tolist()
    chunks = [sorted(chunk, key=lambda i: lengths[i]) for chunk in _chunks(order, 32 * CONV_BATCH)]
    batches = [batch for chunk in chunks for batch in _chunks(chunk)]
    return (batches[i] for i in torch.randperm(len(batches), generator=rng).tolist())


def _chunks(rows: Any, size: int = CONV_BATCH) -> list[Any]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


class _ConvNet(nn.Module):
    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, 48, padding_idx=0)
        self.convolutions = nn.ModuleList(nn.Conv1d(48, 48, width) for width in range(2, WIDEST + 1))
        self.output = nn.Linear(4 * 48, 1)

    def forward(self, ids: Tensor, rng: torch.Generator | None = None) -> Tensor:
        """Logits (rows,) of token numbers (rows, length); with a random generator, half of the features are dropped."""
        embedded = self.embedding(ids).transpose(1, 2)
        features = torch.cat([convolution(embedded).amax(dim=2) for convolution in self.convolutions], dim=1).relu()
        if rng is not None:
            features = features * torch.empty_like(features).bernoulli_(0.5, generator=rng) / 0.5
        return self.output(features).squeeze(1)


def _up_to_trigrams(text: Sequence[str]) -> list[tuple[str, ...]]:
    bounded = ["", *text, ""]  # so that starts and ends of texts count, too
    return [gram for k in (1, 2, 3) for gram in _ngrams(bounded, k)]


def _numbers(made: Texts, real: Texts, seed: int, embed: Embed | None) -> Scores:
    """The numbers of made texts against as many real ones; `text_floor` takes the same of training texts."""
    scores: Scores = {"length_distance": length_distance(made, real)}
    scores |= auc_scores("c2st", *text_c2st(made, real, seed, ngram_judge, FOLDS))
    scores |= auc_scores("c2st_conv", *text_c2st(made, real, seed, conv_judge, CONV_FOLDS, cpus.in_threads))
    scores |= {f"ngram_js_{k}": ngram_js(made, real, k) for k in range(1, 5)}
    for name, values in (("bleu", bleu(made, real)), ("self_bleu", self_bleu(made))):
        scores |= {f"{name}_{k}": float(values[:, k - 2].mean()) for k in range(2, 6)}
    if embed is not None:
        scores["frechet"] = frechet(*(embed(texts[:EMBEDDED_TEXTS]) for texts in (made, real)))
    return scores


def _text_copy_scores(s: Texts, h: Texts, learned: Texts) -> Scores:
    made, real, seen = ([tuple(text) for text in texts] for texts in (s, h, learned))
    known = set(seen)
    rate, floor = (sum(text in known for text in texts) / len(texts) for texts in (made, real))
    counts = (np.array(list(Counter(texts).values())) for texts in (made, real))
    passages = excess_scores("passage", *passage_rates(s, h, learned), len(s))
    return excess_scores("copy", rate, floor, len(s)) | passages | distinct_scores(*counts)


def passage_rates(synthetic: Texts, heldout: Texts, learned: Texts) -> tuple[float, float]:
    """The shares of synthetic and of held-out texts that share PASSAGE_WORDS consecutive words with a learned text."""
    passages = [[set(_ngrams(text, PASSAGE_WORDS)) for text in texts] for texts in (synthetic, heldout)]
    sought = set().union(*(each for texts in passages for each in texts))
    # All passages of a million learned texts would take gigabytes, so only those sought are kept.
    known = {passage for text in learned for passage in _ngrams(text, PASSAGE_WORDS) if passage in sought}
    made, real = (sum(not each.isdisjoint(known) for each in texts) / len(texts) for texts in passages)
    return made, real
