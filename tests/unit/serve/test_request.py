"""Requests: what is valid, what is refused and with which status and field."""

import gzip
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
from serve.request import Offer, Request, RequestError
from train import MAX_SEED
from train.generator import CANDIDATES, TEMPERATURE, Option

OFFER = Offer(max_rows={"json": 100, "npy": 1000})
LABEL = Option(kind=str, choices=("calm", "wild"))
RICH = Offer(
    max_rows=OFFER.max_rows,
    options={"temperature": TEMPERATURE, "candidates": CANDIDATES, "label": LABEL},
    candidates=4,
    max_draws=160,
)
FIELDS = (*requests.FIELDS, *requests.EXTRAS)
NAMES = st.text() | st.sampled_from(FIELDS)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)


def parse(body: Any, offer: Offer = OFFER, **headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.parse({"body": body}, named, offer)


def refusal(body: Any, offer: Offer = OFFER, **headers: str) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse(body, offer, **headers)
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
    assert error.message == "must be a whole number, at least 1"


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1, 10**400, False, 0.5, "1"])
def test_seed_must_be_in_range(seed: Any) -> None:
    error = refusal({"seed": seed})
    assert (error.field, error.message) == ("seed", f"must be a whole number, from 0 to {MAX_SEED}")


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


def test_options_are_read_where_the_model_has_them() -> None:
    asked = {"temperature": 1, "candidates": 5, "label": "wild"}
    assert dict(parse(asked, RICH).options) == asked
    assert parse(asked, RICH).options == parse(dict(reversed(asked.items())), RICH).options
    assert parse(dict.fromkeys(asked), RICH).options == parse({}, RICH).options == ()


@pytest.mark.parametrize("name", requests.EXTRAS)
@pytest.mark.parametrize("value", [1, None])
def test_an_option_that_the_model_does_not_have_is_refused(name: str, value: Any) -> None:
    error = refusal({name: value})
    assert (error.field, error.status) == (name, HTTPStatus.BAD_REQUEST)
    assert error.message == "is an option of other models only; this model takes n, seed, format"


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        *(
            ("temperature", value, "a number from 0.1 to 2")
            for value in (0, 0.09, 2.1, 10**400, math.nan, True, "1", [])
        ),
        *(("candidates", value, "a whole number from 1 to 64") for value in (0, 65, 1.0, False, math.inf, "1", {})),
        *(("label", value, 'one of "calm", "wild"') for value in ("", "Calm", 0, ["calm"], {"calm": 1})),
    ],
)
def test_an_option_out_of_its_range_is_refused(name: str, value: Any, part: str) -> None:
    error = refusal({name: value}, RICH)
    assert (error.field, error.status) == (name, HTTPStatus.BAD_REQUEST)
    assert part in error.message


def test_n_is_limited_by_the_work_too() -> None:
    assert parse({"n": 40, "candidates": 4}, RICH).n == 40
    error = refusal({"n": 41, "candidates": 4}, RICH)
    assert (error.field, error.status) == ("n", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    assert error.message.startswith("must be at most 40 with candidates 4")
    assert refusal({"n": 10**9, "candidates": 4}, RICH).message == error.message
    assert refusal({"n": 10**9, "candidates": 2, "format": "json"}, RICH).message.startswith("must be at most 80 ")
    assert refusal({"n": 10**9, "candidates": 1}, RICH).message.startswith("must be at most 100 for json")


@pytest.mark.parametrize("fields", [{}, {"candidates": None}, {"format": "npy"}, {"temperature": 1}])
def test_the_work_is_limited_where_the_request_names_no_candidates(fields: dict[str, Any]) -> None:
    assert parse({"n": 40} | fields, RICH).n == 40
    assert refusal({"n": 41} | fields, RICH).message.startswith("must be at most 40 with candidates 4")


def test_single_candidates_are_work_too() -> None:
    assert parse({"n": 160, "candidates": 1, "format": "npy"}, RICH).n == 160
    error = refusal({"n": 161, "candidates": 1, "format": "npy"}, RICH)
    assert error.message.startswith("must be at most 160 with candidates 1")


def test_unknown_fields_are_named_in_ascii_and_shortened() -> None:
    error = refusal({"temprature": 1}, RICH)
    assert (error.field, error.status) == ("temprature", HTTPStatus.BAD_REQUEST)
    assert error.message == "is not a known field; this model takes n, seed, format, temperature, candidates, label"
    assert refusal({"\ud800é" + "x" * 100: 1}).field.isascii()
    assert len(refusal({"x" * 1000: 1}).field) == 40


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_other_content_types_are_refused(kind: str) -> None:
    assert refusal(b'{"n": 1}', Content_Type=kind).status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip"])
def test_a_compressed_body_is_said_to_be_compressed(coding: str) -> None:
    error = refusal(gzip.compress(b'{"n": 1}'), Content_Encoding=coding)
    assert (error.field, error.status) == ("Content-Encoding", HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
    assert parse(b'{"n": 1}', Content_Encoding="Identity").n == 1


def test_several_parts_are_refused() -> None:
    with pytest.raises(RequestError) as caught:
        requests.parse({"a": b"{}", "b": b"{}"}, {}, OFFER)
    assert caught.value.status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE


def test_headers_have_any_case_and_other_entries_are_ignored() -> None:
    kind = {"CONTENT-TYPE": "Application/JSON; charset=utf-8"}
    headers = kind | {"accept": "application/x-npy", "body": {"content-type": "x"}}
    assert requests.parse({"body": b""}, headers, OFFER).format == "npy"


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
    rows = [[1] * 6], ["word " * 6], ["dull"]
    limits = requests.max_rows(10_000, 6, ("word " * 6, "dull"))
    answer = {name: row * limits["json"] for name, row in zip(("sequences", "text", "labels"), rows, strict=True)}
    longest = json.dumps(answer, separators=(",", ":"))
    assert 5000 < len(longest) < 10_000
    assert limits["npy"] == (10_000 - requests.ENVELOPE_BYTES) // 6


def test_max_rows_know_longer_codes() -> None:
    limits = requests.max_rows(10_000, 6, code_values=70_000, code_bytes=4)
    longest = json.dumps([[69_999] * 6] * limits["json"], separators=(",", ":"))
    assert 5000 < len(longest) < 10_000 - requests.ENVELOPE_BYTES
    assert limits["npy"] == (10_000 - requests.ENVELOPE_BYTES) // 24


@given(st.dictionaries(st.sampled_from(FIELDS), st.integers(-2, 50) | st.sampled_from(LABEL.choices) | JSON))
def test_the_openapi_description_says_what_is_valid(fields: dict[str, Any]) -> None:
    description = json.loads((Path(requests.__file__).parent / "openapi.json").read_text())
    checker = jsonschema.Draft202012Validator(description["components"]["schemas"]["Request"])
    if any(isinstance(value, float) and value.is_integer() for value in fields.values()):
        return  # to JSON Schema 5.0 is an integer, to us it is not; the description says so in words
    try:
        parse(fields, RICH)
    except RequestError as error:
        named = error.field == "label" and isinstance(fields["label"], str)  # the names depend on the model
        too_large = error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        assert too_large or named or not checker.is_valid(fields)
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
        assert 1 <= request.n <= OFFER.max_rows[request.format]
        assert 0 <= request.seed <= MAX_SEED
        return
    answer = json.loads(requests.encode_error(error))
    assert answer == {"error": {"field": error.field, "message": error.message}}
    assert 400 <= error.status < 500
    assert error.status.phrase.isascii()


@pytest.mark.parametrize("text", ["电影很好看" * 4, '"' * 20, "dull"])
def test_max_rows_know_what_a_text_takes_in_json(text: str) -> None:
    limits = requests.max_rows(20_000, 6, (text,))
    answer = {"sequences": [[1] * 6] * limits["json"], "text": [text] * limits["json"]}
    sent = json.dumps(answer, separators=(",", ":"), ensure_ascii=False).encode()  # as orjson writes it
    assert len(sent) < 20_000


def test_drawn_seeds_are_from_the_whole_range() -> None:
    assert max(parse(b"").seed for _ in range(100)) > MAX_SEED // 2
