"""Data sets that were read: parts, the split, classes and the fingerprint."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train import data
from train.dataset import Dataset, check_classes, split
from train.errors import InputError

TEXTS = [f'film number {i}, "really"\nit says' for i in range(12)]
BITS = np.random.default_rng(1).integers(0, 2, (12, 3)).astype(np.uint8)


def test_a_part_has_the_chosen_rows_and_a_fingerprint_of_its_own() -> None:
    bits, classes = Dataset(name="a", source="a", bits=BITS), [str(row) for row in range(12)]
    texts = Dataset(name="a", source="a", texts=TEXTS, classes=classes)
    chosen = np.array([7, 2])
    assert np.array_equal(bits.part(chosen).rows, BITS[chosen])
    assert texts.part(chosen).texts == [TEXTS[7], TEXTS[2]]
    assert texts.part(chosen).classes == ["7", "2"]
    known = Dataset(name="a", source="a", bits=BITS, known_fingerprint="of all rows")
    assert known.part(chosen).fingerprint() == bits.part(chosen).fingerprint() != bits.fingerprint()


@given(st.integers(10, 500), st.floats(0.01, 0.9), st.floats(0, 0.5), st.integers(0, 9))
def test_the_split_uses_every_row_once(n: int, holdout: float, validation: float, seed: int) -> None:
    parts = split(n, holdout=holdout, validation=validation, seed=seed)
    together = np.concatenate([parts.train, parts.validation, parts.heldout])
    assert sorted(together) == list(range(n))
    again = split(n, holdout=holdout, validation=validation, seed=seed)
    assert np.array_equal(parts.heldout, again.heldout)


def test_a_class_that_is_always_the_same_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("fever,cough\n" + "1,0\n1,1\n" * 20)
    dataset = data.load(str(tmp_path / "a.csv"), label_column="fever")
    with pytest.raises(InputError, match="--label-column fever: 1 different values; there must be 2 to"):
        check_classes(dataset, "fever")
    check_classes(data.load(str(tmp_path / "a.csv"), label_column="cough"), "cough")


def test_texts_with_other_classes_are_other_data() -> None:
    made = [
        Dataset(name="a", source="a", texts=texts, classes=classes)
        for texts, classes in (
            (["a film", "a plot"], ["1", "5"]),
            (["a film", "a plot"], ["5", "1"]),
            (["a film", "a plot"], None),
            (["a film", "a plot", "1", "5"], None),
            (["a film\0a plot"], None),
        )
    ]
    assert len({each.fingerprint() for each in made}) == len(made)


def test_bits_of_other_columns_are_other_data() -> None:
    made = [
        Dataset(name="a", source="a", bits=np.eye(2, dtype=np.uint8), columns=tuple(names)) for names in ("ab", "ba")
    ]
    assert made[0].fingerprint() != made[1].fingerprint()


def test_the_parts_of_a_split_have_their_shares_and_another_seed_is_another_split() -> None:
    one, other = (split(500, holdout=0.2, validation=0.15, seed=seed) for seed in (0, 1))
    assert [len(part) for part in (one.train, one.validation, one.heldout)] == [340, 60, 100]
    assert set(one.heldout) != set(other.heldout)
    assert one.heldout.max() - one.heldout.min() > 400, "at random: files may be sorted"
