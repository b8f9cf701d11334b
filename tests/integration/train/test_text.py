"""Jobs on texts: from sentences to an artifact that answers with sentences."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from train import artifact, rundir, text_calibration, text_metrics
from train.__main__ import main

SUBJECTS, VERBS, ENDS = ("the film", "a story", "this plot"), ("is", "was", "seems"), ("dull", "fine", "long", "odd")
OPTIONS = ["--text-hidden", "16", "--candidates", "4", "--gate", "none", "--device", "cpu", "--epochs", "1"]


@pytest.fixture(autouse=True, scope="module")
def _quick() -> Iterator[None]:
    """Draw few texts to calibrate, and judge briefly: the sentences are simple."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_calibration, "ROWS", 400)
        patch.setattr(text_metrics, "CONV_EPOCHS", 1)
        yield


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    lines = ["stars,review"]
    for _ in range(400):
        stars = rng.integers(1, 3)
        ends = ENDS[:2] if stars == 1 else ENDS[2:]
        lines.append(f"{stars},{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(ends)}.")
    path = tmp_path_factory.mktemp("texts") / "reviews.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def trained(sentences: Path) -> rundir.RunDirectory:
    out = sentences.parent / "runs"
    options = ["--data", str(sentences), "--label-column", "stars", "--out", str(out), "--baselines", "all", *OPTIONS]
    assert main(["fit", *options]) == 0
    return rundir.newest(out)


def test_a_warm_start_that_takes_all_the_time_ships(sentences: Path, tmp_path: Path) -> None:
    time = ["--max-minutes", "0.000001"]
    options = ["--data", str(sentences), "--out", str(tmp_path), "--baselines", "none", *OPTIONS, *time]
    assert main(["fit", *options]) == 0
    run = rundir.newest(tmp_path)
    assert run.stats.read_text() == ""
    assert run.archive.exists()
    assert "GAN" in json.loads(run.metrics.read_text())["scores"]


def test_the_sentences_follow_the_grammar_and_their_label(trained: rundir.RunDirectory) -> None:
    shipped = artifact.load(trained.artifact)
    assert shipped.codec.labels == ("1", "2")
    for label, ends in (("1", ENDS[:2]), ("2", ENDS[2:])):
        texts = shipped.codec.decode(shipped.sample(100, 1, label=label))
        whole = [text for text in texts if text.startswith(SUBJECTS) and text.endswith(tuple(f" {e}." for e in ends))]
        assert len(whole) > 80


def test_the_evidence_has_the_baselines_the_ablation_and_a_curve(trained: rundir.RunDirectory) -> None:
    found = json.loads(trained.metrics.read_text())
    assert list(found["scores"]) == ["GAN", "warm start", "RNN", "trigram", "floor"]
    assert {"c2st_auc", "c2st_conv_auc", "ngram_js_4", "bleu_5", "self_bleu_5", "length_distance"} <= set(
        found["scores"]["GAN"]
    )
    assert list(found["curves"]) == ["GAN", "warm start", "RNN", "floor"]
    assert [point["temperature"] for point in found["curves"]["GAN"]] == [0.7, 0.85, 1.0, 1.15]
    told = {name: scores.get("utility") for name, scores in found["scores"].items()}
    assert told.pop("trigram") is None, "it knows no classes"
    assert told.pop("RNN") > 0.6
    assert all(value > 0.8 for value in told.values()), told
    assert all(found["scores"][name]["label_distance"] < 0.3 for name in told)
    page = trained.report.read_text()
    assert "Utility" in page
    assert "Classes" in page
    assert "Quality and diversity" in page
    assert "Texts, and the nearest texts seen in training" in page


def test_real_rows_are_printed_whole(sentences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", str(sentences), "--column", "review", "--out", str(tmp_path), "--baselines", "none", *OPTIONS]
    assert main(["fit", *options, "--min-count", "120", "--max-minutes", "0.000001"]) == 0  # the last words are rarer
    printed = capsys.readouterr().out.split("real texts:\n")[1].splitlines()[:5]
    assert {line.strip().rpartition(" ")[2] for line in printed} <= {f"{end}." for end in ENDS}


def test_printed_texts_come_with_their_classes(trained: rundir.RunDirectory) -> None:
    log = trained.log.read_text()
    assert "400 rows of column review in 2 classes" in log
    printed = log.split("real texts:\n")[1].splitlines()[:5]
    assert all(
        line.startswith(f"  [{1 if line.endswith(tuple(f'{e}.' for e in ENDS[:2])) else 2}] ") for line in printed
    )
    assert all(line.startswith(("  [1] ", "  [2] ")) for line in log.split("generated texts:\n")[1].splitlines()[:5])


def test_samples_are_texts_and_options_choose(
    trained: rundir.RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained.samples.read_text().startswith('"text","stars"\n')
    chosen = ["--temperature", "0.5", "--candidates", "1", "--label", "2"]
    assert main(["sample", str(trained.path), "--n", "20", "--out", f"{tmp_path}/a.jsonl", *chosen]) == 0
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert sum(row["text"].endswith(("long.", "odd.")) for row in rows) > 15
    assert [row["stars"] for row in rows] == ["2"] * 20
    shards = ["sample", str(trained.path), "--n", "20", "--out", f"{tmp_path}/shards"]
    assert main([*shards, *chosen]) == 0
    capsys.readouterr()
    assert main([*shards, *chosen[:-1], "1"]) == 2
    assert "holds a sample of options" in capsys.readouterr().err
    assert main(["sample", str(trained.path), "--n", "2", "--out", f"{tmp_path}/b.csv", "--label", "9"]) == 2
    assert '--label: must be one of "1", "2"' in capsys.readouterr().err


def test_the_classes_of_samples_are_judged(
    trained: rundir.RunDirectory, sentences: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--real", str(sentences), "--synthetic", str(trained.samples)]
    assert main(["evaluate", *files, "--label-column", "stars", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert scores["synthetic"]["utility"] > 0.8
    assert scores["floor"]["utility"] > 0.95
    assert scores["synthetic"]["label_distance"] < 0.2
    assert main(["evaluate", *files]) == 0
    assert "utility" not in capsys.readouterr().out
