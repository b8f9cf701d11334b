"""A small artifact, and TorchServe's context as far as the handler uses it."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from train import artifact
from train.codec import PresenceCodec
from train.generator import TextbookGenerator

WORDS = ["film", "good", "plot", "great", "story", "dull"]


@pytest.fixture(scope="session")
def artifact_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    generator = TextbookGenerator(len(WORDS))
    torch.nn.init.normal_(generator.linear.weight, std=3)
    directory = tmp_path_factory.mktemp("model") / "artifact"
    artifact.save(directory, generator, PresenceCodec(WORDS), {"version": "1", "run_id": "abc"})
    return directory


class FakeContext:
    """Stands in for ts.context.Context, which leaves a file open when it is imported."""

    def __init__(self, directory: Path, settings: dict[str, Any] | None = None) -> None:
        self.system_properties = {"model_dir": str(directory)}
        self.model_yaml_config = settings
        self.metrics = None
        self.receive([])

    def receive(self, headers: list[dict[str, str]]) -> None:
        """Start a new batch with these request headers."""
        self.request_headers = headers
        self.statuses: dict[int, tuple[int, str]] = {}
        self.headers: dict[int, dict[str, str]] = defaultdict(dict)

    def get_all_request_header(self, index: int) -> dict[str, str]:
        return self.request_headers[index]

    def set_response_status(self, code: int, phrase: str, index: int) -> None:
        self.statuses[index] = (code, phrase)

    def set_response_content_type(self, index: int, kind: str) -> None:
        self.set_response_header(index, "content-type", kind)

    def set_response_header(self, index: int, name: str, value: str) -> None:
        self.headers[index][name] = value


@pytest.fixture
def make_context() -> type[FakeContext]:
    return FakeContext
