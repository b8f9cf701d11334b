"""Answers made ahead, for requests that leave the seed to the server.

A pass through a generator costs nearly as much for one sequence as for many. To a client that names no seed any seed
is as good, so a pass draws for some more seeds, and the answers that they give are kept for the requests to come. An
answer names its seed as ever, and that seed gives the same answer again. This module is a LEAF: it imports the standard
library and torch only, so that it runs unchanged inside the model archive.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from serve.request import Request, draw_seed
from train.generator import Sample

SIZES = (1, 2, 5, 10, 20, 50, 100)  # sequences of an answer made ahead; its first ones answer a request for fewer
MAX_ROWS = 400  # of a pass; from here on a sequence hardly gets cheaper
MAX_ANSWERS = 100  # that a pass makes ahead, by which the fixed cost has been shared out
MAX_SECONDS = 0.012  # of a pass: the request that needs it waits for all of it


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A request, its rows, and the body that holds them."""

    request: Request
    sample: Sample
    body: bytes


class Ahead:
    """What one worker has made ahead. Every answer is handed out once.

    How many rows a pass may have is learned from how long the passes take, so a slow generator makes nothing ahead.
    """

    def __init__(
        self, draw: Callable[[Sequence[Request]], Sequence[Sample]], encode: Callable[[Request, Sample], bytes]
    ) -> None:
        """`draw` gives the rows of requests with the same options, `encode` the body for one of them."""
        self._draw, self._encode = draw, encode
        self._ready: dict[int, list[Answer]] = {size: [] for size in SIZES}
        self._rows = 1

    def take(self, request: Request) -> Answer | None:
        """An answer that is ready, with a seed of its own."""
        ready = self._ready.get(_size(request))
        if not ready:
            return None
        found = ready.pop()
        if (request.n, request.format) == (found.request.n, found.request.format):
            return found
        first, _ = found.sample.split([request.n, found.request.n - request.n])
        return self._answer(replace(request, seed=found.request.seed), first)

    def make(self, asked: Sequence[Request]) -> list[Answer]:
        """The answer to each request, all with the same options, from a pass that also makes ahead what they lacked."""
        wanted = [*asked, *self._more(asked)]
        begin = time.thread_time()
        made = [self._answer(*pair) for pair in zip(wanted, self._draw(wanted), strict=True)]
        self._learn(sum(request.n for request in wanted), time.thread_time() - begin)
        for answer in made[len(asked) :]:
            self._ready[answer.request.n].append(answer)
        return made[: len(asked)]

    def _answer(self, request: Request, sample: Sample) -> Answer:
        return Answer(request=request, sample=sample, body=self._encode(request, sample))

    def _more(self, asked: Sequence[Request]) -> list[Request]:
        """As many requests for any seed as may join the pass, of the sizes that were asked for and are not there."""
        sizes = [size for size in {_size(request) for request in asked} if size and not self._ready[size]]
        room = self._rows - sum(request.n for request in asked)
        return [
            Request(n=size, seed=draw_seed(), format="json")
            for size in sizes
            for _ in range(min(room // size, MAX_ANSWERS) // len(sizes))
        ]

    def _learn(self, rows: int, seconds: float) -> None:
        if seconds < MAX_SECONDS / 2 and rows > self._rows / 2:
            self._rows = min(2 * self._rows, MAX_ROWS)
        elif seconds > MAX_SECONDS and rows <= self._rows:
            self._rows = max(self._rows // 2, 1)


def _size(request: Request) -> int:
    """How many sequences an answer made ahead must have for this request, or 0 where there is none for it."""
    if request.options or not request.any_seed:
        return 0
    return next((size for size in SIZES if size >= request.n), 0)
