"""Shared by several modules: rows of 0/1 in three sets (synthetic, held-out, training), evidence of some, a run, and a
generator of texts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.grammar import VOCABULARY, grammar
from train import artifact, builtin, evidence, text_warmup
from train.bits import Bits
from train.codec import BitsCodec
from train.evidence import Evidence
from train.nade import NadeGenerator
from train.text_counts import new_generator
from train.text_generator import TokenGenerator

Sets = tuple[Bits, Bits, Bits]
DATA: dict[str, Callable[[], Bits]] = {
    "digits": builtin.digits,
    "toy": builtin.toy,
    "chain": lambda: builtin.chain(n=1500),
}


@pytest.fixture(params=DATA, scope="module")
def sets(request: pytest.FixtureRequest) -> Sets:
    """Three disjoint sets of 150 rows."""
    rows = np.random.default_rng(5).permutation(DATA[request.param]())
    return rows[:150], rows[150:300], rows[300:450]


@pytest.fixture(scope="module")
def chain() -> Sets:
    """Three disjoint sets of 400 rows of 16 bits."""
    rows = builtin.chain(n=1200, length=16)
    return rows[:400], rows[400:800], rows[800:]


@pytest.fixture(scope="module")
def found() -> Evidence:
    """Rows of the toy set, and the same with shuffled columns, judged."""
    rows = builtin.toy(900)
    shuffled = np.random.default_rng(0).permuted(rows[:300], axis=0)
    contenders = {"GAN": rows[600:], "marginals": shuffled}
    return evidence.judge(contenders, rows[:300], rows[300:600], columns=list("abcde"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with nothing but an artifact, of an untrained generator."""
    generator = NadeGenerator(length=6, hidden=3, nets=2, classes=2)
    artifact.save(tmp_path / "artifact", generator, BitsCodec("abcdef"), {})
    return tmp_path


@pytest.fixture
def generator() -> TokenGenerator:
    """A text generator of the toy grammar, with n-grams and an untrained net."""
    torch.manual_seed(0)
    rows = grammar(50)
    made = new_generator(rows, vocabulary=VOCABULARY, head=VOCABULARY, embedding=8, hidden=16, candidates=3)
    return made.double().eval()


@pytest.fixture
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """The net learns fast, without dropout."""
    for name, value in {"DROPOUT": 0.0, "WORD_DROPOUT": 0.0, "LEARNING_RATE": 1e-2, "PATIENCE": 100}.items():
        monkeypatch.setattr(text_warmup, name, value)
