"""The command that judges any tool's synthetic rows or texts: what it finds, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from train import builtin
from train.__main__ import main


def test_evaluate_catches_what_was_not_rounded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = builtin.toy(900, seed=2)
    np.save(tmp_path / "real.npy", rows[:600])
    np.save(tmp_path / "soft.npy", np.abs(rows[600:] - 0.1))
    files = ["--real", f"{tmp_path}/real.npy", "--synthetic", f"{tmp_path}/soft.npy"]
    assert main(["evaluate", *files, "--gate", "default"]) == 3
    assert "soft_share is 1; the gate asks for <= 0, missed by 1" in capsys.readouterr().out


def test_evaluate_reads_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reviews, _ = builtin.movie_reviews()
    (tmp_path / "real.txt").write_text("\n".join(reviews[:400]))
    (tmp_path / "fake.txt").write_text("\n".join(" ".join(sorted(review.split())) for review in reviews[400:600]))
    report = tmp_path / "judged.html"
    files = ["--real", f"{tmp_path}/real.txt", "--synthetic", f"{tmp_path}/fake.txt"]
    assert main(["evaluate", *files, "--words", "20", "--json", "--out", str(report)]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    # The words are real, but their order is not.
    assert scores["synthetic"]["ngram_js_3"] > scores["floor"]["ngram_js_3"]
    assert scores["synthetic"]["bleu_4"] < scores["floor"]["bleu_4"]
    assert "Self-BLEU-2" in report.read_text()


def test_empty_texts_of_a_generator_count_against_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reviews, _ = builtin.movie_reviews()
    real, made = tmp_path / "real.txt", tmp_path / "made.jsonl"
    real.write_text("\n".join(reviews[:120]))
    texts = [*reviews[120:150], *[""] * 28, None, " "]
    made.write_text("\n".join(json.dumps({"text": text, "kind": "x"}) for text in texts))
    files = ["--real", str(real), "--synthetic", str(made), "--column", "text"]
    assert main(["evaluate", *files, "--max-bad-rows", "0", "--json"]) == 0
    judged = json.loads(capsys.readouterr().out)["scores"]["synthetic"]
    assert judged["n"] == 60
    assert judged["distinct_share"] == pytest.approx(31 / 60)
    assert f"30 of the 60 texts of {made} are empty: judged like others" in judged["warnings"]


@pytest.mark.parametrize(
    ("synthetic", "message"),
    [("nofile.npy", "nofile.npy: "), ("{narrow}", "3 columns where"), ("{text}", "not a number from 0 to 1")],
)
def test_evaluate_says_what_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], synthetic: str, message: str
) -> None:
    np.save(tmp_path / "real.npy", builtin.toy(50))
    np.save(tmp_path / "narrow.npy", builtin.toy(50)[:, :3])
    (tmp_path / "text.csv").write_text("a,b\n" + "x,y\n" * 20)
    synthetic = synthetic.format(narrow=tmp_path / "narrow.npy", text=tmp_path / "text.csv")
    assert main(["evaluate", "--real", f"{tmp_path}/real.npy", "--synthetic", synthetic]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert len(printed.splitlines()) == 1
