"""The report in a real browser: it renders in light and dark mode, without the network."""

import shutil
import subprocess
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from train import builtin, evidence, figures, gate, report

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
OFFLINE = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    "--window-size=1000,2400",
)  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if BROWSER is None:
        pytest.skip("no Chromium here: the report was not looked at in a browser")
    rows = builtin.toy(900)
    found = evidence.judge({"GAN": rows[600:]}, rows[:300], rows[300:600], columns=list("abcde"))
    shown = report.Page(
        title="toy",
        verdict=gate.check(gate.read("default"), found.scores["GAN"]),
        history=[],
        decode=lambda codes: None,
        provenance={"data": "toy"},
    )
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report.render(found, shown, figures.draw(found, [])))
    return path


def browse(page: Path, *options: str) -> str:
    profile = page.parent / "profile"
    command = [str(BROWSER), *OFFLINE, f"--user-data-dir={profile}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_the_table_is_there(page: Path) -> None:
    document = browse(page, "--dump-dom")
    assert 'id="numbers"' in document
    assert "correlation_ratio" in document


@pytest.mark.parametrize(("scheme", "bright"), [("1", True), ("0", False)], ids=["light", "dark"])
def test_it_is_legible_in_light_and_dark(page: Path, scheme: str, bright: bool) -> None:
    picture = page.parent / f"{scheme}.png"
    browse(page, f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={picture}")
    pixels = matplotlib.image.imread(picture)[..., :3].mean(axis=2)
    background = float(np.median(pixels))
    assert (background > 0.5) == bright
    # Every part has pixels far from the background's brightness: text and axes, in heatmaps and plots too.
    for part in np.array_split(pixels, 4, axis=0):
        assert np.quantile(np.abs(part - background), 0.999) > 0.4
