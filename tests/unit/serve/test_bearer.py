"""The operator's token: read strictly, compared exactly."""

from pathlib import Path

import pytest

from serve import bearer

TOKEN = "correct-horse-battery"


def test_a_token_is_read_without_its_line_end(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    assert bearer.read(tmp_path / "token") == TOKEN
    assert bearer.read(None) is None
    assert bearer.read("") is None


@pytest.mark.parametrize(
    "content", ["", "short", "with spaces in between", "ünprintable-in-ascii", "two\nlines-of-token"]
)
def test_what_is_no_token_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    with pytest.raises(ValueError, match="must hold one token"):
        bearer.read(tmp_path / "token")


@pytest.mark.parametrize(
    ("headers", "admitted"),
    [
        ({"Authorization": f"Bearer {TOKEN}"}, True),
        ({"authorization": f"bearer  {TOKEN} "}, True),
        ({"Authorization": f"Basic {TOKEN}"}, False),
        ({"Authorization": TOKEN}, False),
        ({"Authorization": f"Bearer {TOKEN[:-1]}"}, False),
        ({"Authorization": "Bearer \udcff"}, False),
        ({"Authorization": None}, False),
        ({}, False),
    ],
)
def test_only_the_token_is_admitted(headers: dict[str, str], admitted: bool) -> None:
    assert bearer.admits(TOKEN, headers) == admitted
    assert bearer.admits(None, headers)
