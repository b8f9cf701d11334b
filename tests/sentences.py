"""Random sentences with some structure, for tests of text metrics."""

import numpy as np

WORDS = ["a", "film", "with", "no", "heart", "and", "great", "wit", "the", "plot"]


def random_texts(n: int, seed: int) -> list[list[str]]:
    """`n` sentences of 3 to 11 words, in which each word depends on the previous one."""
    rng = np.random.default_rng(seed)
    texts = []
    for length in rng.integers(3, 12, n):
        words = [int(rng.integers(10))]
        while len(words) < length:
            words.append(int(words[-1] * 3 + rng.integers(4)) % 10)
        texts.append([WORDS[word] for word in words])
    return texts
