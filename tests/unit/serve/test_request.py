"""Requests: what is valid, what is refused and with which status and field."""

import json
import math
from http import HTTPStatus
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve import request as requests
from serve.request import Request, RequestError
from train.generator import MAX_SEED

MAX_ROWS = {"json": 100, "npy": 1000}
NAMES = st.text() | st.sampled_from(requests.FIELDS)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)


def parse(body: Any, **headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.parse({"body": body}, named, MAX_ROWS)


def refusal(body: Any, **headers: str) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse(body, **headers)
    return caught.value


def test_fields_are_read_from_bytes_and_from_parsed_json() -> None:
    expected = Request(n=5, seed=1, format="npy")
    fields = {"n": 5, "seed": 1, "format": "npy"}
    sent = json.dumps(fields).encode()
    assert parse(sent) == parse(bytearray(sent)) == parse(fields) == expected


def test_an_empty_body_asks_for_one_sequence_with_a_drawn_seed() -> None:
    drawn = {parse(b"").seed for _ in range(20)}
    assert parse(b" ").n == 1
    assert len(drawn) > 1
    assert all(0 <= seed <= MAX_SEED for seed in drawn)


def test_optional_fields_may_be_null() -> None:
    assert parse({"n": 2, "seed": None, "format": None}).format == "json"


@pytest.mark.parametrize("n", [0, -1, True, 1.0, math.nan, math.inf, "5", None, [1], {}])
def test_n_must_be_a_whole_number(n: Any) -> None:
    error = refusal({"n": n})
    assert (error.field, error.status) == ("n", HTTPStatus.BAD_REQUEST)


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 10**400, False, 0.5, "1"])
def test_seed_must_be_in_range(seed: Any) -> None:
    assert refusal({"seed": seed}).field == "seed"


@pytest.mark.parametrize(("form", "limit"), [("json", 100), ("npy", 1000)])
def test_n_is_limited_for_each_format(form: str, limit: int) -> None:
    assert parse({"n": limit, "format": form}).n == limit
    error = refusal({"n": limit + 1, "format": form})
    assert (error.field, error.status) == ("n", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)


@pytest.mark.parametrize(
    "body",
    [b"{", b"nan", b"\xff\xfe\x00", b"[" * 100_000, b"1" * 5000, b"null", b"[]", b'"text"', b"5", "text", [], None, 5],
)
def test_a_body_that_is_no_json_object_is_refused(body: Any) -> None:
    assert refusal(body).field == "body"


def test_unknown_fields_are_named_in_ascii_and_shortened() -> None:
    assert refusal({"temperature": 1}).field == "temperature"
    assert refusal({"\ud800é" + "x" * 100: 1}).field.isascii()
    assert len(refusal({"x" * 1000: 1}).field) == 40


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_other_content_types_are_refused(kind: str) -> None:
    assert refusal(b'{"n": 1}', Content_Type=kind).status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE


def test_several_parts_are_refused() -> None:
    with pytest.raises(RequestError):
        requests.parse({"n": b"1", "seed": b"2"}, {}, MAX_ROWS)


def test_header_names_have_any_case_and_other_entries_are_ignored() -> None:
    kind = {"CONTENT-TYPE": "application/json; charset=utf-8"}
    headers = kind | {"accept": "application/x-npy", "body": {"content-type": "x"}}
    assert requests.parse({"body": b""}, headers, MAX_ROWS).format == "npy"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", "json"),
        ("", "json"),
        ("application/*", "json"),
        ("application/x-npy", "npy"),
        ("application/x-npy, application/json", "json"),
        ("application/json;q=0.5, application/x-npy", "npy"),
        ("text/html, */*;q=0.1", "json"),
        ("application/json;q=0, */*", "npy"),
    ],
)
def test_accept_chooses_the_format(accept: str, expected: str) -> None:
    assert parse(b"", Accept=accept).format == expected


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "application/json;q=lots"])
def test_an_accept_header_that_fits_nothing_is_refused(accept: str) -> None:
    error = refusal(b"", Accept=accept)
    assert (error.field, error.status) == ("Accept", HTTPStatus.NOT_ACCEPTABLE)


def test_the_format_field_is_stronger_than_the_accept_header() -> None:
    assert parse({"format": "npy"}, Accept="text/html").format == "npy"
    assert refusal({"format": "xml"}).field == "format"


def test_max_rows_fit_into_the_answer() -> None:
    limits = requests.max_rows(10_000, 6, "word " * 6)
    answer = {"sequences": [[1] * 6] * limits["json"], "text": ["word " * 6] * limits["json"]}
    longest = json.dumps(answer, separators=(",", ":"))
    assert 5000 < len(longest) < 10_000
    assert limits["npy"] == (10_000 - requests.ENVELOPE_BYTES) // 6


@given(st.dictionaries(st.sampled_from(requests.FIELDS), st.integers(-2, 50) | JSON))
def test_the_openapi_description_says_what_is_valid(fields: dict[str, Any]) -> None:
    description = json.loads((Path(requests.__file__).parent / "openapi.json").read_text())
    checker = jsonschema.Draft202012Validator(description["components"]["schemas"]["Request"])
    if any(isinstance(value, float) and value.is_integer() for value in fields.values()):
        return  # 5.0 is an integer to JSON Schema; the description says in words that it is not one to us
    try:
        parse(fields)
    except RequestError as error:
        assert error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or not checker.is_valid(fields)  # noqa: PT017
    else:
        assert checker.is_valid(fields)


@given(
    body=JSON | st.binary() | st.text() | JSON.map(lambda value: json.dumps(value).encode()),
    content=st.just("application/json") | st.text(),
    accept=st.just("*/*") | st.text(),
)
def test_whatever_comes_gives_a_request_or_a_request_error(body: Any, content: str, accept: str) -> None:
    try:
        request = parse(body, Content_Type=content, Accept=accept)
    except RequestError as caught:
        error = caught
    else:
        assert 1 <= request.n <= MAX_ROWS[request.format]
        assert 0 <= request.seed <= MAX_SEED
        return
    answer = json.loads(requests.encode_error(error))
    assert answer == {"error": {"field": error.field, "message": error.message}}
    assert 400 <= error.status < 500
    assert error.status.phrase.isascii()
