"""A sample in shards: the same rows however they are split, whoever writes them, and after any interruption."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch

from tests.rated import rated_artifact
from train import artifact, data, row_cache, shards
from train.artifact import Artifact
from train.codec import BitsCodec
from train.errors import InputError
from train.nade import NadeGenerator


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    torch.manual_seed(0)
    generator = NadeGenerator(length=6, hidden=3, nets=2, classes=2)
    return artifact.save(tmp_path_factory.mktemp("run") / "artifact", generator, BitsCodec("abcdef"), {})


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "BLOCK_ROWS", 40)
    monkeypatch.setattr(shards, "PASS_VALUES", 8 * 7)  # seven rows a pass


def rows_of(folder: Path) -> np.ndarray:
    tables = [pyarrow.parquet.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    assert all(table.column_names == list("abcdef") for table in tables)
    return np.concatenate([np.stack([column.to_numpy() for column in table.columns], axis=1) for table in tables])


def test_a_row_depends_on_its_number_only(tmp_path: Path, loaded: Artifact) -> None:
    for size in (9, 40, 64, 500):
        shards.write(tmp_path / str(size), loaded, n=130, seed=3, shard_rows=size)
    found = rows_of(tmp_path / "9")
    assert found.shape == (130, 6)
    for size in (40, 64, 500):
        np.testing.assert_array_equal(rows_of(tmp_path / str(size)), found)
    assert len(list((tmp_path / "64").glob("*.parquet"))) == 3


def test_a_folder_begins_with_the_rows_of_a_single_file(tmp_path: Path, loaded: Artifact) -> None:
    shards.write(tmp_path, loaded, n=100, seed=3, shard_rows=30)
    np.testing.assert_array_equal(rows_of(tmp_path)[:40], loaded.sample(40, 3).numpy())


def test_a_folder_is_one_table_to_other_tools(tmp_path: Path, loaded: Artifact) -> None:
    shards.write(tmp_path, loaded, n=100, seed=3, shard_rows=30)
    assert pyarrow.parquet.read_table(tmp_path).num_rows == 100


@pytest.mark.parametrize("large", [False, True])
def test_a_shard_that_the_disk_damaged_is_refused(
    tmp_path: Path, loaded: Artifact, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(row_cache, "is_large", lambda _: large)
    shards.write(tmp_path / "shards", loaded, n=100, seed=3, shard_rows=100)
    (shard,) = (tmp_path / "shards").glob("*.parquet")
    column = pyarrow.parquet.read_metadata(shard).row_group(0).column(5)
    content = bytearray(shard.read_bytes())
    content[column.dictionary_page_offset + column.total_compressed_size - 1] ^= 1  # in the page's last values
    shard.write_bytes(content)
    with pytest.raises(InputError, match="CRC checksum"):
        data.load(str(shard), packed=True)


def test_blocks_and_seeds_have_streams_of_their_own(loaded: Artifact) -> None:
    def block(number: int, seed: int) -> bytes:
        rows = range(40 * number, 40 * (number + 1))
        made = [some.codes for some in shards.samples(loaded.generator, rows, seed)]
        return torch.cat(made).numpy().tobytes()

    assert len({block(number, seed) for number in range(5) for seed in (0, 1, 2**32 - 1)}) == 15


def test_processes_share_the_work(tmp_path: Path, loaded: Artifact) -> None:
    shards.write(tmp_path / "alone", loaded, n=70, seed=1, shard_rows=10)
    for rank, made in ((1, 3), (0, 7)):
        shards.write(tmp_path / "shared", loaded, n=70, seed=1, shard_rows=10, rank=rank, processes=2)
        assert len(list((tmp_path / "shared").glob("*.parquet"))) == made
    np.testing.assert_array_equal(rows_of(tmp_path / "shared"), rows_of(tmp_path / "alone"))


def test_whole_shards_stay_and_torn_ones_are_made_again(tmp_path: Path, loaded: Artifact) -> None:
    plan = shards.write(tmp_path, loaded, n=50, seed=1, shard_rows=20)
    before = rows_of(tmp_path)
    kept, torn, lost = (plan.path(tmp_path, shard) for shard in range(3))
    stamp = kept.stat().st_mtime_ns
    torn.write_bytes(torn.read_bytes()[:100])
    lost.unlink()
    shards.write(tmp_path, loaded, n=50, seed=1, shard_rows=20)
    np.testing.assert_array_equal(rows_of(tmp_path), before)
    assert kept.stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("number", "first"),
    [
        (3, "part-00000-of-00003.parquet"),
        (100_000, "part-00000-of-100000.parquet"),
        (100_001, "part-000000-of-100001.parquet"),
        (1_000_000, "part-000000-of-1000000.parquet"),
    ],
)
def test_names_of_shards_are_in_the_order_of_their_rows(number: int, first: str) -> None:
    plan = shards.Plan(weights_sha256="", seed=0, n=number, shard_rows=1, options={})
    some = sorted({0, 1, 2, *(each % number for each in (99_999, 100_000, 999_999))})
    names = [plan.path(Path(), shard).name for shard in some]
    assert names == sorted(names)
    assert names[0] == first


def test_more_shards_than_are_of_use_are_refused_before_anything_is_made(tmp_path: Path, loaded: Artifact) -> None:
    message = "--shard-rows 1: 1,000,000,000,000 rows need 1,000,000,000,000 files, .*; use 1,000,000 or more"
    with pytest.raises(InputError, match=message):
        shards.write(tmp_path / "rows", loaded, n=10**12, seed=0, shard_rows=1)
    assert not (tmp_path / "rows").exists()


def test_two_that_make_the_same_shard_at_once_leave_it_whole(
    tmp_path: Path, loaded: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan: dict[str, Any] = {"n": 50, "seed": 1, "shard_rows": 50}
    shards.write(tmp_path / "alone", loaded, **plan)
    arrow, calls = shards.writers.arrow, iter(range(1000))

    def beside(*args: Any) -> Any:
        if next(calls) == 3:  # another write begins and ends during this one
            shards.write(tmp_path / "shared", loaded, **plan)
        return arrow(*args)

    monkeypatch.setattr(shards.writers, "arrow", beside)
    shards.write(tmp_path / "shared", loaded, **plan)
    np.testing.assert_array_equal(rows_of(tmp_path / "shared"), rows_of(tmp_path / "alone"))
    assert len([path for path in (tmp_path / "shared").iterdir() if path.name != ".lock"]) == 2


def test_what_killed_jobs_have_left_in_a_folder_is_removed(tmp_path: Path, loaded: Artifact) -> None:
    plan = shards.write(tmp_path, loaded, n=50, seed=1, shard_rows=20)
    left = tmp_path / f".{plan.path(tmp_path, 1).name}.0a1b2c3d.partial"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    assert pyarrow.parquet.read_table(tmp_path).num_rows == 50
    shards.write(tmp_path, loaded, n=50, seed=1, shard_rows=20)
    assert not left.exists()


def test_shards_of_texts_hold_their_classes(tmp_path: Path) -> None:
    rated = rated_artifact(tmp_path / "artifact")
    plan = shards.write(tmp_path / "rows", rated, n=50, seed=3, shard_rows=20)
    rows = pyarrow.parquet.read_table(tmp_path / "rows")
    assert rows.column_names == ["text", "rating"]
    read = {"text": rows["text"].to_pylist()[:40], "labels": rows["rating"].to_pylist()[:40]}
    assert read == rated.readings(rated.sample_labelled(40, 3))

    lacking = plan.path(tmp_path / "rows", 1)  # as an older version wrote it
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(lacking).select(["text"]), lacking)
    shards.write(tmp_path / "rows", rated, n=50, seed=3, shard_rows=20)
    assert pyarrow.parquet.read_table(tmp_path / "rows").equals(rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 60}, "n 50, not 60"),
        ({"seed": 2}, "seed 1, not 2"),
        ({"options": {"label": "good"}}, "options {'label': 'bad'}, not {'label': 'good'}"),
    ],
)
def test_another_sample_is_refused(tmp_path: Path, loaded: Artifact, change: dict[str, Any], message: str) -> None:
    wanted: dict[str, Any] = {"n": 50, "seed": 1, "shard_rows": 20, "options": {"label": "bad"}}
    shards.write(tmp_path, loaded, **wanted)
    with pytest.raises(InputError, match=message):
        shards.write(tmp_path, loaded, **{**wanted, **change})


def test_a_sample_of_other_weights_is_refused(tmp_path: Path, loaded: Artifact) -> None:
    shards.write(tmp_path / "rows", loaded, n=50, seed=1, shard_rows=20)
    torch.manual_seed(1)
    generator = NadeGenerator(length=6, hidden=3, nets=2, classes=2)
    other = artifact.save(tmp_path / "artifact", generator, BitsCodec("abcdef"), {})
    weights = [each.card["weights_sha256"] for each in (loaded, other)]
    with pytest.raises(InputError, match="holds a sample of weights_sha256 {}, not {}; name another".format(*weights)):
        shards.write(tmp_path / "rows", other, n=50, seed=1, shard_rows=20)


def test_a_file_is_no_folder(tmp_path: Path, loaded: Artifact) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match=r"--out .*out: an existing file; name a folder, or a file with an extension"):
        shards.write(tmp_path / "out", loaded, n=10, seed=0, shard_rows=10)


@pytest.mark.parametrize("name", ["real.parquet", "real.csv", "part-00000-of-00003.parquet"])
def test_a_folder_of_other_data_is_refused(tmp_path: Path, loaded: Artifact, name: str) -> None:
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(InputError, match=f"holds {name}, which is not part of this sample; name another folder"):
        shards.write(tmp_path, loaded, n=50, seed=1, shard_rows=20)
    assert [path.name for path in tmp_path.glob("*") if path.name != ".lock"] == [name]


def test_other_data_may_not_join_a_sample(tmp_path: Path, loaded: Artifact) -> None:
    for name in ("notes.md", "real.jsonl"):
        shards.write(tmp_path, loaded, n=50, seed=1, shard_rows=20)
        (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(InputError, match=r"holds real\.jsonl, which is not part of this sample"):
        shards.write(tmp_path, loaded, n=50, seed=1, shard_rows=20)


@pytest.mark.parametrize("manifest", ["", "{", "null", "[1]", "[]", "\xff"])
def test_a_damaged_manifest_is_refused(tmp_path: Path, loaded: Artifact, manifest: str) -> None:
    (tmp_path / shards.MANIFEST).write_text(manifest, encoding="latin-1")
    with pytest.raises(InputError, match=r"_manifest\.json cannot be read|holds a sample of weights_sha256 None"):
        shards.write(tmp_path, loaded, n=50, seed=1, shard_rows=20)
