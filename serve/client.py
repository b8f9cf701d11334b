"""Ask a running server for sequences, and show them to people."""

import json
import os
from dataclasses import dataclass
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.util.retry import Retry

from serve.errors import ServeError
from train import MODEL_NAME, SHOWN_SAFELY

CONNECT_SECONDS = 5
NONSENSE = (ValueError, KeyError, TypeError, RecursionError)  # what comes of a body that is not as ours
ANSWER_SECONDS = 610  # more than responseTimeout in model-config.yaml, so that the server is the first to give up


class _Retry(Retry):
    # urllib3 would come again for 413 and 429 too, where these say when.
    RETRY_AFTER_STATUS_CODES = frozenset()


# A full queue and a stopping server answer 503, and one whose worker has just died 507: another time may do. A server
# that is not there is told at once, and one that is slow would only have more to do.
RETRY = _Retry(
    total=4,
    connect=0,
    read=False,
    backoff_factor=0.3,
    retry_after_max=10,  # ours name a second, but anybody may answer, and could have a command sleep for hours
    status_forcelist=[503, 507],
    allowed_methods=None,
    raise_on_status=False,
)


@dataclass(frozen=True, kw_only=True)
class Client:
    """A server's address and the token that it wants, if any."""

    address: str
    token: str | None = None

    def request(self, n: int, seed: int | None = None, **options: Any) -> bytes:
        """The body of the answer, exactly as it came. An option that is None is the model's to choose.

        Raises:
            ServeError: nothing answers there, or the server refuses.
        """
        given = {"seed": seed, **options}
        fields = {"n": n} | {name: value for name, value in given.items() if value is not None}
        answer = self._post(fields)
        if answer.is_redirect:
            raise ServeError(f"{self.address} answers that it is at {safely(answer.headers['Location'])}; ask there")
        if answer.status_code != requests.codes.ok:
            raise ServeError(f"{self.address} refused with {answer.status_code}: {explain(answer.content)}")
        return answer.content

    def _post(self, fields: dict[str, Any]) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        with requests.Session() as session:
            session.trust_env = False  # neither a proxy nor a .netrc of the user's is meant for this server
            session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True  # but an authority may be
            for scheme in ("http://", "https://"):
                session.mount(scheme, HTTPAdapter(max_retries=RETRY))
            try:
                url, timeout = f"{self.address}/predictions/{MODEL_NAME}", (CONNECT_SECONDS, ANSWER_SECONDS)
                # Not redirects: they would turn the request into one without a body.
                return session.post(url, json=fields, headers=headers, timeout=timeout, allow_redirects=False)
            except requests.ReadTimeout as problem:
                raise ServeError(f"{self.address} gave no answer within {ANSWER_SECONDS} seconds") from problem
            except requests.exceptions.SSLError as problem:
                raise ServeError(f"{self.address}: {_tls_reason(problem)}") from problem
            except requests.ConnectionError as problem:
                if not _was_refused(problem):
                    raise ServeError(f"{self.address} broke the connection before it had answered") from problem
                advice = "start a server with: python -m serve start (or: make serve)"
                raise ServeError(f"nothing answers at {self.address}; {advice}") from problem
            except requests.exceptions.ChunkedEncodingError as problem:
                raise ServeError(f"{self.address} broke the connection in the midst of its answer") from problem
            except (requests.RequestException, HTTPError) as problem:  # the latter for a host that no name can be
                raise ServeError(f"{self.address}: {type(problem).__name__}") from problem


def _was_refused(problem: requests.ConnectionError) -> bool:
    """Whether there was no connection at all."""
    reason = getattr(problem.args[0], "reason", None) if problem.args else None
    return isinstance(problem, requests.ConnectTimeout) or isinstance(reason, NewConnectionError)


def _tls_reason(problem: requests.exceptions.SSLError) -> str:
    """Why there is no TLS, as OpenSSL says it, without the layers around that."""
    reason = f"no TLS connection ({getattr(problem.args[0], 'reason', problem)})"
    if "CERTIFICATE_VERIFY_FAILED" not in reason:
        return reason
    return f"{reason}; where the authority is one of yours, name its certificate: REQUESTS_CA_BUNDLE=FILE"


def explain(body: bytes) -> str:
    """What an error's body says: ours names a field, TorchServe's own has a message."""
    try:
        parsed: dict[str, Any] = json.loads(body)
        if "error" in parsed:
            return safely(f"{parsed['error']['field']} {parsed['error']['message']}")
        return safely(" ".join(str(parsed["message"]).split()))
    except NONSENSE:
        return "no explanation"


def safely(text: str) -> str:
    """A line that can be printed: without what steers a terminal, and without half a character, which none can show."""
    return text.translate(SHOWN_SAFELY).encode(errors="replace").decode()


def show(body: bytes) -> str:
    """The answer for people: a line for each sequence, and where it came from.

    A line has the class, the bits and the text, as far as there are any; token ids mean nothing to people.

    Raises:
        ServeError: it is the answer of something else.
    """
    try:
        return _shown(json.loads(body))
    except NONSENSE as problem:
        raise ServeError("what answers there is no server of Lookalike") from problem


def _shown(answer: dict[str, Any]) -> str:
    sequences = answer["sequences"]
    labels, texts = (answer.get(name, [""] * len(sequences)) for name in ("labels", "text"))
    bits = all(code in (0, 1) for sequence in sequences for code in sequence)
    if "text" in answer:  # a text without words is token ids of 0 and 1; without a word that is present, all bits are 0
        bits = bits and not any(any(row) and not text for row, text in zip(sequences, texts, strict=True))
    rows = ["".join(map(str, sequence)) if bits else "" for sequence in sequences]
    lines = ["  ".join(filter(None, line)) for line in zip(labels, rows, texts, strict=True)]
    model = answer["model"]
    run = f", MLflow run {model['run_id']}" if model["run_id"] else ""
    lines.append(f"(seed {answer['seed']}, {model['name']} version {model['version']}{run})")
    return "\n".join(map(safely, lines))
