"""What the commands check, say and refuse."""

import json
from pathlib import Path

import pytest

from train import CARD, WEIGHTS, artifact
from train import __main__ as commands
from train import fit as job
from train.codec import BitsCodec
from train.gate import Verdict
from train.nade import NadeGenerator
from train.rundir import RunDirectory


class Finished:
    """The outcome of a job that missed its gate."""

    run = RunDirectory(Path("runs/00001-toy-bits"))
    verdict = Verdict(reasons=["c2st_auc is 1"], missed=["c2st_auc is 1"])


def test_who_misses_the_gate_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(job, "fit", lambda config, run: Finished)
    monkeypatch.setattr(commands, "_archive", lambda *_: None)
    assert commands.main(["fit", "--data", "toy"]) == 3
    told = capsys.readouterr().out.splitlines()
    assert told[0] == f"archive: {Finished.run.archive}"
    assert told[1].startswith("All files are kept, but this model does not become champion (exit code 3)")
    assert "--max-minutes" in told[1]
    assert "--gate FILE or --gate none" in told[1]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([], "neither a finished run nor an artifact; name one such as"),
        (["config.json"], "the run is not finished; resume with: python -m train fit --resume --out"),
    ],
)
def test_what_is_no_finished_run_is_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], files: list[str], reason: str
) -> None:
    for name in files:
        (tmp_path / name).touch()
    assert commands.main(["export", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"Error: RUN {tmp_path}: {reason} ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: toy\nepochs: many\n", "{file} line 2: epochs: 'many' is not a valid integer"),
        ("data: toy\nmax_minute: 3\n", "{file} line 2: there is no option max_minute; did you mean max-minutes?"),
        ("max-minutes: 3\nmax_minutes: 4\n", "{file} line 2: max_minutes is given twice"),
        ("colour: blue\n", "{file} line 1: there is no option colour"),
        ("seed: [1, 2]\n", "{file} line 1: seed: a single value is needed"),
        ("a: b: c\n", 'mapping values are not allowed here in "{file}", line 1'),
        ("- data\n", "{file}: must hold `option: value` lines"),
        (
            "colour: blue\nepochs: many\nseed: 1\nseed: 2\n",
            "{file} line 1: there is no option colour; did you mean column?; "
            "line 2: epochs: 'many' is not a valid integer range; line 4: seed is given twice",
        ),
    ],
)
def test_a_mistake_in_a_file_of_options_is_found_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    assert commands.main(["fit", "--config", str(file), "--dry-run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: Invalid value for '--config': {message.format(file=file)}")


def test_an_option_without_a_value_is_not_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("data: toy\nwords:\nlowercase: no\n")
    assert commands.main(["fit", "--config", str(file), "--dry-run"]) == 0
    config = json.loads(capsys.readouterr().out)
    assert (config["words"], config["lowercase"]) == (64, False)


def test_a_dry_run_tells_what_it_does_not_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text("text\n" + "a film\n" * 50 + '""\n')
    assert commands.main(["fit", "--data", str(path), "--hidden", "7", "--dry-run"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["hidden"] == 7
    assert "no effect with codec tokens and generator tokens: --hidden" in told.err
    assert "skipped: reviews.csv row 51: no text" in told.err
    assert "100% of the held-out texts are also found among the training texts" in told.err


def test_a_dry_run_reads_the_gate(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["fit", "--data", "toy", "--gate", "nowhere.yaml", "--dry-run"]) == 2
    assert capsys.readouterr().err == "Error: --gate nowhere.yaml: No such file or directory\n"
    assert commands.main(["fit", "--data", "toy", "--gate", "defualt", "--dry-run"]) == 2
    assert capsys.readouterr().err.endswith("No such file or directory; did you mean default?\n")


def test_a_file_of_options_that_is_missing_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["fit", "--config", "nowhere.yaml"]) == 2
    assert "'--config': nowhere.yaml: No such file" in capsys.readouterr().err


def test_sync_names_the_folder_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["sync", "nowhere"]) == 2
    assert "RUN nowhere: no such folder; name one such as runs/" in capsys.readouterr().err


def test_sync_says_how_a_damaged_archive_is_made_anew(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("train.tracking.sync", lambda directory: "4f0c")
    assert commands.main(["sync", str(run)]) == 0
    assert capsys.readouterr().out == f"{run}: MLflow has all that there is so far, as run 4f0c\n"
    (run / "metrics.json").touch()
    (run / "lookalike.mar").write_bytes(b"PK, and then nothing")
    assert commands.main(["sync", str(run)]) == 1
    said = capsys.readouterr()
    assert said.out == f"{run}: MLflow has all of it, as run 4f0c\n"
    assert said.err.endswith(f"rebuild it with: python -m train export {run}\n")


def test_a_broken_artifact_does_not_become_an_archive(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = run / "artifact" / WEIGHTS
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    assert commands.main(["export", str(run)]) == 2
    assert "the checksum does not match the card" in capsys.readouterr().err
    assert not (run / "lookalike.mar").exists()


def test_an_archive_does_not_replace_a_file_of_its_artifact(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = run / "artifact" / CARD
    before = card.read_bytes()
    assert commands.main(["export", str(run), "--out", str(card)]) == 2
    assert f"--out {card}: the archive would be among the files of the artifact" in capsys.readouterr().err
    assert card.read_bytes() == before


def test_an_archive_lies_beside_the_artifact_also_from_within_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = NadeGenerator(length=6, hidden=3, nets=2, classes=2)
    artifact.save(tmp_path / "artifact", made, BitsCodec("abcdef"), {"version": "1"})
    monkeypatch.chdir(tmp_path / "artifact")
    assert commands.main(["export", "."]) == 0
    assert (tmp_path / "lookalike.mar").exists()
