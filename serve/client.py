"""Request sequences from a running server, and format them for people."""

import json
import os
from dataclasses import dataclass
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.util.retry import Retry

from serve import bearer
from serve.errors import ServeError
from train import MODEL_NAME, SHOWN_SAFELY

CONNECT_SECONDS = 5
NONSENSE = (ValueError, KeyError, TypeError, RecursionError)  # raised by reading a body that is not in our format
ANSWER_SECONDS = 610  # more than responseTimeout in model-config.yaml, so that the server gives up first


class _Retry(Retry):
    # By default urllib3 also retries 413 and 429 when they have a Retry-After header.
    RETRY_AFTER_STATUS_CODES = frozenset()


# Retried are 503 (a full queue, a stopping server), and 500 and 507 (a worker died: 507 only if TorchServe has already
# seen that it was killed). A server that cannot be reached is reported at once, and a slow one is not asked again,
# which would only add to its load.
RETRY = _Retry(
    total=4,
    connect=0,
    read=False,
    backoff_factor=0.3,
    retry_after_max=10,  # our server sends 1; another could make the command sleep for hours
    status_forcelist=[500, 503, 507],
    allowed_methods=None,
    raise_on_status=False,
)


@dataclass(frozen=True, kw_only=True)
class Client:
    """A server's address and the token that it requires, if any."""

    address: str
    token: str | None = None

    def request(self, n: int, seed: int | None = None, **options: Any) -> bytes:
        """The exact body of the answer. Options that are None are left out of the request.

        Raises:
            ServeError: the server cannot be reached, does not answer in time, or refuses.
        """
        given = {"seed": seed, **options}
        fields = {"n": n} | {name: value for name, value in given.items() if value is not None}
        answer = self._post(fields)
        if answer.is_redirect:
            raise ServeError(f"{self.address} redirects to {safely(answer.headers['Location'])}; use that address")
        if _lacks_token(answer):
            fault = "refuses this token, which is wrong or has expired" if self.token else "needs a token"
            raise ServeError(
                f"{self.address} {fault}: give its own with --token or LOOKALIKE_SERVE_TOKEN; on the server's machine, "
                "python -m serve token prints it"
            )
        if answer.status_code != requests.codes.ok:
            raise ServeError(f"{self.address} refused with {answer.status_code}: {explain(answer.content)}")
        return answer.content

    def _post(self, fields: dict[str, Any]) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False  # the user's proxy and .netrc are not meant for this server
            session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True  # the user's certificate authority may be
            for scheme in ("http://", "https://"):
                session.mount(scheme, HTTPAdapter(max_retries=RETRY))
            try:
                url, timeout = f"{self.address}/predictions/{MODEL_NAME}", (CONNECT_SECONDS, ANSWER_SECONDS)
                # Following a redirect would turn the POST into a GET without a body.
                return session.post(
                    url, json=fields, headers=bearer.header(self.token), timeout=timeout, allow_redirects=False
                )
            except requests.ReadTimeout as problem:
                raise ServeError(f"{self.address} gave no answer within {ANSWER_SECONDS} seconds") from problem
            except requests.exceptions.SSLError as problem:
                raise ServeError(f"{self.address}: {_tls_reason(problem)}") from problem
            except requests.ConnectionError as problem:
                if not _was_refused(problem):
                    raise ServeError(f"{self.address} closed the connection before it had answered") from problem
                advice = "if none is just starting, start one with: python -m serve start (or: make serve)"
                raise ServeError(f"nothing answers at {self.address}; {advice}") from problem
            except requests.exceptions.ChunkedEncodingError as problem:
                raise ServeError(f"{self.address} closed the connection in the middle of its answer") from problem
            except (requests.RequestException, HTTPError) as problem:  # HTTPError: the host is not a valid name
                raise ServeError(f"{self.address}: {type(problem).__name__}") from problem


def _was_refused(problem: requests.ConnectionError) -> bool:
    """Whether no connection could be made."""
    reason = getattr(problem.args[0], "reason", None) if problem.args else None
    return isinstance(problem, requests.ConnectTimeout) or isinstance(reason, NewConnectionError)


def _lacks_token(answer: requests.Response) -> bool:
    """Whether a server refuses a request for its token: our handler with 401, TorchServe itself with 400."""
    return answer.status_code == requests.codes.unauthorized or (
        answer.status_code == requests.codes.bad_request and explain(answer.content).startswith("Token ")
    )


def _tls_reason(problem: requests.exceptions.SSLError) -> str:
    """Why TLS failed, in OpenSSL's words, without the exceptions wrapped around them."""
    reason = f"no TLS connection ({getattr(problem.args[0], 'reason', problem)})"
    if "CERTIFICATE_VERIFY_FAILED" not in reason:
        return reason
    return f"{reason}; if the authority is your own, name its certificate: REQUESTS_CA_BUNDLE=FILE"


def explain(body: bytes) -> str:
    """The message in an error's body: ours names a field, TorchServe's does not."""
    try:
        parsed: dict[str, Any] = json.loads(body)
        if "error" in parsed:
            return safely(f"{parsed['error']['field']} {parsed['error']['message']}")
        return safely(" ".join(str(parsed["message"]).split()))
    except NONSENSE:
        return "no explanation"


def safely(text: str) -> str:
    """A line that is safe to print: control characters and lone surrogates are replaced."""
    return text.translate(SHOWN_SAFELY).encode(errors="replace").decode()


def show(body: bytes) -> str:
    """The answer for people: one line per sequence, then its seed and model.

    A line has the class, the bits and the text, where they exist; token ids are not shown.

    Raises:
        ServeError: the body is not an answer of Lookalike.
    """
    try:
        return _shown(json.loads(body))
    except NONSENSE as problem:
        raise ServeError("what answers there is not a Lookalike server") from problem


def _shown(answer: dict[str, Any]) -> str:
    sequences = answer["sequences"]
    labels, texts = (answer.get(name, [""] * len(sequences)) for name in ("labels", "text"))
    bits = all(code in (0, 1) for sequence in sequences for code in sequence)
    # Codes of 0 and 1 with an empty text: all zeros are bits (no word is present), anything else is token ids.
    if "text" in answer:
        bits = bits and not any(any(row) and not text for row, text in zip(sequences, texts, strict=True))
    rows = ["".join(map(str, sequence)) if bits else "" for sequence in sequences]
    lines = ["  ".join(filter(None, line)) for line in zip(labels, rows, texts, strict=True)]
    model = answer["model"]
    run = f", MLflow run {model['run_id']}" if model["run_id"] else ""
    lines.append(f"(seed {answer['seed']}, {model['name']} version {model['version']}{run})")
    return "\n".join(map(safely, lines))
