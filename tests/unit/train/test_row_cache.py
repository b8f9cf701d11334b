"""Sets larger than memory: converted once, with the same rows as in memory, and all unusable rows named."""

import errno
import gzip
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
from hypothesis import given
from hypothesis import strategies as st

from train import data, row_cache
from train.errors import InputError, JobError
from train.packed import PackedRows

BITS = np.random.default_rng(0).integers(0, 2, (100, 11)).astype(np.uint8)


@pytest.fixture(autouse=True)
def _everything_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(row_cache, "LARGE", 100)
    monkeypatch.setattr(row_cache, "BATCH_ROWS", 16)


def table(kind: pa.DataType) -> pa.Table:
    return pa.table([pa.array(column).cast(kind) for column in BITS.T], names=[f"x{i + 1}" for i in range(11)])


def write_csv(path: Path) -> None:
    pa.csv.write_csv(table(pa.uint8()), path)


def write_gzip(path: Path) -> None:
    write_csv(path.with_suffix(""))
    path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))


WRITERS: dict[str, Callable[[Path], None]] = {
    "a.npy": lambda path: np.save(path, BITS),
    "b.npy": lambda path: np.save(path, BITS.astype(bool)),
    "c.npy": lambda path: np.save(path, np.where(BITS == 1, 1.0, -0.0)),
    "a.parquet": lambda path: pa.parquet.write_table(table(pa.uint8()), path),
    "b.parquet": lambda path: pa.parquet.write_table(table(pa.bool_()), path),
    "c.parquet": lambda path: pa.parquet.write_table(table(pa.float64()), path),
    "e.parquet": lambda path: pa.parquet.write_table(
        pa.table(list(np.where(BITS == 1, 1.0, -0.0).T), names=table(pa.uint8()).column_names), path
    ),
    "d.parquet": lambda path: pa.parquet.write_table(table(pa.string()), path),
    "a.csv": write_csv,
    "a.csv.gz": lambda path: write_gzip(path),
    "part-00000.snappy.parquet": lambda path: pa.parquet.write_table(table(pa.uint8()), path),
    "rows.2024.csv": write_csv,
    "rows.2024.csv.gz": lambda path: write_gzip(path),
    "a.b.npy": lambda path: np.save(path, BITS),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_rows_and_the_fingerprint_that_it_gives_in_memory(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    packed, plain = data.load(str(tmp_path / name), packed=True), data.load(str(tmp_path / name))
    assert isinstance(packed.bits, PackedRows)
    assert isinstance(plain.bits, np.ndarray)
    np.testing.assert_array_equal(packed.bits[torch.arange(100)].numpy(), BITS)
    assert packed.fingerprint() == plain.fingerprint()
    assert (packed.columns, packed.name, len(packed)) == (plain.columns, plain.name, 100)


def test_a_folder_is_one_set_and_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    np.save(folder / "1.npy", BITS[:64])
    np.save(folder / "2.npy", BITS[64:])
    data.load(str(folder), packed=True)
    monkeypatch.setattr(row_cache, "_convert", pytest.fail)
    found = data.load(str(folder), packed=True)
    assert isinstance(found.bits, PackedRows)
    np.testing.assert_array_equal(found.bits[torch.arange(100)].numpy(), BITS)


@pytest.mark.parametrize(
    ("name", "damaged"),
    [("rows.bin", lambda content: content[:-1]), ("stored.json", lambda content: content[: len(content) // 2])],
)
def test_a_torn_cache_is_made_again(tmp_path: Path, name: str, damaged: Callable[[bytes], bytes]) -> None:
    np.save(tmp_path / "a.npy", BITS)
    before = data.load(str(tmp_path / "a.npy"), packed=True).fingerprint()
    (torn,) = (tmp_path / "cache" / "rows").glob(f"*/{name}")
    torn.write_bytes(damaged(torn.read_bytes()))
    found = data.load(str(tmp_path / "a.npy"), packed=True)
    assert found.fingerprint() == before
    assert isinstance(found.bits, PackedRows)
    np.testing.assert_array_equal(found.bits[torch.arange(100)].numpy(), BITS)


def test_a_cache_that_may_only_be_read_gives_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", BITS)
    np.save(tmp_path / "b.npy", 1 - BITS)
    before = data.load(str(tmp_path / "a.npy"), packed=True).fingerprint()

    def refused(path: Path) -> None:  # as by a read-only folder, which does not stop root
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(row_cache, "FileLock", refused)
    assert data.load(str(tmp_path / "a.npy"), packed=True).fingerprint() == before
    with pytest.raises(JobError, match=r"cache/rows cannot be written \(Permission denied\): .* LOOKALIKE_CACHE$"):
        data.load(str(tmp_path / "b.npy"), packed=True)


def test_a_changed_file_is_converted_again(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", BITS)
    before = data.load(str(tmp_path / "a.npy"), packed=True).fingerprint()
    np.save(tmp_path / "a.npy", 1 - BITS)
    os.utime(tmp_path / "a.npy", ns=(1, 1))
    assert data.load(str(tmp_path / "a.npy"), packed=True).fingerprint() != before


def test_unusable_rows_are_named_and_skipped_up_to_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_csv(path)
    lines = path.read_text().splitlines()
    lines[20] = lines[20].replace("1", "7", 1)  # row 20
    lines[31] = "1,0"
    lines[60] = lines[60].replace("0", "", 1)
    path.write_text("\n".join(lines) + "\n")
    found = data.load(str(path), packed=True, max_bad_rows=3)
    assert len(found) == 97
    assert [line.split(":")[0] for line in sorted(found.skipped)] == ["a.csv row 20", "a.csv row 31", "a.csv row 60"]
    assert isinstance(found.bits, PackedRows)
    np.testing.assert_array_equal(found.bits[torch.arange(97)].numpy(), np.delete(BITS, [19, 30, 59], axis=0))
    for place in (tmp_path / "cache" / "rows").glob("*/stored.json"):
        place.unlink()
        (place.parent / "rows.bin").unlink()
    with pytest.raises(InputError, match=r"at least 3 unusable rows, more than --max-bad-rows 2: a.csv row"):
        data.load(str(path), packed=True, max_bad_rows=2)


@pytest.mark.parametrize(
    ("odd", "lines"),
    [
        (['"0,1,0', "1,1,0", "1,1,1", '1"0,1,0', "1,1,1"], "line 402: .* to line 405;"),
        (['"0', '1",1,0', "1,1,1"], "line 402: .* to line 403;"),
        (['"0,1,0', "1,1,0"], "line 402: .* to line 403;"),
    ],
    ids=["closed in the midst of a value", "closed as it should be", "never closed"],
)
@pytest.mark.parametrize("line_end", ["\n", "\r"])
def test_a_mark_that_takes_in_other_rows_is_named(tmp_path: Path, odd: list[str], lines: str, line_end: str) -> None:
    path = tmp_path / "a.csv"
    content = "a,b,c\n" + "0,1,0\n" * 400 + "".join(f"{line}\n" for line in odd)
    path.write_text(content, newline=line_end)
    for name in ("a.csv", "a.csv.gz"):
        with pytest.raises(InputError, match=rf"--data .*{name}: {lines}"):
            data.load(str(tmp_path / name), packed=True, max_bad_rows=10)
        (tmp_path / "a.csv.gz").write_bytes(gzip.compress(path.read_bytes()))


def test_marks_around_values_and_names_harm_nobody(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('"the\nname",b\n\n' + '"0","1"\n\n' * 400)  # blank lines are not rows
    found = data.load(str(path), packed=True)
    assert isinstance(found.bits, PackedRows)
    assert found.columns == ("the\nname", "b")
    assert (len(found), found.skipped) == (400, ())


def test_a_row_that_is_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_cache, "CSV_BATCH", 1000)
    (tmp_path / "a.csv").write_text("a,b\n" + "0,1\n" * 400 + f"0,{'1' * 3000}\n")
    with pytest.raises(InputError, match=r"a\.csv: a row is longer than 2,000 bytes"):
        data.load(str(tmp_path / "a.csv"), packed=True)


def test_a_kept_set_is_still_held_to_the_limit(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.where(np.arange(100)[:, None] < 2, 5, BITS))
    assert len(data.load(str(tmp_path / "a.npy"), packed=True, max_bad_rows=2)) == 98
    with pytest.raises(InputError, match="2 unusable rows"):
        data.load(str(tmp_path / "a.npy"), packed=True, max_bad_rows=1)


def test_a_failed_conversion_leaves_no_set_behind(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    np.save(folder / "1.npy", BITS)
    (folder / "2.csv").write_text("a,b\n" + "0,1\n" * 200)
    with pytest.raises(InputError, match=r"2.csv does not have the same columns in the same order as the first"):
        data.load(str(folder), packed=True)
    assert not list((tmp_path / "cache").rglob("rows.bin"))


def test_texts_and_small_files_are_not_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("text\n" + "a good film\n" * 50)
    assert data.load(str(tmp_path / "a.csv"), packed=True).texts is not None
    monkeypatch.setattr(row_cache, "LARGE", 10_000)
    np.save(tmp_path / "a.npy", BITS)
    assert isinstance(data.load(str(tmp_path / "a.npy"), packed=True).bits, np.ndarray)


def test_a_named_column_is_read_as_text_however_large_the_file_is(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv")
    found = data.load(str(tmp_path / "a.csv"), column="x3", packed=True)
    assert found.texts == [str(bit) for bit in BITS[:, 2]]


def test_lists_beside_the_texts_are_no_bits(tmp_path: Path) -> None:
    columns = {"text": ["a good film"] * 100, "tags": [[1]] * 100}
    pa.parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    found = data.load(str(tmp_path / "a.parquet"), packed=True)
    assert found.texts == columns["text"]


def test_a_file_without_a_line_of_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("0,1,0\n" * 100)
    with pytest.raises(InputError, match=r"a\.csv: two columns have the same name \(is the header line missing"):
        data.load(str(tmp_path / "a.csv"), packed=True)


def test_a_set_without_a_usable_row_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.full_like(BITS, 7))
    monkeypatch.setattr(data, "_load_files", pytest.fail)
    with pytest.raises(InputError, match=r"0 usable rows; at least 10 are needed; 100 skipped: a.npy row 1: column x1"):
        data.load(str(tmp_path / "a.npy"), codec="bits", packed=True, max_bad_rows=100)


@pytest.mark.parametrize("packed", [False, True])
def test_blank_lines_of_one_column_are_bad_rows(tmp_path: Path, packed: bool) -> None:
    (tmp_path / "a.csv").write_text("a\n" + "0\n1\n" * 60 + "\n1\n\n")
    found = data.load(str(tmp_path / "a.csv"), packed=packed, max_bad_rows=2)
    assert len(found) == 121
    assert [line.split(":")[0] for line in found.skipped] == ["a.csv row 121", "a.csv row 123"]


@pytest.mark.parametrize("packed", [False, True])
def test_columns_of_the_same_name_are_refused(tmp_path: Path, packed: bool) -> None:
    pa.parquet.write_table(table(pa.uint8()).rename_columns(["a"] * 11), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: two columns have the same name"):
        data.load(str(tmp_path / "a.parquet"), packed=packed)


@given(st.integers(1, 40), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_packed_rows_are_the_rows(length: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (n, length)).astype(np.uint8)
    packed = PackedRows(torch.as_tensor(np.packbits(bits, axis=1)), length)
    chosen = rng.integers(0, n, 2 * n)
    np.testing.assert_array_equal(packed[torch.as_tensor(chosen)].numpy(), bits[chosen])
    again = torch.as_tensor(rng.integers(0, 2 * n, n))
    part = packed.part(chosen).to("cpu")
    assert len(part) == 2 * n
    np.testing.assert_array_equal(part[again].numpy(), bits[chosen][again.numpy()])


TABLE_WRITERS: dict[str, Callable[[Path, Any], None]] = {
    "a.csv": lambda path, table: pa.csv.write_csv(table, path),
    "a.npy": lambda path, table: np.save(path, np.stack(table.columns, axis=1)),
    "a.parquet": lambda path, table: pa.parquet.write_table(table, path),
}


@pytest.mark.parametrize("name", TABLE_WRITERS)
def test_a_bad_row_is_named_by_its_number_in_the_file_wherever_the_reader_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(row_cache, "LARGE", 100)
    monkeypatch.setattr(row_cache, "BATCH_ROWS", 16)
    monkeypatch.setattr(row_cache, "CSV_BATCH", 256)
    rows = BITS.copy()
    rows[[19, 69], 0] = 7
    TABLE_WRITERS[name](tmp_path / name, pa.table(list(rows.T), names=[f"x{i + 1}" for i in range(11)]))
    found = data.load(str(tmp_path / name), packed=True, max_bad_rows=2)
    assert isinstance(found.bits, PackedRows)
    assert [line.split(":")[0] for line in found.skipped] == [f"{name} row 20", f"{name} row 70"]


def test_files_of_one_size_and_time_are_not_taken_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after unpacking an archive."""
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(row_cache, "LARGE", 100)
    for name, rows in (("a.npy", BITS), ("b.npy", 1 - BITS)):
        np.save(tmp_path / name, rows)
        os.utime(tmp_path / name, ns=(1, 1))
    one, other = (data.load(str(tmp_path / name), packed=True) for name in ("a.npy", "b.npy"))
    assert one.fingerprint() != other.fingerprint()


@pytest.mark.parametrize("name", ["a.csv", "a.npy", "a.parquet"])
def test_the_first_file_with_rows_decides_whether_they_are_bits(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    WRITERS[name](folder / f"part-1{Path(name).suffix}")
    empty = folder / f"part-0{Path(name).suffix}"
    if name == "a.npy":
        np.save(empty, BITS[:0])
    elif name == "a.csv":
        pa.csv.write_csv(table(pa.uint8())[:0], empty)
    else:
        pa.parquet.write_table(table(pa.uint8())[:0], empty)
    found = data.load(str(folder), packed=True)
    assert isinstance(found.bits, PackedRows)
    assert len(found) == 100
