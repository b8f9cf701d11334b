"""What columns hold: texts, classes or bits, and rows that cannot be used."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from train import data
from train.dataset import check_classes
from train.errors import InputError

TEXTS = [f'film number {i}, "really"\nit says' for i in range(12)]
BITS = np.random.default_rng(1).integers(0, 2, (12, 3)).astype(np.uint8)


@pytest.mark.parametrize("words", [("False", "True"), ("FALSE", "TRUE"), ("false", "true"), (" 0", " 1")])
def test_truth_values_are_bits(tmp_path: Path, words: tuple[str, str]) -> None:
    lines = [",".join(words[bit] for bit in row) for row in BITS]
    (tmp_path / "a.csv").write_text("\n".join([",".join(f"x{i}" for i in range(BITS.shape[1])), *lines]))
    assert np.array_equal(data.load(str(tmp_path / "a.csv")).rows, BITS)


def test_objects_beside_texts_are_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": {"en": text}, "name": f"n{text}"}) + "\n" for text in TEXTS))
    assert data.load(str(path)).texts == [f"n{text}" for text in TEXTS]
    assert "a.jsonl: columns without text are left out: text" in caplog.text
    with pytest.raises(InputError, match="--column text: holds no text"):
        data.load(str(path), column="text")
    path.write_text('{"text": {"en": "x"}}\n' * 20)
    with pytest.raises(InputError, match=r"a\.jsonl: no column holds text"):
        data.load(str(path))


def test_columns_of_numbers_are_no_texts_though_some_are_nan(tmp_path: Path) -> None:
    rows = np.zeros((100, 10))
    rows[:60, 3] = np.nan
    np.save(tmp_path / "a.npy", rows)
    np.savetxt(tmp_path / "a.csv", rows, fmt="%g", delimiter=",", header=",".join("abcdefghij"), comments="")
    for name, column in (("a.npy", "x4"), ("a.csv", "d")):
        with pytest.raises(InputError, match=f"column {column} holds 'nan', neither 0 or 1 nor text"):
            data.load(str(tmp_path / name))


def test_dates_are_no_texts(tmp_path: Path) -> None:
    when = pa.array([1_700_000_000 + i for i in range(20)], pa.timestamp("s"))
    pa.parquet.write_table(pa.table({"when": when, "text": ["a film"] * 20}), tmp_path / "a.parquet")
    assert data.load(str(tmp_path / "a.parquet")).texts == ["a film"] * 20


def test_a_value_that_is_no_bit_makes_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "b.csv"
    path.write_text("a,b\n" + "0,1\n" * 20 + "1,7\n7,1\n")
    assert data.load(str(path), max_bad_rows=2).skipped == (
        "b.csv row 21: column b holds '7', not 0 or 1",
        "b.csv row 22: column a holds '7', not 0 or 1",
    )


def test_a_few_other_lines_do_not_make_bits_a_text(tmp_path: Path) -> None:
    path = tmp_path / "b.txt"
    path.write_text("0 1 0 1\n" * 40 + "0 1 0\n,\na note\n")
    found = data.load(str(path), max_bad_rows=3)
    assert np.array_equal(found.rows, [[0, 1, 0, 1]] * 40)
    assert found.skipped == (
        "b.txt row 41: holds 3, not 4 values of 0 or 1",
        "b.txt row 42: holds ',', not 4 values of 0 or 1",
        "b.txt row 43: holds 'a note', not 4 values of 0 or 1",
    )
    with pytest.raises(InputError, match=r"3 unusable rows, more than --max-bad-rows 2: b\.txt row 41: holds 3, not"):
        data.load(str(path), max_bad_rows=2)
    path.write_text("0 1 0 1\n" * 17 + "0 1 0\n" * 2)
    assert data.load(str(path)).texts is not None


def test_a_few_other_lines_do_not_make_lists_of_bits_a_text(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    path.write_text("[0, 1, 0]\n" * 40 + '[0, 1, 0, 1]\n[0, 1]\n"a note"\n[0, 1,\n[0, 1, 2]\n')
    found = data.load(str(path), max_bad_rows=5)
    assert np.array_equal(found.rows, [[0, 1, 0]] * 40)
    why = "not a list of 3 values"
    assert found.skipped == (
        *(f"b.jsonl row {row}: {why}" for row in (41, 42, 43)),
        "b.jsonl row 44: not JSON",
        "b.jsonl row 45: column x3 holds '2', not 0 or 1",
    )


def test_json_lists_are_no_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a film", "tags": ["long", "dull", "old"]}\n' * 11 + '{"text": ["a", "film"]}\n')
    found = data.load(str(path), max_bad_rows=1)
    assert found.texts == ["a film"] * 11
    assert found.skipped == ("a.jsonl row 12: no text",)


def test_a_few_texts_may_be_without_a_word(tmp_path: Path) -> None:
    texts = ["a fine film", "!!!", ":)"] * 4
    (tmp_path / "a.txt").write_text("\n".join(texts))
    assert data.load(str(tmp_path / "a.txt")).texts == texts


def write_table(path: Path, **columns: pa.Array) -> str:
    pa.parquet.write_table(pa.table({"review": TEXTS, **columns}), path)
    return str(path)


def test_columns_that_hold_no_text_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    lists, pictures = pa.array([[1, 2]] * 12), pa.array([b"\x89PNG\xff"] * 12)
    name = write_table(path, tags=lists, facts=pa.array([{"a": 1}] * 12), picture=pictures)
    assert data.load(name).texts == data.load(name, column="review").texts == TEXTS
    for column in ("tags", "picture"):
        with pytest.raises(InputError, match=f"--column {column}: holds no text"):
            data.load(name, column=column)
    with pytest.raises(InputError, match="tags holds neither 0 and 1 nor text"):
        data.load(name, codec="bits")
    pa.parquet.write_table(pa.table({"tags": lists}), path)
    with pytest.raises(InputError, match=r"a\.parquet: no column holds text"):
        data.load(name)


@pytest.mark.parametrize("tags", [[None] * 12, [None] * 11 + [["funny"]]])
def test_lists_are_left_out_though_most_are_missing(tmp_path: Path, tags: list[list[str] | None]) -> None:
    table = pa.table({"review": TEXTS, "tags": pa.array(tags, pa.list_(pa.string()))})
    for name, rows in (("a", table), ("b", table.slice(0, 0))):
        pa.parquet.write_table(rows, tmp_path / f"{name}.parquet")
    assert data.load(str(tmp_path)).texts == TEXTS


def test_bytes_that_are_no_text_make_bad_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    marked = "a caf\ufffd"  # U+FFFD, from an earlier lossy decoding, is valid text
    name = write_table(path, text=pa.array([b"a fine film"] * 9 + [marked.encode(), None, b"caf\xe9"]))
    found = data.load(name, column="text", max_bad_rows=2)
    assert found.texts == ["a fine film"] * 9 + [marked]
    assert found.skipped == ("a.parquet row 12: column text is not UTF-8", "a.parquet row 11: no text")


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.float16()])
def test_numbers_that_are_missing_in_parquet_are_no_class(tmp_path: Path, kind: pa.DataType) -> None:
    stars = pa.array([np.nan, None, *[4.5, 3.0] * 9], pa.float64()).cast(kind)
    pa.parquet.write_table(pa.table({"text": ["a film"] * 20, "stars": stars}), tmp_path / "a.parquet")
    found = data.load(str(tmp_path / "a.parquet"), label_column="stars", max_bad_rows=2)
    assert sorted(set(found.classes or ())) == ["3", "4.5"]
    assert [line.split(":")[0] for line in found.skipped] == ["a.parquet row 1", "a.parquet row 2"]


def test_a_label_column_gives_the_texts_classes(tmp_path: Path) -> None:
    path = tmp_path / "rated.csv"
    path.write_text("stars,review\n" + "1,a dull film\n5,a fine film\n" * 10 + ",no stars\n")
    found = data.load(str(path), label_column="stars", max_bad_rows=1)
    assert found.texts == ["a dull film", "a fine film"] * 10
    assert found.classes == ["1", "5"] * 10
    assert found.skipped == ("rated.csv row 21: column stars is empty",)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("a,b", r"Name it with --column: a, b \(not rows of 0 and 1: column group holds 'control'\)"),
        ("a", r"column a holds 0 and 1, or true and false, not text \(not rows of 0 and 1: column group"),
    ],
)
def test_classes_of_bits_that_are_no_bits_are_named(tmp_path: Path, names: str, message: str) -> None:
    path = tmp_path / "a.csv"
    bits = names.replace("a", "1").replace("b", "0")
    path.write_text(f"{names},group\n" + f"{bits},control\n{bits},treated\n" * 9)
    with pytest.raises(InputError, match=message):
        data.load(str(path), label_column="group")


def test_classes_must_be_few(tmp_path: Path) -> None:
    path = tmp_path / "named.csv"
    path.write_text("name,review\n" + "".join(f"n{row},a film like any other\n" for row in range(101)))
    with pytest.raises(InputError, match="--label-column name: 101 different values; there must be 2 to 100 classes"):
        check_classes(data.load(str(path), label_column="name"), "name")
    with pytest.raises(InputError, match="--label-column name: this column holds the texts"):
        data.load(str(path), column="name", label_column="name")
    path.write_text("name\n" + "a\nb\n" * 10)
    with pytest.raises(InputError, match="--label-column name: there is no other column"):
        data.load(str(path), label_column="name", codec="tokens")


@pytest.mark.parametrize("codec", ["auto", "tokens"])
def test_numbers_of_rows_are_no_texts(tmp_path: Path, codec: str) -> None:
    """pandas writes its index as a first column without a name."""
    path = tmp_path / "bits.csv"
    path.write_text(",a,b\n" + "".join(f"{row},{row % 2},1\n" for row in range(100, 200)))
    with pytest.raises(InputError, match=r"bits\.csv: column without a name holds '100', neither 0 or 1 nor text"):
        data.load(str(path), codec=codec)
    path.write_text(",a,b\n" + "".join(f"{row},{row % 2},1\n" for row in range(12)))
    named = r"--column: one without a name, a, b \(not rows of 0 and 1: column without a name holds '2'\)$"
    with pytest.raises(InputError, match=named):
        data.load(str(path), codec=codec)


def test_names_of_rows_beside_bits_are_no_texts_unless_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "bits.csv"
    path.write_text("patient,fever,cough\n" + "".join(f"P{row},{row % 2},1\n" for row in range(100, 200)))
    with pytest.raises(InputError, match=r"column patient holds 'P100', and the others 0 and 1: remove it to use"):
        data.load(str(path))
    assert data.load(str(path), column="patient").texts == [f"P{row}" for row in range(100, 200)]
    path.write_text("review,good\n" + "好看的电影,1\na film,0\n" * 10)
    assert data.load(str(path)).text_column == "review"


def test_the_column_that_was_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text("stars,review\n" + "5,a very good film\n" * 20)
    assert data.load(str(path)).extent == "20 rows of column review"
    path.write_text("stars,review\n" + "5,a very good film\n" * 20 + "1,a very bad film\n")
    assert data.load(str(path), label_column="stars").extent == "21 rows of column review in 2 classes"
    path.write_text("review\n" + "a very good film\n" * 20)
    assert data.load(str(path)).extent == "20 rows"


def test_a_class_has_one_name_in_files_of_every_format(tmp_path: Path) -> None:
    texts = [f"a film number {i}" for i in range(20)]
    for kind, cells, names in (
        ("numbers", [1.0, 2.0] * 10, {"1", "2"}),
        ("truths", [True, False] * 10, {"true", "false"}),
        ("halves", [1.5, 2.0] * 10, {"1.5", "2"}),
    ):
        table = pa.table({"text": texts, "class": cells})
        pa.parquet.write_table(table, tmp_path / f"{kind}.parquet")
        rows = zip(texts, cells, strict=True)
        (tmp_path / f"{kind}.csv").write_text("text,class\n" + "".join(f"{text},{cell}\n" for text, cell in rows))
        lines = (json.dumps({"text": text, "class": cell}) for text, cell in zip(texts, cells, strict=True))
        (tmp_path / f"{kind}.jsonl").write_text("\n".join(lines))
        for ending in ("parquet", "csv", "jsonl"):
            found = data.load(str(tmp_path / f"{kind}.{ending}"), column="text", label_column="class")
            assert set(found.classes or ()) == names, ending
