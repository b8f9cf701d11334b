"""The TorchServe handler: it takes a batch of requests and returns one answer for each.

TorchServe requires exactly one class in this module. The handler never raises for a client's mistake, since that would
fail the whole batch: only the invalid request gets a 4xx, with a body that names the field.
"""

import io
import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from torch import Tensor

from serve import bearer, drain
from serve.request import CONTENT_TYPES, NAMES, Offer, Request, RequestError, encode_error, max_rows, parse
from serve.watch import Watch
from train import MAX_SEED, MODEL_NAME
from train import artifact as artifacts
from train import generator as generators
from train.artifact import Artifact
from train.codec import Codec
from train.generator import Generator, LabelledRows

NEEDS_TOKEN = "needs the server's token: send the header 'Authorization: Bearer TOKEN'"
BATCH_METRICS = "ts.metrics.caching_metric"  # logs a line for each batch, which the frontend would have to parse
DEFAULT_MAX_BYTES = 6_000_000  # under TorchServe's own default limit, 6,553,500, beyond which a worker dies


class LookalikeHandler:
    """Answers requests with sequences drawn from one artifact."""

    def initialize(self, context: Any) -> None:
        """Load and prove the artifact beside this file.

        Raises:
            ArtifactError: the artifact is incomplete, or does not reproduce its golden samples.
        """
        torch.set_num_threads(1)  # the workers share the cores, and a request is too small to split
        logging.getLogger().setLevel(logging.WARNING)  # otherwise TorchServe's worker logs a line for every batch
        logging.getLogger("ts.metrics").setLevel(logging.INFO)  # metrics leave the worker as log lines
        logging.getLogger(BATCH_METRICS).addFilter(lambda record: "PredictionTime" not in record.getMessage())
        self.drain_lock = drain.Lock(os.environ.get(drain.VARIABLE))
        self.token = bearer.read(os.environ.get(bearer.VARIABLE))
        self.artifact = artifacts.load(Path(context.system_properties["model_dir"]))
        card = self.artifact.card
        self.model = {"name": MODEL_NAME, "version": str(card["version"]), "run_id": card.get("run_id")}
        self.watch = self._watch(context.metrics)
        self.offer = offered(self.artifact, (context.model_yaml_config or {}).get("handler", {}))

    def handle(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[bytes]:
        """One answer for each item of the batch."""
        with self.drain_lock.shared() as serves:
            return self._answer_all(data, context) if serves else self._turn_away(len(data), context)

    def _answer_all(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[bytes]:
        """Answer valid requests in as few passes through the generator as possible, and refuse the invalid ones."""
        answers = [b""] * len(data)
        accepted: list[tuple[int, Request]] = []
        for index, parameters in enumerate(data):
            try:
                accepted.append((index, self._admit(parameters, context.get_all_request_header(index))))
            except RequestError as error:
                answers[index] = self._refuse(error, index, context)
        for together in _passes(accepted):
            samples = self._generate([request for _, request in together])
            for (index, request), sample in zip(together, samples, strict=True):
                answers[index] = self._answer(request, sample, index, context)
        return answers

    def _admit(self, parameters: Mapping[str, Any], headers: Mapping[str, Any]) -> Request:
        if not bearer.admits(self.token, headers):
            raise RequestError("Authorization", NEEDS_TOKEN, HTTPStatus.UNAUTHORIZED)
        return parse(parameters, headers, self.offer)

    def _watch(self, metrics: Any) -> Watch | None:
        """Start the metrics for Prometheus; None if the server collects none."""
        if metrics is None:
            return None

        def draw() -> Tensor:
            return self.artifact.sample(self.artifact.generator.rows_per_pass, secrets.randbelow(MAX_SEED))

        watch = Watch(metrics, MODEL_NAME, draw)
        watch.start()
        return watch

    def _generate(self, asked: Sequence[Request]) -> list[LabelledRows]:
        """The rows of requests with the same options. The noise of each depends on its own seed only."""
        generator = self.artifact.with_options(**dict(asked[0].options))
        noise = torch.cat([generators.draw_noise(generator, request.n, request.seed) for request in asked])
        return generators.generate_labelled(generator, noise).split([request.n for request in asked])

    def _answer(self, request: Request, sample: LabelledRows, index: int, context: Any) -> bytes:
        if self.watch:
            self.watch.served(request.format, sample.codes, usual=not request.options)
        context.set_response_content_type(index, CONTENT_TYPES[request.format])
        if request.format == "npy":
            context.set_response_header(index, "X-Lookalike-Seed", str(request.seed))
            context.set_response_header(index, "X-Lookalike-Version", self.model["version"])
            context.set_response_header(index, "X-Lookalike-Run-Id", self.model["run_id"] or "")
        return encoded(self.artifact, sample, request.format, request.seed, self.model)

    def _refuse(self, error: RequestError, index: int, context: Any) -> bytes:
        if self.watch:
            self.watch.refused(error.field if error.field in NAMES else "unknown", error.status.value)
        if error.status == HTTPStatus.UNAUTHORIZED:  # a 401 must have this header (RFC 9110, 11.6.1)
            context.set_response_header(index, "WWW-Authenticate", "Bearer")
        context.set_response_status(error.status.value, error.status.phrase, index)
        context.set_response_content_type(index, CONTENT_TYPES["json"])
        return encode_error(error)

    def _turn_away(self, n: int, context: Any) -> list[bytes]:
        """Refuse a whole batch because the server is stopping; clients may send these requests again."""
        for index in range(n):
            context.set_response_header(index, "Retry-After", "1")
        error = RequestError("server", "is stopping; try again", HTTPStatus.SERVICE_UNAVAILABLE)
        return [self._refuse(error, index, context) for index in range(n)]


def _passes(accepted: Sequence[tuple[int, Request]]) -> Iterator[list[tuple[int, Request]]]:
    """Group requests, with their indices, by options and so that the rows of a group fit into one pass.

    Most batches make one group. A request larger than a pass is a group of its own.
    """
    groups: dict[Any, list[tuple[int, Request]]] = {}
    for index, request in accepted:
        together = groups.setdefault(request.options, [])
        if together and sum(other.n for _, other in together) + request.n > generators.ROWS_PER_PASS:
            yield together
            together = groups[request.options] = []
        together.append((index, request))
    yield from groups.values()


def encoded(artifact: Artifact, sample: LabelledRows, form: str, seed: int, model: Mapping[str, Any]) -> bytes:
    """The body of an answer; "npy" holds the codes only."""
    if form == "npy":
        file = io.BytesIO()
        np.save(file, sample.codes.numpy())
        return file.getvalue()
    rows = {"sequences": sample.codes.numpy(), **artifact.readings(sample)}
    return orjson.dumps({**rows, "seed": seed, "model": model}, option=orjson.OPT_SERIALIZE_NUMPY)


def offered(artifact: Artifact, settings: Mapping[str, Any]) -> Offer:
    """What requests may ask for; `settings` is the `handler` section of model-config.yaml."""
    generator = artifact.generator
    return Offer(
        max_rows=max_rows(
            settings.get("max_response_bytes", DEFAULT_MAX_BYTES),
            generator.length,
            (*_longest_text(artifact.codec, generator), *_longest(artifact.codec.labels)),
            generator.code_values,
            generator.code_type.itemsize,
        ),
        options=artifact.options,
        candidates=getattr(generator, "candidates", Offer.candidates),
        max_draws=settings.get("max_draws", Offer.max_draws),
    )


def _longest_text(codec: Codec, generator: Generator) -> list[str]:
    """The longest possible text in JSON, which repeats a single code. Empty if the codec has no text."""
    codes = torch.arange(generator.code_values).to(generator.code_type)[:, None]
    # Three repetitions show what each code adds; full-length texts for every code could take hundreds of megabytes.
    texts = codec.decode(codes.expand(-1, min(3, generator.length)))
    if not texts:
        return []
    (text,) = _longest(texts)
    longest = texts.index(text)
    return codec.decode(codes[longest : longest + 1].expand(-1, generator.length)) or []


def _longest(texts: Sequence[str]) -> list[str]:
    """The longest of these texts in JSON, as a list; empty if there are none."""
    return [max(texts, key=lambda text: len(json.dumps(text)))] if texts else []
