"""gRPC: the same bodies as over HTTP. TorchServe's package has no stubs, so the two messages are defined by hand."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psutil
import pytest
import requests
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from serve import management, server
from tests.integration.serve.running import Served, conform, make_run, settings_for
from tests.ports import free_port

SERVICE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService"
METHOD = f"{SERVICE}/Predictions"
Field = descriptor_pb2.FieldDescriptorProto
Ask = Callable[[bytes], bytes]


def messages() -> tuple[type[message.Message], type[message.Message]]:
    """PredictionsRequest and PredictionResponse of TorchServe's inference.proto."""
    file = descriptor_pb2.FileDescriptorProto(name="inference.proto", package="ts", syntax="proto3")
    asked = file.message_type.add(name="PredictionsRequest")
    asked.field.add(name="model_name", number=1, type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL)
    asked.field.add(
        name="input",
        number=3,
        type=Field.TYPE_MESSAGE,
        label=Field.LABEL_REPEATED,
        type_name=".ts.PredictionsRequest.Entry",
    )
    entry = asked.nested_type.add(name="Entry", options=descriptor_pb2.MessageOptions(map_entry=True))
    entry.field.add(name="key", number=1, type=Field.TYPE_STRING, label=Field.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=Field.TYPE_BYTES, label=Field.LABEL_OPTIONAL)
    answer = file.message_type.add(name="PredictionResponse")
    answer.field.add(name="prediction", number=1, type=Field.TYPE_BYTES, label=Field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = (pool.FindMessageTypeByName(f"ts.{name}") for name in ("PredictionsRequest", "PredictionResponse"))
    request, response = map(message_factory.GetMessageClass, found)
    return request, response


@pytest.fixture
def ask(served: Served) -> Iterator[Ask]:
    """Sends a body over gRPC and returns the body of the answer."""
    asked, answer = messages()
    with grpc.insecure_channel(f"127.0.0.1:{served.settings.grpc_port}") as channel:
        call = channel.unary_unary(METHOD, asked.SerializeToString, answer.FromString)
        yield lambda body: call(asked(model_name="lookalike", input={"data": body}), timeout=30).prediction


def test_the_answer_is_the_one_over_http(served: Served, ask: Ask) -> None:
    for fields in ({"n": 5, "seed": 1}, {"n": 5, "seed": 1, "format": "npy"}):
        assert ask(json.dumps(fields).encode()) == requests.post(served.url, json=fields, timeout=30).content
    assert len(json.loads(ask(b""))["sequences"]) == 1


@pytest.mark.parametrize(("body", "field"), [(b"{", "body"), (b'{"n": 0}', "n"), (b'{"label": "x"}', "label")])
def test_a_mistake_is_told_as_over_http(served: Served, ask: Ask, body: bytes, field: str) -> None:
    headers = {"Content-Type": "application/json"}
    told = ask(body)
    conform("Error", json.loads(told))
    assert told == requests.post(served.url, data=body, headers=headers, timeout=30).content
    assert json.loads(told)["error"]["field"] == field


def test_with_tokens_nobody_without_one_takes_a_worker_down(tmp_path: Path) -> None:
    """TorchServe fails on every StreamPredictions call and ends the worker that took it (see serve/README.md)."""
    make_run(tmp_path, 1)
    settings = dataclasses.replace(settings_for(tmp_path), grpc_port=free_port(), tokens=True)
    state = server.start(settings, print)
    asked, answer = messages()
    wanted = asked(model_name="lookalike", input={"data": b'{"n": 2}'})
    try:
        (worker,) = psutil.Process(state.pid).children(recursive=True)
        with grpc.insecure_channel(f"127.0.0.1:{settings.grpc_port}") as channel:
            stream = channel.unary_stream(f"{SERVICE}/StreamPredictions", asked.SerializeToString, answer.FromString)
            with pytest.raises(grpc.RpcError) as denied:
                list(stream(wanted, timeout=30))
            assert denied.value.code() == grpc.StatusCode.PERMISSION_DENIED
            call = channel.unary_unary(METHOD, asked.SerializeToString, answer.FromString)
            bearer = [("authorization", f"Bearer {management.inference_token(state)}")]
            assert len(json.loads(call(wanted, metadata=bearer, timeout=30).prediction)["sequences"]) == 2
        assert psutil.Process(state.pid).children(recursive=True) == [worker]
    finally:
        server.stop(tmp_path)
