"""How commands begin: streams, log lines and signals."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest

from train import __main__ as commands


def test_log_lines_leave_standard_output_to_the_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n" + "0,1\n1,1\n1,0\n" * 8)
    files = ["--real", str(tmp_path / "rows.csv"), "--synthetic", str(tmp_path / "rows.csv")]
    assert commands.main(["evaluate", *files, "--json"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["passed"] is None
    assert told.err.splitlines() == [
        f"reading {tmp_path / 'rows.csv'} and {tmp_path / 'rows.csv'}",
        "judging 24 synthetic rows by 12 real ones",
    ]


class Met:
    """Is interrupted in its finalizer, where Python drops the exception."""

    def __del__(self) -> None:
        raise KeyboardInterrupt


def test_an_interruption_in_a_finalizer_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def command() -> None:
        Met()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            time.sleep(0.01)

    monkeypatch.setattr(commands, "cli", command)
    assert commands.main([]) == 1
    assert capsys.readouterr().err.strip() == "Error: interrupted"


def test_what_the_terminal_cannot_show_is_escaped() -> None:
    code = "from train.__main__ import main; main(['--help']); print('caf\\u00e9 \\u2026')"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, rb"caf\xe9 \u2026"), done.stderr


@pytest.mark.parametrize(("closed", "stream"), [("1", "stdout"), ("2", "stderr")])
def test_a_closed_standard_stream_is_replaced(closed: str, stream: str) -> None:
    """Training with standard error closed used to hang."""
    code = f"import sys; from train.__main__ import main; main(['--help']); sys.exit(sys.{stream}.fileno() != {closed})"
    done = subprocess.run(["sh", "-c", f'exec "$0" -c "$1" {closed}>&-', sys.executable, code], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def log_twice(folder: Path, made: str, then: str, **streams: Any) -> subprocess.CompletedProcess[str]:
    """Run a process whose handler, `made` so, logs two lines into the stream given as None, which nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    code = "import logging; from train.entry import BesideTheBar; log = logging.getLogger('x'); "
    code += f"log.addHandler({made}); log.error('one'); log.error('two'); {then}"
    environment = {**os.environ, "PYTHONPATH": str(Path(commands.__file__).parents[1])}
    given = {name: writing if stream is None else stream for name, stream in streams.items()}
    job = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, text=True, **given)
    os.close(writing)
    return job


def test_a_job_goes_on_where_nobody_reads_its_output(tmp_path: Path) -> None:
    """As after `| head -1`."""
    then = "open('done', 'w').close()"
    job = log_twice(tmp_path, "BesideTheBar()", then, stdout=None, stderr=subprocess.PIPE)
    assert (job.returncode, job.stderr) == (0, "")
    assert (tmp_path / "done").exists()


def test_json_is_printed_although_nobody_reads_the_log(tmp_path: Path) -> None:
    job = log_twice(tmp_path, "BesideTheBar(json_alone=True)", "print('{}')", stdout=subprocess.PIPE, stderr=None)
    assert (job.returncode, job.stdout) == (0, "{}\n")
