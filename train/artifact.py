"""The artifact: one directory that holds everything needed to make sequences, and nothing that must be unpickled.

    generator.safetensors   the averaged weights, float32
    card.json               generator config, codec, data fingerprint, metrics, the gate's verdict, MLflow run id,
                            library versions, the weights' SHA-256 and golden samples for two seeds

Loading verifies the artifact: the checksum must match and the golden samples must be reproduced. This module is a LEAF
(see train/__init__.py).
"""

import copy
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from train import CARD, MAX_SEED, WEIGHTS, atomic, catalogue
from train import codec as codecs
from train import generator as generators
from train.codec import Codec
from train.generator import Generator, LabelledRows, Option

FORMAT = 1
GOLDEN_SEEDS = (0, 1)
GOLDEN_ROWS = 8
# What a malformed card or malformed weights may raise.
UNREADABLE = (
    OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError,
    safetensors.SafetensorError,
)  # fmt: skip


class ArtifactError(ValueError):
    """The directory is not a complete, unmodified artifact."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A loaded artifact. The generator is in float64 and in evaluation mode (see `generator.generate`)."""

    generator: Generator
    codec: Codec
    card: dict[str, Any]

    @property
    def options(self) -> dict[str, Option]:
        """What a request may choose (see `Generator.options`); labels are the codec's class names."""
        options = dict(self.generator.options)
        if "label" in options:
            options["label"] = Option(kind=str, choices=self.codec.labels)
        return options

    def with_options(self, **chosen: Any) -> Generator:
        """The generator with these options set; the generator itself if there are none.

        Raises:
            ValueError: there is no such option, or it does not allow this value; the message names it.
        """
        if not chosen:
            return self.generator
        generators.check_options(self.options, chosen)
        if "label" in chosen:
            chosen["label"] = self.codec.labels.index(chosen["label"])
        return self.generator.with_options(**chosen)

    def sample(self, n: int, seed: int, **chosen: Any) -> Tensor:
        """`n` rounded sequences, (n, length), with some options chosen; the same for the same seed on every machine.

        Raises:
            ValueError: as for `with_options`.
        """
        return generators.sample(self.with_options(**chosen), n, seed)

    def sample_labelled(self, n: int, seed: int, **chosen: Any) -> LabelledRows:
        """What `sample` returns, with the rows' classes."""
        return generators.sample_labelled(self.with_options(**chosen), n, seed)

    def readings(self, sample: LabelledRows) -> dict[str, list[str]]:
        """The rows in readable form, under the keys of a response: "text" and "labels", where they exist."""
        text, labels = self.codec.decode(sample.codes), codecs.class_names(self.codec, sample.labels)
        found = {"text": text, "labels": labels}
        return {name: values for name, values in found.items() if values is not None}


def save(directory: Path, generator: Generator, codec: Codec, facts: dict[str, Any]) -> Artifact:
    """Write an artifact, replacing an older one, and return it as a server would load it.

    Args:
        directory: its final place, where it appears complete or not at all; see `atomic.replacing_folder`.
        facts: what else the card should say (model version, data, metrics, verdict, run id, libraries), as plain JSON.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with atomic.replacing_folder(directory) as partial:
        _write(partial, generator, codec, facts)
    return load(directory)


def _write(directory: Path, generator: Generator, codec: Codec, facts: dict[str, Any]) -> None:
    weights = {name: _kept(tensor) for name, tensor in generator.state_dict().items()}
    # Not safetensors' save_file: it reports a full disk as an error of its own type, which names no file.
    (directory / WEIGHTS).write_bytes(safetensors.torch.save(weights))
    serving = for_serving(copy.deepcopy(generator))
    card = {
        "format": FORMAT,
        **facts,
        "generator": generator.config(),
        "codec": codec.to_dict(),
        "weights_sha256": _sha256(directory / WEIGHTS),
        "golden": [
            {"seed": seed, "rows": generators.sample(serving, GOLDEN_ROWS, seed).tolist()} for seed in GOLDEN_SEEDS
        ],
    }
    (directory / CARD).write_text(json.dumps(card, indent=1, allow_nan=False) + "\n")


def load(directory: Path) -> Artifact:
    """Read and verify an artifact.

    Raises:
        ArtifactError: a file is missing or broken, the weights are not the ones that the card describes, or the
            golden samples are not reproduced.
    """
    try:
        card = json.loads((directory / CARD).read_text())
        if card["format"] != FORMAT:
            raise ArtifactError(f"{directory}: format {card['format']}, but this version reads format {FORMAT}")
        if _sha256(directory / WEIGHTS) != card["weights_sha256"]:
            raise ArtifactError(f"{directory / WEIGHTS}: the checksum does not match the card")
        generator = catalogue.build(card["generator"])
        weights = safetensors.torch.load_file(directory / WEIGHTS)
        if weights.keys() != generator.state_dict().keys():
            raise ArtifactError(
                f"{directory}: another version of Lookalike made it, whose generator has different weights: use that "
                "version, or train again"
            )
        generator.load_state_dict(weights)
        codec = codecs.from_dict(card["codec"])
        golden = [(sample["seed"], sample["rows"]) for sample in card["golden"]]
        usable = [isinstance(rows, list) and rows and _is_seed(seed) for seed, rows in golden]
        if not usable or not all(usable):
            raise ValueError("it has no golden samples to verify it by")
    except ArtifactError:
        raise
    except UNREADABLE as problem:
        raise ArtifactError(f"{directory}: not a readable artifact ({problem})") from problem
    artifact = Artifact(generator=for_serving(generator), codec=codec, card=card)
    for seed, rows in golden:
        if artifact.sample(len(rows), seed).tolist() != rows:
            raise ArtifactError(
                f"{directory}: it does not reproduce the golden samples of seed {seed}; it was changed, "
                "or another version of Lookalike made it"
            )
    return artifact


def _is_seed(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_SEED


def for_serving(generator: Generator) -> Generator:
    """The same generator, made ready to sample: on the CPU, in float64, without dropout or gradients."""
    return generator.cpu().double().eval().requires_grad_(False)


def _kept(tensor: Tensor) -> Tensor:
    """The tensor as it is stored: floating point in float32, integers unchanged."""
    tensor = tensor.cpu().contiguous()
    return tensor.float() if tensor.is_floating_point() else tensor


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
