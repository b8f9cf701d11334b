"""The handler: its answers to single requests and to batches."""

import dataclasses
import enum
import errno
import fcntl
import io
import json
import logging
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from serve import bearer, drain, handler
from serve.handler import LookalikeHandler
from serve.request import Request
from tests.choosy import choosy_artifact
from tests.rated import CLASSES, rated_artifact
from train import artifact
from train import generator as generators
from train.codec import SPECIAL, BitsCodec, TokensCodec

JSON_HEADERS = {"Content-Type": "application/json"}
Context = Any  # conftest's FakeContext


@pytest.fixture
def loaded(artifact_directory: Path, make_context: type) -> tuple[LookalikeHandler, Context]:
    made, context = LookalikeHandler(), make_context(artifact_directory)
    made.initialize(context)
    return made, context


def ask(loaded: tuple[LookalikeHandler, Context], *bodies: Any, headers: dict[str, str] = JSON_HEADERS) -> list[bytes]:
    made, context = loaded
    context.receive([dict(headers) for _ in bodies])
    return made.handle([{"body": body} for body in bodies], context)


def test_the_answer_holds_sequences_text_seed_and_model(
    loaded: tuple[LookalikeHandler, Context], artifact_directory: Path
) -> None:
    (body,) = ask(loaded, b'{"n": 3, "seed": 7}')
    answer = json.loads(body)
    original = artifact.load(artifact_directory)
    codes = original.sample(3, 7)
    assert list(answer) == ["sequences", "text", "seed", "model"], "this model has no classes"
    assert answer["sequences"] == codes.tolist()
    assert answer["text"] == original.codec.decode(codes)
    assert answer["seed"] == 7
    assert answer["model"] == {"name": "lookalike", "version": "1", "run_id": "abc"}
    assert not loaded[1].statuses
    assert loaded[1].headers[0]["content-type"] == "application/json"


def test_a_seed_gives_the_same_bytes_alone_and_in_a_batch(loaded: tuple[LookalikeHandler, Context]) -> None:
    bodies = [json.dumps({"n": 1 + k % 5, "seed": k}).encode() for k in range(16)]
    together = ask(loaded, *bodies)
    assert together == [ask(loaded, body)[0] for body in bodies]
    assert together[::-1] == ask(loaded, *bodies[::-1])


def test_a_mistake_harms_no_neighbour(loaded: tuple[LookalikeHandler, Context]) -> None:
    good = b'{"n": 2, "seed": 3}'
    answers = ask(loaded, good, b"{", good, b'{"n": "two"}')
    context = loaded[1]
    assert answers[0] == answers[2] == ask(loaded, good)[0]
    assert json.loads(answers[1])["error"]["field"] == "body"
    assert json.loads(answers[3])["error"]["field"] == "n"
    ask(loaded, good, b"{", good, b'{"n": "two"}')
    assert context.statuses == {1: (400, "Bad Request"), 3: (400, "Bad Request")}


def test_a_batch_too_large_for_one_pass_is_split(
    loaded: tuple[LookalikeHandler, Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = [json.dumps({"n": n, "seed": n}).encode() for n in (5, 30, 1, 2, 3)]
    together = ask(loaded, *bodies)
    monkeypatch.setattr(generators, "ROWS_PER_PASS", 8)
    groups = handler._passes([(n, Request(n=n, seed=0, format="json")) for n in (5, 30, 1, 2, 3)])
    assert [len(group) for group in groups] == [1, 1, 3]
    assert ask(loaded, *bodies) == together


@pytest.fixture
def choosy(make_context: type, monkeypatch: pytest.MonkeyPatch) -> tuple[LookalikeHandler, Context]:
    monkeypatch.setattr(artifact, "load", lambda directory: choosy_artifact())
    made, context = LookalikeHandler(), make_context(Path())
    made.initialize(context)
    return made, context


def test_requests_with_the_same_options_are_drawn_together(
    choosy: tuple[LookalikeHandler, Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    generate = generators.generate
    monkeypatch.setattr(
        generators, "generate", lambda model, noise: passes.append(len(noise)) or generate(model, noise)
    )
    options = [{}, {"label": "wild"}, {"temperature": 0.5}, {"label": "wild"}, {}, {"candidates": 3}]
    bodies = [json.dumps({"n": 2, "seed": 4} | chosen).encode() for chosen in options]
    together = ask(choosy, *bodies)
    assert sorted(passes) == [2, 2, 4, 4]
    assert together == [ask(choosy, body)[0] for body in bodies]
    sequences = [json.loads(body)["sequences"] for body in together]
    assert sequences[0] == sequences[4] == choosy_artifact().sample(2, 4).tolist()
    assert sequences[1] == [[code + 200 for code in row] for row in sequences[0]]
    assert len({str(rows) for rows in sequences}) == 4


@pytest.fixture
def rated(make_context: type, tmp_path: Path) -> tuple[LookalikeHandler, Context]:
    rated_artifact(tmp_path / "artifact")
    made, context = LookalikeHandler(), make_context(tmp_path / "artifact")
    made.initialize(context)
    return made, context


def test_answers_name_the_classes_of_their_rows(rated: tuple[LookalikeHandler, Context]) -> None:
    bodies = [b'{"n": 20, "seed": 1}', b'{"n": 3, "seed": 2}', b'{"n": 3, "seed": 1, "label": "1 star"}']
    together = ask(rated, *bodies)
    assert together == [ask(rated, body)[0] for body in bodies]
    answers = [json.loads(body) for body in together]
    assert list(answers[0]) == ["sequences", "text", "labels", "seed", "model"]
    made = rated[0].artifact
    assert [answer["labels"] for answer in answers[:2]] == [
        made.readings(made.sample_labelled(n, seed))["labels"] for n, seed in ((20, 1), (3, 2))
    ]
    assert set(answers[0]["labels"]) == set(CLASSES)
    assert answers[2]["labels"] == ["1 star"] * 3


def test_the_longest_class_is_reckoned_with(rated: tuple[LookalikeHandler, Context]) -> None:
    made = rated[0].artifact
    before = handler.offered(made, {}).max_rows
    made.codec.labels = ("1 star", "of five stars")
    after = handler.offered(made, {}).max_rows
    assert (6_000_000 - 4096) / after["json"] - (6_000_000 - 4096) / before["json"] == pytest.approx(6, abs=0.1)
    assert after["npy"] == before["npy"]


def test_codes_above_255_come_whole_in_both_formats(choosy: tuple[LookalikeHandler, Context]) -> None:
    asked = {"n": 3, "seed": 1, "label": "wild"}
    (as_json,) = ask(choosy, json.dumps(asked).encode())
    (as_npy,) = ask(choosy, json.dumps(asked | {"format": "npy"}).encode())
    rows = np.load(io.BytesIO(as_npy))
    assert rows.dtype == np.uint16
    assert rows.tolist() == json.loads(as_json)["sequences"]
    assert rows.min() >= 200
    assert choosy[0].offer.max_rows["npy"] == (handler.DEFAULT_MAX_BYTES - 4096) // 8


def test_n_is_limited_by_the_candidates_of_the_model(
    choosy: tuple[LookalikeHandler, Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choosy[0].offer.candidates == 1
    generator = choosy[0].artifact.generator.with_options(candidates=4)
    offer = handler.offered(dataclasses.replace(choosy[0].artifact, generator=generator), {"max_draws": 12})
    assert (offer.candidates, offer.max_draws) == (4, 12)


def test_a_model_without_candidates_has_no_limit_to_its_draws(loaded: tuple[LookalikeHandler, Context]) -> None:
    assert "candidates" not in loaded[0].offer.options
    limit = loaded[0].offer.max_rows["npy"]
    assert limit > loaded[0].offer.max_draws
    (body,) = ask(loaded, json.dumps({"n": limit, "format": "npy"}).encode())
    assert np.load(io.BytesIO(body)).shape == (limit, 6)


def test_an_option_of_another_model_is_refused_with_its_name(loaded: tuple[LookalikeHandler, Context]) -> None:
    (body,) = ask(loaded, b'{"label": "wild"}')
    assert json.loads(body)["error"] == {
        "field": "label",
        "message": "is an option of other models only; this model takes n, seed, format",
    }
    assert loaded[1].statuses[0][0] == 400


def test_a_batch_of_mistakes_alone_is_answered(loaded: tuple[LookalikeHandler, Context]) -> None:
    assert [json.loads(body)["error"]["field"] for body in ask(loaded, b"{", b"[]")] == ["body", "body"]


def test_npy_holds_the_sequences_and_headers_the_rest(loaded: tuple[LookalikeHandler, Context]) -> None:
    (body,) = ask(loaded, b'{"n": 4, "seed": 5}', headers=JSON_HEADERS | {"accept": "application/x-npy"})
    rows = np.load(io.BytesIO(body))
    headers = dict(loaded[1].headers[0])
    assert (rows.dtype, rows.shape) == (np.uint8, (4, 6))
    assert rows.tolist() == json.loads(ask(loaded, b'{"n": 4, "seed": 5}')[0])["sequences"]
    assert headers["content-type"] == "application/x-npy"
    assert [headers[f"X-Lookalike-{name}"] for name in ("Seed", "Version", "Run-Id")] == ["5", "1", "abc"]


def test_a_drawn_seed_is_returned_and_gives_the_same_again(loaded: tuple[LookalikeHandler, Context]) -> None:
    (first,) = ask(loaded, b'{"n": 2}')
    seed = json.loads(first)["seed"]
    assert ask(loaded, json.dumps({"n": 2, "seed": seed}).encode()) == [first]


def test_the_watch_sees_what_was_served(loaded: tuple[LookalikeHandler, Context]) -> None:
    served: list[int] = []
    watch: Any = SimpleNamespace(served=lambda form, codes, usual: served.append(len(codes)))
    loaded[0].watch = watch
    for _ in range(30):
        ask(loaded, b'{"n": 5}')
    assert served == [5] * 30


def test_the_watch_is_told_the_form_and_which_requests_chose_options(choosy: tuple[LookalikeHandler, Context]) -> None:
    served: list[tuple[str, bool]] = []
    watch: Any = SimpleNamespace(served=lambda form, codes, usual: served.append((form, usual)))
    choosy[0].watch = watch
    ask(choosy, b"{}", b'{"label": "wild"}', b'{"format": "npy"}')
    assert served == [("json", True), ("npy", True), ("json", False)], "requests with equal options are drawn together"


def test_the_watch_names_only_fields_that_there_are(loaded: tuple[LookalikeHandler, Context]) -> None:
    """Prometheus keeps a time series for each name forever, so clients must not be able to invent names."""
    refused: list[tuple[str, int]] = []
    watch: Any = SimpleNamespace(refused=lambda field, status: refused.append((field, status)))
    loaded[0].watch = watch
    ask(loaded, b'{"n": 0}', b'{"label": "wild"}', b'{"made up": 1}', b"{", b'{"n": 1000000000}')
    assert refused == [("n", 400), ("label", 400), ("unknown", 400), ("body", 400), ("n", 413)]


def test_where_the_server_collects_metrics_the_watch_starts(
    artifact_directory: Path, make_context: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[handler.Watch] = []
    monkeypatch.setattr(handler.Watch, "start", lambda watch: started.append(watch))
    kinds = enum.Enum("kinds", {"COUNTER": "counter", "GAUGE": "gauge"})
    made, context = LookalikeHandler(), make_context(artifact_directory)
    made.initialize(context)
    assert (made.watch, started) == (None, [])
    context.metrics = SimpleNamespace(cache={kind: {} for kind in kinds}, add_metric_to_cache=lambda *facts: facts)
    made.initialize(context)
    assert started == [made.watch]


WORDS = ["▁a", "▁film", "film", "plot", "é", "▁é", '"', '▁"', ".", "▁.", "▁...", "▁don't", "▁"]


@pytest.mark.parametrize("kind", ["WordLevel", "BPE"])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 46])
def test_the_longest_text_of_all_is_the_one_reckoned_with(kind: str, length: int) -> None:
    for size in range(len(WORDS) + 1):
        vocabulary = {word: code for code, word in enumerate([*SPECIAL, *WORDS[:size]])}
        codec = TokensCodec({"model": {"type": kind, "vocab": vocabulary}}, length)
        generator: Any = SimpleNamespace(code_values=len(vocabulary), length=length, code_type=torch.int32)
        (found,) = handler._longest_text(codec, generator)
        texts = codec.decode(torch.arange(len(vocabulary))[:, None].expand(-1, length))
        assert len(json.dumps(found)) == max(len(json.dumps(text)) for text in texts)


def test_the_longest_text_of_words_has_all_of_them(loaded: tuple[LookalikeHandler, Context]) -> None:
    made = loaded[0].artifact
    assert handler._longest_text(made.codec, made.generator) == ["film good plot great story dull"]
    assert handler._longest_text(BitsCodec("ab"), made.generator) == []


def test_a_large_vocabulary_is_not_decoded_at_full_length() -> None:
    codec = TokensCodec({"model": {"type": "BPE", "vocab": dict.fromkeys(SPECIAL, 0)}}, 512)
    codec.pieces = [str(code) for code in range(30_000)]
    decoded: list[int] = []
    counted: Any = SimpleNamespace(decode=lambda codes: decoded.append(codes.numel()) or codec.decode(codes))
    generator: Any = SimpleNamespace(code_values=30_000, length=512, code_type=torch.int32)
    assert handler._longest_text(counted, generator) == ["10000" * 512]
    assert decoded == [3 * 30_000, 512]


def test_n_is_limited_by_the_size_of_the_answer(artifact_directory: Path, make_context: type) -> None:
    made, context = LookalikeHandler(), make_context(artifact_directory, {"handler": {"max_response_bytes": 20_000}})
    made.initialize(context)
    limit = made.offer.max_rows["json"]
    (body,) = ask((made, context), json.dumps({"n": limit}).encode())
    assert len(body) <= 20_000
    (refused,) = ask((made, context), json.dumps({"n": limit + 1}).encode())
    assert str(limit) in json.loads(refused)["error"]["message"]
    assert context.statuses[0][0] == 413


def test_a_tampered_artifact_is_not_loaded(artifact_directory: Path, make_context: type, tmp_path: Path) -> None:
    for file in artifact_directory.iterdir():
        content = bytearray(file.read_bytes())
        content[-1] ^= file.suffix == ".safetensors"
        (tmp_path / file.name).write_bytes(content)
    with pytest.raises(artifact.ArtifactError, match="checksum"):
        LookalikeHandler().initialize(make_context(tmp_path))


def test_a_stopping_server_turns_requests_away(
    artifact_directory: Path, make_context: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "drain-lock"
    path.touch()
    monkeypatch.setitem(os.environ, drain.VARIABLE, str(path))
    made, context = LookalikeHandler(), make_context(artifact_directory)
    made.initialize(context)
    loaded = (made, context)
    assert "sequences" in json.loads(ask(loaded, b"")[0])
    with made.drain_lock.shared() as serves:
        assert serves
        assert not drain.begin(path, 0.1), "a batch is still being answered"
    assert drain.begin(path, 1)
    assert json.loads(ask(loaded, b"")[0])["error"]["field"] == "server"
    assert context.statuses[0][0] == 503
    assert context.headers[0]["Retry-After"] == "1"


def test_a_stop_lets_no_batch_in_and_waits_for_those_inside(tmp_path: Path) -> None:
    path = tmp_path / "drain-lock"
    path.touch()
    inside, late = drain.Lock(str(path)), drain.Lock(str(path))
    with ThreadPoolExecutor(1) as pool:
        with inside.shared():
            draining = pool.submit(drain.begin, path, 60)
            deadline = time.monotonic() + 10
            while path.stat().st_size == 0:
                assert time.monotonic() < deadline, "workers must be told while `begin` waits"
                time.sleep(0.001)
            assert drain.signed(path) == set()
            with late.shared() as serves:
                assert not serves
            assert drain.signed(path) == {os.getpid()}
            assert not draining.done()
        assert draining.result()


def test_a_worker_that_refuses_signs_once_and_needs_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "drain-lock"
    path.touch()
    lock = drain.Lock(str(path))
    assert drain.begin(path, 1)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for _ in range(3):
            with lock.shared() as serves:
                assert not serves
    assert path.read_bytes() == b"\0%d\n" % os.getpid()


def test_a_full_disk_lets_a_stop_begin_and_workers_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "drain-lock"
    path.touch()
    lock = drain.Lock(str(path))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    assert drain.begin(path, 1)
    assert path.stat().st_blocks == 0, "the file takes no disk space"
    with lock.shared() as serves:
        assert not serves


def test_a_batch_that_comes_as_a_stop_begins_is_not_let_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "drain-lock"
    path.touch()
    lock, flock = drain.Lock(str(path)), fcntl.flock

    def late(file: int, operation: int) -> None:
        if operation == fcntl.LOCK_SH:
            path.write_text("closed\n")
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with lock.shared() as serves:
        assert not serves


def test_of_the_metrics_only_the_line_for_each_batch_is_dropped(
    loaded: tuple[LookalikeHandler, Context], caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("ts.metrics.caching_metric")  # TorchServe's, one line per metric
    logger.info("[METRICS]PredictionTime.ms:0.2|#ModelName:lookalike,Level:Model")
    logger.info("[METRICS]lookalike_requests_total.count:3|#ModelName:lookalike,Format:json")
    assert ["lookalike_requests_total" in message for message in caplog.messages] == [True]


@pytest.mark.parametrize("path", ["/predictions/lookalike", "/predictions/lookalike/{version}"])
def test_the_openapi_description_names_every_status_of_a_refusal(path: str) -> None:
    here = Path(handler.__file__).parent
    description = json.loads((here / "openapi.json").read_text())
    described = set(description["paths"][path]["post"]["responses"])
    sources = (here / "handler.py").read_text() + (here / "request.py").read_text()
    refusals = {str(HTTPStatus[name].value) for name in re.findall(r"HTTPStatus\.([A-Z_]+)", sources)}
    assert refusals == described - {"200"} - {"403", "404", "417", "500", "507"}, "these five are TorchServe's own"


def test_the_module_defines_exactly_one_class() -> None:
    classes = [value for value in vars(handler).values() if isinstance(value, type)]
    assert [found for found in classes if found.__module__ == handler.__name__] == [LookalikeHandler]


def test_each_request_of_a_batch_is_read_and_answered_by_its_own_headers(loaded: Any) -> None:
    made, context = loaded
    accepts = ["application/json", "application/x-npy", "text/html", "application/x-npy"]
    context.receive([JSON_HEADERS | {"Accept": accept} for accept in accepts])
    made.handle([{"body": json.dumps({"n": 2, "seed": k}).encode()} for k in range(4)], context)
    kinds = ["application/json", "application/x-npy", "application/json", "application/x-npy"]
    assert [context.headers[k]["content-type"] for k in range(4)] == kinds
    assert [context.headers[k].get("X-Lookalike-Seed") for k in range(4)] == [None, "1", None, "3"]
    assert context.statuses == {2: (406, "Not Acceptable")}


def test_of_a_batch_only_those_with_the_token_are_answered(
    artifact_directory: Path, make_context: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("correct-horse-battery\n")
    monkeypatch.setitem(os.environ, bearer.VARIABLE, str(tmp_path / "token"))
    made, context = LookalikeHandler(), make_context(artifact_directory)
    made.initialize(context)
    context.receive([{"Authorization": "Bearer correct-horse-battery"}, {}, {"authorization": "Bearer another"}])
    answers = [json.loads(body) for body in made.handle([{"body": b""}] * 3, context)]
    assert ["sequences" in answer for answer in answers] == [True, False, False]
    assert {index: status for index, (status, _) in context.statuses.items()} == {1: 401, 2: 401}
    # RFC 9110, 11.6.1: a 401 says how to authenticate.
    assert [context.headers[k].get("WWW-Authenticate") for k in range(3)] == [None, "Bearer", "Bearer"]


@pytest.mark.parametrize("path", ["/predictions/lookalike", "/predictions/lookalike/{version}"])
def test_the_openapi_description_has_the_header_of_a_missing_token(path: str) -> None:
    description = json.loads((Path(handler.__file__).parent / "openapi.json").read_text())
    name = description["paths"][path]["post"]["responses"]["401"]["$ref"].rsplit("/", 1)[1]
    header = description["components"]["responses"][name]["headers"]["WWW-Authenticate"]
    assert (header["required"], header["schema"]) == (True, {"const": "Bearer"})


def test_a_model_without_a_run_has_an_empty_header_for_it(choosy: Any) -> None:
    """TorchServe's worker encodes headers as text: None would crash it and lose the batch."""
    ask(choosy, b'{"format": "npy"}')
    assert choosy[1].headers[0]["X-Lookalike-Run-Id"] == ""


def test_a_stopping_server_says_to_each_of_a_batch_when_to_come_again(loaded: Any) -> None:
    made, context = loaded
    context.receive([{}, {}])
    made._turn_away(2, context)
    assert [context.headers[k]["Retry-After"] for k in range(2)] == ["1", "1"]


def test_drift_is_measured_against_rows_that_are_drawn_anew(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = loaded
    draws: list[Any] = []
    monkeypatch.setattr(handler, "Watch", lambda metrics, name, draw: draws.append(draw) or _Idle())
    made._watch(object())
    assert not torch.equal(draws[0](), draws[0]())


class _Idle:
    def start(self) -> None: ...
