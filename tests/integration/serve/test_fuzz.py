"""Thousands of random, mostly invalid requests: no 5xx, no dead worker, and the next good request is answered."""

import http.client
import json
import os
import random
import string
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import requests

from tests.integration.serve.running import Served, conform

REQUESTS = int(os.environ.get("LOOKALIKE_FUZZ", "2000"))
CLIENTS = 4
CONTENT_TYPES = [
    "application/json",
    "application/json; charset=utf-16",
    "text/plain",
    "text/html",
    "application/octet-stream",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=b",
    "multipart/form-data",
    "nonsense",
    "",
]
ACCEPTS = ["*/*", "application/json", "application/x-npy", "text/html", "", ",;q=", "application/json;q=nan", "*"]
NUMBERS = [0, 1, -1, 3, 10**6, 10**19, 10**400, 1.5, 1e308, float("nan"), float("inf"), True, None, 2**32 - 1, 2**32]


def value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(6 if depth < 4 else 3)
    if kind < 2:
        return rng.choice(NUMBERS)
    if kind == 2:
        return "".join(rng.choices(string.printable + "é\U0001f600\ud800", k=rng.randrange(12)))
    if kind == 3:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    names = ["n", "seed", "format", "temperature", "candidates", "label", ""]
    return {rng.choice(names): value(rng, depth + 1) for _ in range(rng.randrange(4))}


def body(rng: random.Random) -> bytes:
    kind = rng.randrange(8)
    if kind == 0:
        return rng.randbytes(rng.randrange(200))
    if kind == 1:
        return rng.choice([b"[", b'{"n":', b'{"a":{']) * rng.randrange(10_000)
    if kind == 2:
        return b"n=5&seed=1&format=npy"
    if kind == 3:
        return b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\n5\r\n--b--\r\n'
    encoded = json.dumps(value(rng)).encode()
    if kind == 4:
        return encoded[: rng.randrange(len(encoded) + 1)]
    return encoded


def test_no_request_hurts_the_server(served: Served) -> None:
    workers = {worker.pid for worker in psutil.Process(served.state.pid).children(recursive=True)}
    good = requests.post(served.url, json={"n": 3, "seed": 3}, timeout=30).content

    def send(client: int) -> Counter[int]:
        rng = random.Random(client)
        statuses: Counter[int] = Counter()
        connection = http.client.HTTPConnection(served.state.host, served.state.port, timeout=60)
        for _ in range(REQUESTS // CLIENTS):
            kind = rng.choice(CONTENT_TYPES[:2] * 4 + CONTENT_TYPES[2:])
            sent = body(rng)
            connection.request(
                "POST", "/predictions/lookalike", sent, {"Content-Type": kind, "Accept": rng.choice(ACCEPTS)}
            )
            answer = connection.getresponse()
            content = answer.read()
            if "form" in kind and b"DataDecoderException" in content:
                continue  # see the test below
            statuses[answer.status] += 1
            assert answer.status < 500, (sent, kind, content)
            if answer.status >= 400:
                assert set(json.loads(content)["error"]) == {"field", "message"}
        return statuses

    with ThreadPoolExecutor(CLIENTS) as pool:
        statuses = sum(pool.map(send, range(CLIENTS)), Counter[int]())
    assert statuses.total() > 0.8 * REQUESTS
    assert {200, 400, 406, 415} <= set(statuses), statuses
    assert {worker.pid for worker in psutil.Process(served.state.pid).children(recursive=True)} == workers
    assert requests.post(served.url, json={"n": 3, "seed": 3}, timeout=30).content == good


def test_a_form_that_torchserve_cannot_decode_is_its_own_500(served: Served) -> None:
    """A limit named in serve/README.md: the frontend decodes forms before the handler. It harms no other request."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = requests.post(served.url, data=b"n=%zz", headers=headers, timeout=30)
    assert answer.status_code == 500
    conform("ServerError", answer.json())
    assert requests.post(served.url, json={"n": 3, "seed": 3}, timeout=30).status_code == 200
