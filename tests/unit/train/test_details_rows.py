"""Details that a small mistake would change unnoticed: which rows, shares and seeds each part of a job is given."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch

from train import WEIGHTS, artifact, data, evidence, kinds, metrics, row_cache
from train import __main__ as commands
from train.codec import BitsCodec
from train.config import resolve
from train.nade import NadeGenerator
from train.packed import PackedRows
from train.prepare import Prepared, prepare, resolved

BITS = np.random.default_rng(0).integers(0, 2, (100, 11)).astype(np.uint8)


def test_packed_rows_are_split_as_those_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    np.save(tmp_path / "rows.npy", BITS)
    config = resolve({"data": str(tmp_path / "rows.npy")})
    plain = prepare(config)
    monkeypatch.setattr(row_cache, "LARGE", 100)
    packed = prepare(config)
    assert isinstance(packed.rows, PackedRows)
    assert torch.equal(packed.rows[torch.arange(len(packed.rows))], torch.as_tensor(plain.rows))
    for part in ("train", "validation", "heldout"):
        assert torch.equal(getattr(packed, part), getattr(plain, part)), part


def test_the_parts_of_a_split_have_their_shares_and_another_seed_is_another_split() -> None:
    one, other = (data.split(500, holdout=0.2, validation=0.15, seed=seed) for seed in (0, 1))
    assert [len(part) for part in (one.train, one.validation, one.heldout)] == [340, 60, 100]
    assert set(one.heldout) != set(other.heldout)
    assert one.heldout.max() - one.heldout.min() > 400, "at random: files may be sorted"


def test_the_split_has_a_seed_of_its_own(tmp_path: Path) -> None:
    def heldout(**given: int) -> list[int]:
        return prepare(resolve({"data": "toy", **given})).parts.heldout.tolist()

    assert heldout(seed=1) == heldout() != heldout(split_seed=1)


class AskedError(Exception):
    """What somebody was asked for."""


def ask(*given: Any, **named: Any) -> None:
    raise AskedError(given, named)


def job_on_texts(folder: Path) -> tuple[Prepared, Any]:
    """The prepared texts of a small job, and its kind."""
    path = folder / "texts.txt"
    path.write_text("".join(f"a film with number{i % 9} in it\n" for i in range(60)))
    config = resolve({"data": str(path), "codec": "tokens", "device": "cpu", "baselines": "none", "text_hidden": 4})
    found = prepare(config)
    return found, kinds.of(resolved(config, found), found)


def test_a_job_on_bits_is_judged_by_all_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "judge", ask)
    monkeypatch.setattr("train.prepare.LEARNING_ROWS", 300)
    config = resolve({"data": "toy", "label_column": "x5", "device": "cpu", "baselines": "none"})
    found = prepare(config)
    made = NadeGenerator(length=5, hidden=4, nets=1, classes=2)
    with pytest.raises(AskedError) as caught:
        kinds.of(resolved(config, found), found).judge(made, made, 0.0)
    (_, heldout, learned), named = caught.value.args
    assert np.array_equal(heldout, found.heldout.numpy())
    assert len(learned) == 680 > len(found.train), "a copy of any row is one"
    assert np.array_equal(learned, torch.as_tensor(found.rows).numpy())
    assert np.array_equal(named["validation"], found.validation.numpy())
    assert named["label"] == "x5"


def test_a_job_on_texts_is_judged_by_all_that_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "judge_texts", ask)
    monkeypatch.setattr(kinds, "embedder", lambda: None)
    found, kind = job_on_texts(tmp_path)
    made = kind.warm_start().generator
    with pytest.raises(AskedError) as caught:
        kind.judge(made, made, 0.0)
    (_, heldout, learned), named = caught.value.args
    assert [heldout, learned] == [found.dataset.take(part) for part in (found.parts.heldout, found.parts.train)]
    assert named["validation"] == found.dataset.take(found.parts.validation)


def test_what_ships_is_chosen_by_validation_rows_and_by_other_noise_than_judges_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics, "quick_score", ask)
    config = resolve({"data": "toy", "device": "cpu"})
    found = prepare(config)
    made = NadeGenerator(length=5, hidden=4, nets=1, classes=2)
    with pytest.raises(AskedError) as caught:
        kinds.of(resolved(config, found), found).validate(made)
    (_, validation, train), _ = caught.value.args
    assert np.array_equal(validation, found.validation.numpy())
    assert np.array_equal(train, found.train.numpy())
    assert kinds.VALIDATION_SEED != kinds.EVALUATION_SEED


def test_the_game_leaves_the_refit_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.loop.train", ask)
    config = resolve({"data": "toy", "device": "cpu", "max_minutes": 10.0, "warmup": 0.5})
    found = prepare(config)
    state: Any = None
    with pytest.raises(AskedError) as caught:
        kinds.of(resolved(config, found), found).play(state, lambda tick: False, lambda: False)
    assert caught.value.args[0][2].max_minutes == 7.5


FORMATS: dict[str, Callable[[Path, Any], None]] = {
    "a.csv": lambda path, table: pa.csv.write_csv(table, path),
    "a.npy": lambda path, table: np.save(path, np.stack(table.columns, axis=1)),
    "a.parquet": lambda path, table: pa.parquet.write_table(table, path),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_bad_row_is_named_by_its_number_in_the_file_wherever_the_reader_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(row_cache, "LARGE", 100)
    monkeypatch.setattr(row_cache, "BATCH_ROWS", 16)
    monkeypatch.setattr(row_cache, "CSV_BATCH", 256)
    rows = BITS.copy()
    rows[[19, 69], 0] = 7
    FORMATS[name](tmp_path / name, pa.table(list(rows.T), names=[f"x{i + 1}" for i in range(11)]))
    found = data.load(str(tmp_path / name), packed=True, max_bad_rows=2)
    assert isinstance(found.bits, PackedRows)
    assert [line.split(":")[0] for line in found.skipped] == [f"{name} row 20", f"{name} row 70"]


def test_files_of_one_size_and_time_are_not_taken_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an archive leaves them that was unpacked."""
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(row_cache, "LARGE", 100)
    for name, rows in (("a.npy", BITS), ("b.npy", 1 - BITS)):
        np.save(tmp_path / name, rows)
        os.utime(tmp_path / name, ns=(1, 1))
    one, other = (data.load(str(tmp_path / name), packed=True) for name in ("a.npy", "b.npy"))
    assert one.fingerprint() != other.fingerprint()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    generator = NadeGenerator(length=6, hidden=3, nets=2, classes=2)
    artifact.save(tmp_path / "artifact", generator, BitsCodec("abcdef"), {})
    return tmp_path


@pytest.mark.parametrize("out", ["rows.npy", "rows"], ids=["a file", "a folder"])
def test_a_sample_has_the_rows_of_its_seed(run: Path, out: str) -> None:
    assert commands.main(["sample", str(run), "--n", "40", "--seed", "5", "--out", str(run / out)]) == 0
    wanted = artifact.load(run / "artifact").sample(40, 5).numpy()
    found = np.load(run / out) if out.endswith("npy") else np.stack(pa.parquet.read_table(run / out).columns, axis=1)
    np.testing.assert_array_equal(found, wanted)


def test_a_broken_artifact_does_not_become_an_archive(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = run / "artifact" / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert commands.main(["export", str(run)]) == 2
    assert "the checksum is not the one on the card" in capsys.readouterr().err
    assert not (run / "lookalike.mar").exists()
