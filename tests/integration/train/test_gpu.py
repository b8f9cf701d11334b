"""Whole jobs on a GPU: a simulated one, which checks that tensors are on the right device, and a real one if any."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.pretend_gpu import NAME
from train import (
    WEIGHTS,
    artifact,
    calibration,
    checkpoint,
    evidence,
    fit,
    kinds,
    mixture,
    net_fit,
    rundir,
    ship,
    text_calibration,
    text_metrics,
    tracking,
)
from train.__main__ import main
from train.gate import Verdict
from train.job import Game

SUBJECTS, VERBS, ENDS = ("the film", "a story", "this plot"), ("is", "was", "seems"), ("dull", "fine", "long", "odd")
COMMON = ["--gate", "none", "--device", "cuda"]
BITS = ["--data", "toy", "--hidden", "8", "--folds", "2", "--width", "8", "--epochs", "10", "--head-start", "0"]
BITS += ["--batch-size", "96", "--turns", "2", *COMMON]
TEXTBOOK = ["--data", "toy", "--preset", "textbook", "--epochs", "1", *COMMON]
PHASES = {"bits": {"warm start", "game", "refit"}, "textbook": {"game"}, "texts": {"warm start", "game"}}


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("LOOKALIKE_DEBUG", "1")
    monkeypatch.setenv("LOOKALIKE_OUT", str(tmp_path / "runs"))
    monkeypatch.setattr(tracking, "SECONDS", 0.2)
    monkeypatch.setattr(mixture, "EM_STEPS", 5)
    monkeypatch.setattr(net_fit, "STEPS", 30)
    for module in (calibration, text_calibration):
        monkeypatch.setattr(module, "ROWS", 200)
    monkeypatch.setattr(text_metrics, "CONV_EPOCHS", 1)
    monkeypatch.setattr(evidence, "TEMPERATURES", (1.0,))
    monkeypatch.setattr(kinds, "embedder", lambda: None)
    monkeypatch.setattr(ship, "SAMPLE_ROWS", 100)
    monkeypatch.setattr(kinds, "BITS_GAIN", 99.0)  # no game counts as an improvement, so there is a refit


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = [
        f"{s + 1},{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {ENDS[2 * s + rng.integers(2)]}." for s in [0, 1] * 120
    ]
    path = tmp_path / "reviews.csv"
    path.write_text("\n".join(["stars,review", *lines]) + "\n")
    return path


@pytest.fixture
def texts(reviews: Path) -> list[str]:
    return ["--data", str(reviews), "--text-hidden", "8", "--head", "12", "--epochs", "6", *COMMON]


def fitted(options: list[str], out: Path) -> rundir.RunDirectory:
    assert main(["fit", *options, "--out", str(out)]) == 0
    return rundir.newest(out)


def phases(
    options: list[str], out: Path, monkeypatch: pytest.MonkeyPatch, steps: int, device: str = "cuda"
) -> list[str]:
    """Interrupt a job every few steps until it ends, resuming it on `device`; returns the phases interrupted."""
    monkeypatch.setattr(fit, "interruptible", lambda: interrupting(steps))
    code, found = main(["fit", *options, "--out", str(out)]), []
    while code == 1 and len(found) < 50:
        saved = checkpoint.load_newest(rundir.newest(out).checkpoints)
        assert saved is not None
        found.append(saved["phase"])
        code = main(["fit", "--resume", "--device", device, "--out", str(out)])
    assert code == 0
    return found


@contextlib.contextmanager
def interrupting(steps: int) -> Iterator[Callable[[], bool]]:
    left = iter(range(steps))
    yield lambda: next(left, None) is None


def weights(run: rundir.RunDirectory) -> bytes:
    return (run.artifact / WEIGHTS).read_bytes()


@pytest.fixture
def _unjudged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs only save the artifact: judging and reporting would take longer than the training here."""

    verdict = Verdict(reasons=[], missed=[])

    def save(game: Game) -> Verdict:
        artifact.save(
            game.job.run.artifact, ship._chosen(game), game.job.prepared.codec, ship._card(game.job, {}, verdict)
        )
        return verdict

    monkeypatch.setattr(ship, "ship", save)


@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize("kind", ["bits", "textbook", "texts"])
def test_what_was_trained_there_is_judged_and_served_on_the_cpu(kind: str, texts: list[str], tmp_path: Path) -> None:
    options = {"bits": BITS, "textbook": TEXTBOOK, "texts": [*texts, "--label-column", "stars", "--epochs", "1"]}[kind]
    run = fitted([*options, "--baselines", "fast" if kind == "texts" else "none"], tmp_path)
    assert "on " + torch.cuda.get_device_name() in run.log.read_text()
    assert next(artifact.load(run.artifact).generator.parameters()).device.type == "cpu"
    assert len(run.samples.read_text().splitlines()) == ship.SAMPLE_ROWS + 1


@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize("kind", ["bits", "texts"])
def test_a_job_that_went_on_there_is_judged(
    kind: str, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*(BITS if kind == "bits" else texts), "--baselines", "none"]
    assert "game" in phases(options, tmp_path, monkeypatch, steps=30)
    assert {"GAN", "warm start"} <= set(json.loads(rundir.newest(tmp_path).metrics.read_text())["scores"])


@pytest.mark.usefixtures("_gpu", "_unjudged")
@pytest.mark.parametrize("kind", ["bits", "textbook", "texts"])
def test_a_job_that_is_interrupted_again_and_again_ends_as_if_left_alone(
    kind: str, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"bits": BITS, "textbook": TEXTBOOK, "texts": texts}[kind]
    undisturbed = fitted(options, tmp_path / "a")
    found = phases(options, tmp_path / "b", monkeypatch, steps=250 if kind == "textbook" else 30)
    assert set(found) == PHASES[kind]
    if torch.cuda.get_device_name() == NAME:  # a real GPU sums in any order
        assert weights(rundir.newest(tmp_path / "b")) == weights(undisturbed)


@pytest.mark.usefixtures("_gpu", "_unjudged")
@pytest.mark.parametrize("kind", ["bits", "texts"])
@pytest.mark.parametrize("devices", [("cuda", "cpu"), ("cpu", "cuda")], ids="-to-".join)
def test_a_job_goes_on_on_another_device(
    kind: str, devices: tuple[str, str], texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [*(BITS if kind == "bits" else texts), "--device", devices[0]]
    assert set(phases(options, tmp_path, monkeypatch, 30, devices[1])) == PHASES[kind]
    artifact.load(rundir.newest(tmp_path).artifact)


@pytest.mark.usefixtures("_gpu", "_unjudged")
def test_the_nets_compute_on_the_gpu(texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learned, drawn = set[str](), set[str]()
    for layer in (torch.nn.GRU, torch.nn.Conv1d):
        monkeypatch.setattr(layer, "forward", watched(layer.forward, learned, drawn))
    fitted(texts, tmp_path)
    assert learned == {"GRU cuda torch.float32", "Conv1d cuda torch.float32"}
    # What ships draws on the CPU in double precision, and chooses in double precision where the choice is close.
    shipped = {"GRU cpu torch.float64", "Conv1d cpu torch.float32"}
    assert drawn - {"Conv1d cpu torch.float64"} == {"GRU cuda torch.float32", *shipped}


def watched(function: Callable[..., object], learned: set[str], drawn: set[str]) -> Callable[..., object]:
    """The function, which also notes its layer and its first argument's device and dtype, apart for drawing."""

    def call(module: torch.nn.Module, values: torch.Tensor, *others: object) -> object:
        seen = drawn if torch.is_inference_mode_enabled() else learned
        seen.add(f"{type(module).__name__} {values.device.type} {values.dtype}")
        return function(module, values, *others)

    return call
