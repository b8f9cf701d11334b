"""Parse and validate one request.

`parse` turns TorchServe's input into a Request or raises a RequestError that names the field; nothing that a client can
send makes it raise anything else. This module is a LEAF (see train/__init__.py).
"""

import functools
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from train import MAX_SEED
from train.generator import Option

CONTENT_TYPES = {"json": "application/json", "npy": "application/x-npy"}
ANY_TYPE = ("application/*", "*/*")  # the more specific first
FIELDS = ("n", "seed", "format")  # every model has them
EXTRAS = ("temperature", "candidates", "label")  # only some models have them
HEADERS = ("Content-Type", "Content-Encoding", "Accept", "Authorization")
NAMES = (*FIELDS, *EXTRAS, *HEADERS, "body", "server")  # what an error can name
ENVELOPE_BYTES = 4096  # more than an answer holds besides its rows: seed, model, punctuation
BYTES_AS_SENT = (bytes, bytearray, memoryview)


class RequestError(ValueError):
    """A request that is refused: the field, a message for people, and the HTTP status."""

    def __init__(self, field: str, message: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Request:
    """A valid request: how many sequences, from which seed, in which format ("json" or "npy"), with which options."""

    n: int
    seed: int
    format: str
    options: tuple[tuple[str, Any], ...] = ()  # sorted (name, value) pairs, so that equal options compare equal


@dataclass(frozen=True, kw_only=True)
class Offer:
    """What a model can be asked for.

    Attributes:
        max_rows: how many sequences fit into an answer, for each format.
        options: the options of the model that a request may set.
        candidates: the default number of candidates per sequence.
        max_draws: how many candidates may be drawn for one request. It applies only to models with the option
            `candidates`, whose sequences are slow to draw.
    """

    max_rows: Mapping[str, int]
    options: Mapping[str, Option] = field(default_factory=dict)
    candidates: int = 1
    max_draws: int = 4_000


def parse(parameters: Mapping[str, Any], headers: Mapping[str, Any], offer: Offer) -> Request:
    """The request in one item of a TorchServe batch.

    Args:
        parameters: parts of the request by name; the body is "body" in HTTP, in gRPC a name of the client's choice.
        headers: request headers, names in any case.
        offer: what the model can be asked for.

    Raises:
        RequestError: the request cannot be answered as it is.
    """
    named = {name.lower(): value for name, value in headers.items() if isinstance(value, str)}
    content_type = named.get("content-type", "").split(";")[0].strip().lower()
    if content_type not in ("", CONTENT_TYPES["json"]) or len(parameters) > 1:
        raise RequestError(
            "Content-Type", "send one JSON object as application/json", HTTPStatus.UNSUPPORTED_MEDIA_TYPE
        )
    if named.get("content-encoding", "").strip().lower() not in ("", "identity"):
        raise RequestError("Content-Encoding", "send the body uncompressed", HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
    fields = _json_object(next(iter(parameters.values()), b""))
    options = _options(fields, offer.options)
    form = _format(fields.get("format"), named.get("accept", "*/*"))
    n = _whole_number("n", fields.get("n", 1), 1)
    _limit(n, form, options.get("candidates", offer.candidates), offer)
    seed = fields.get("seed")
    seed = secrets.randbelow(MAX_SEED + 1) if seed is None else _whole_number("seed", seed, 0, MAX_SEED)
    return Request(n=n, seed=seed, format=form, options=tuple(sorted(options.items())))


def max_rows(
    max_bytes: int, length: int, longest: tuple[str, ...] = (), code_values: int = 2, code_bytes: int = 1
) -> dict[str, int]:
    """How many sequences fit into an answer of `max_bytes` in the worst case, for each format.

    Args:
        length: codes per sequence.
        longest: the longest text and class name, which JSON holds for each row besides its codes.
        code_values: how many values a code can have.
        code_bytes: bytes per code in the npy format.
    """
    text_bytes = sum(len(json.dumps(text)) + 1 for text in longest)
    digits = len(str(code_values - 1))
    room = max_bytes - ENVELOPE_BYTES
    return {"json": room // ((digits + 1) * length + 2 + text_bytes), "npy": room // (code_bytes * length)}


def encode_error(error: RequestError) -> bytes:
    """The body of every refusal."""
    return json.dumps({"error": {"field": error.field, "message": error.message}}).encode()


def _json_object(body: Any) -> dict[str, Any]:
    """The fields of a body, given as bytes or already parsed; an empty body has none."""
    if isinstance(body, BYTES_AS_SENT):
        body = bytes(body).strip()
        try:
            body = json.loads(body) if body else {}
        except (ValueError, RecursionError):
            raise RequestError("body", "is not valid JSON") from None
    if not isinstance(body, dict):
        raise RequestError("body", 'must be a JSON object such as {"n": 5, "seed": 1}')
    return body


def _options(fields: Mapping[str, Any], options: Mapping[str, Option]) -> dict[str, Any]:
    """The options that a request sets; null leaves an option at its default. Unknown names are refused."""
    chosen = {}
    for name, value in fields.items():
        if name in FIELDS:
            continue
        if name not in options:
            there = ", ".join((*FIELDS, *options))
            problem = "is an option of other models only" if name in EXTRAS else "is not a known field"
            raise RequestError(ascii(name[:40])[1:-1], f"{problem}; this model takes {there}")
        if value is not None:
            chosen[name] = _checked(name, value, options[name])
    return chosen


def _checked(name: str, value: Any, option: Option) -> Any:
    try:
        option.check(value)
    except ValueError as problem:
        raise RequestError(name, str(problem)) from None
    return value


def most_rows(form: str, candidates: int, offer: Offer) -> tuple[int, str]:
    """How many sequences a request may ask for, and the reason for the limit."""
    limits = [(offer.max_rows[form], f"for {form}, or the answer would be too large")]
    if "candidates" in offer.options:
        limits.append((offer.max_draws // candidates, f"with candidates {candidates}, or it would take too long"))
    return min(limits)


def _limit(n: int, form: str, candidates: int, offer: Offer) -> None:
    limit, reason = most_rows(form, candidates, offer)
    if n > limit:
        raise RequestError("n", f"must be at most {limit} {reason}", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)


def _whole_number(field: str, value: Any, low: int, high: int | None = None) -> int:
    # In Python True is an int and 5.0 equals 5; here only what JSON writes as an integer is accepted.
    if type(value) is not int or value < low or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise RequestError(field, f"must be a whole number, {bounds}")
    return value


def _format(asked: Any, accept: str) -> str:
    """The format that the field names, or else the one that the Accept header prefers (JSON on a tie)."""
    if asked is None:
        return _negotiate(accept)
    if not isinstance(asked, str) or asked not in CONTENT_TYPES:
        raise RequestError("format", f"must be one of {', '.join(CONTENT_TYPES)}")
    return asked


@functools.lru_cache(maxsize=64)  # clients send the same few headers over and over
def _negotiate(accept: str) -> str:
    weights = {}
    for choice in accept.split(",") if accept.strip() else ["*/*"]:
        media_type, *parameters = (part.strip().lower() for part in choice.split(";"))
        weights[media_type] = next((_weight(part[2:]) for part in parameters if part.startswith("q=")), 1.0)
    liking = {
        name: next((weights[kind] for kind in (media_type, *ANY_TYPE) if kind in weights), 0.0)
        for name, media_type in CONTENT_TYPES.items()
    }
    best = max(liking, key=lambda name: liking[name])
    if liking[best] <= 0:
        offered = " and ".join(CONTENT_TYPES.values())
        raise RequestError("Accept", f"the available types are {offered}", HTTPStatus.NOT_ACCEPTABLE)
    return best


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
