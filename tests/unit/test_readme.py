"""The README says what the commands say."""

from pathlib import Path

import click
from click.testing import CliRunner

from tests.bench import tables
from train.__main__ import cli

README = Path(__file__).parents[2] / "README.md"
START, END = "<!-- help: start -->\n", "<!-- help: end -->"


def help_text() -> str:
    """`python -m train fit --help`, as the README shows it."""
    shown = CliRunner().invoke(cli, ["fit", "--help"], prog_name="python -m train", terminal_width=110)
    return "```text\n" + click.unstyle(shown.output) + "```\n"


def test_the_readme_shows_the_options_as_they_are() -> None:
    found = README.read_text().split(START)[1].split(END)[0]
    assert found == help_text(), "run `make readme`"


def test_the_readme_shows_what_was_measured() -> None:
    found = README.read_text().split("<!-- summary: start -->\n")[1].split("\n<!-- summary: end -->")[0]
    assert found == tables.summary(tables.RESULTS.read_text()), "change train/RESULTS.md by --write only"


def rewrite() -> None:
    """Put the options into the README; called by `make readme`."""
    before, rest = README.read_text().split(START)
    README.write_text(before + START + help_text() + END + rest.split(END)[1])


if __name__ == "__main__":
    rewrite()
