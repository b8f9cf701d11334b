"""Runs to serve, and a running server with its settings and state."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import torch

from serve import archive
from serve.launch import Settings
from serve.state import State
from tests.ports import free_ports
from tests.rated import rated_artifact
from train import artifact
from train.codec import PresenceCodec
from train.generator import TextbookGenerator

WORDS = ["film", "good", "plot", "great", "story", "dull"]


@dataclass(frozen=True)
class Served:
    """A running server: its settings and its state."""

    settings: Settings
    state: State

    @property
    def url(self) -> str:
        return f"{self.state.address}/predictions/lookalike"


def make_run(runs: Path, number: int) -> Path:
    """A run directory with an archive, as training leaves it; each number gives a different generator."""
    torch.manual_seed(number)
    generator = TextbookGenerator(len(WORDS))
    torch.nn.init.normal_(generator.linear.weight, std=3)
    run = runs / f"{number:05d}-reviews"
    artifact.save(run / "artifact", generator, PresenceCodec(WORDS), {"version": str(number), "run_id": f"run{number}"})
    archive.build(run / "artifact", run / "lookalike.mar")
    return run


def make_rated_run(runs: Path, number: int) -> Path:
    """Like `make_run`, but with a generator of texts with classes."""
    run = runs / f"{number:05d}-rated"
    rated_artifact(run / "artifact", version=str(number), run_id=f"run{number}")
    archive.build(run / "artifact", run / "lookalike.mar")
    return run


def conform(schema: str, body: Any) -> None:
    """Check a body against a schema of the openapi.json that ships."""
    description = json.loads((archive.HERE / "openapi.json").read_text())
    jsonschema.validate(body, {"$ref": f"#/components/schemas/{schema}"} | description)


def settings_for(runs: Path) -> Settings:
    port, metrics_port = free_ports(2)
    return Settings(runs=runs, port=port, metrics_port=metrics_port, workers=1, wait_seconds=90)
