"""Answers made ahead: which requests get one, and how many are made."""

import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from serve import ahead
from serve.ahead import Ahead, Answer
from serve.request import Request
from train.generator import Sample


class Source:
    """Codes and labels that tell the seed and the row, at a price in seconds for a pass and for a row."""

    def __init__(self, price: float = 0.001, row: float = 0.0) -> None:
        self.price, self.row, self.clock = price, row, 0.0
        self.passes: list[int] = []

    def draw(self, requests: Sequence[Request]) -> list[Sample]:
        self.passes.append(sum(request.n for request in requests))
        self.clock += self.price + self.row * self.passes[-1]
        rows = [torch.arange(request.n) + request.seed for request in requests]
        return [Sample(codes=row[:, None], labels=row + 1) for row in rows]

    def made(self, monkeypatch: pytest.MonkeyPatch) -> Ahead:
        monkeypatch.setattr(time, "thread_time", lambda: self.clock)
        return Ahead(self.draw, encode)


def encode(request: Request, sample: Sample) -> bytes:
    assert sample.labels is not None
    return f"{request.format} {request.seed} {sample.codes.flatten().tolist()} {sample.labels.tolist()}".encode()


def unseeded(n: int, seed: int = 0, **fields: Any) -> Request:
    return Request(**({"n": n, "seed": seed, "format": "json", "any_seed": True} | fields))


def ask(made: Ahead, request: Request) -> Answer:
    return made.take(request) or made.make([request])[0]


def is_right(answer: Answer, n: int, form: str = "json") -> bool:
    seed = answer.request.seed
    codes = list(range(seed, seed + n))
    told = f"{form} {seed} {codes} {[code + 1 for code in codes]}".encode()
    return (answer.request.n, answer.sample.codes.flatten().tolist(), answer.body) == (n, codes, told)


@given(st.lists(st.tuples(st.integers(1, 700), st.sampled_from(["json", "npy"])), max_size=60))
def test_every_answer_is_right_and_handed_out_once(asked: list[tuple[int, str]]) -> None:
    source = Source()
    made = Ahead(source.draw, encode)
    answers = [ask(made, unseeded(n, -1 - k, format=form)) for k, (n, form) in enumerate(asked)]
    assert all(is_right(answer, n, form) for answer, (n, form) in zip(answers, asked, strict=True))
    assert len({answer.request.seed for answer in answers}) == len(asked)
    assert all(sum(a.request.n for a in ready) <= ahead.MAX_ROWS for ready in made._ready.values())


@pytest.mark.parametrize(("n", "rows"), [(1, 1 + ahead.MAX_ANSWERS), (10, ahead.MAX_ROWS)])
def test_a_pass_serves_many_requests(n: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    made = source.made(monkeypatch)
    for _ in range(1000):
        ask(made, unseeded(n))
    assert source.passes[0] == n, "the first request does not wait for others"
    assert max(source.passes) == rows
    assert len(source.passes) < 40


@pytest.mark.parametrize("fields", [{"any_seed": False}, {"options": (("label", "wild"),)}, {"n": 101}])
def test_other_requests_take_no_part(fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    made = source.made(monkeypatch)
    for _ in range(20):
        ask(made, unseeded(1))
    request = unseeded(**({"n": 1} | fields))
    assert made.take(request) is None
    assert is_right(*_only(made.make([request])), n=request.n)
    assert source.passes[-1] == request.n, "nothing is made ahead for them"


def test_a_batch_is_one_pass_for_all_that_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    made = source.made(monkeypatch)
    for _ in range(100):
        ask(made, unseeded(50))
    before = len(source.passes)
    answers = made.make([unseeded(1, 5), unseeded(7, 6), unseeded(3, 7, any_seed=False)])
    assert [answer.request.seed for answer in answers] == [5, 6, 7]
    assert len(source.passes) == before + 1
    assert is_right(made.take(unseeded(1)) or answers[1], 1)
    assert is_right(made.take(unseeded(7)) or answers[0], 7)


def test_what_is_there_is_not_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    made = source.made(monkeypatch)
    for _ in range(1000):
        ask(made, unseeded(10))
    held = sum(map(len, made._ready.values()))
    assert held
    made.make([unseeded(10)])
    assert sum(map(len, made._ready.values())) == held


def test_a_slow_generator_makes_nothing_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(price=ahead.MAX_SECONDS)
    made = source.made(monkeypatch)
    for _ in range(50):
        ask(made, unseeded(1))
    assert source.passes == [1] * 50


def test_no_pass_stays_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(row=ahead.MAX_SECONDS / 100)
    made = source.made(monkeypatch)
    for _ in range(1000):
        ask(made, unseeded(1))
    assert 25 < source.passes[-1] < 100
    source.row *= 10
    for _ in range(1000):
        ask(made, unseeded(1))
    assert source.passes[-1] < 10


def _only(made: Sequence[Answer]) -> Sequence[Answer]:
    assert len(made) == 1
    return made
