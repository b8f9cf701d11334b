"""What can be interrupted, saved and continued: the phases of training."""

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import torch

from train.generator import Generator


class Phase(Protocol):
    """A warm start, or a refit that takes its place: work in small steps that ends in a generator.

    Given the same initial state of torch's random number generators and no time limit, a phase that was interrupted,
    saved and loaded into a new object (made from the same rows and options) ends in the same generator, bit for bit, as
    one that was not interrupted.

    Attributes:
        seconds: used so far, over all sessions.
        progress: the share of the work done, 0 to 1, for the progress bar.
    """

    seconds: float

    @property
    def progress(self) -> float: ...

    @property
    def generator(self) -> Generator:
        """What the phase has made; available only once `run` has returned True."""

    def run(self, seconds: float, interrupted: Callable[[], bool]) -> bool:
        """Work until finished or interrupted; another call continues.

        Args:
            seconds: the time limit over all sessions, into which the schedule is fitted; may be infinite.
            interrupted: called after every step (with several processes, every few) in the working thread; True ends
                `run` at once.

        Returns:
            Whether the work is finished.
        """

    def state_dict(self) -> dict[str, Any]:
        """Everything that `run` changes, as tensors, numbers, strings, lists and dicts.

        That includes the states of torch's random number generators.
        """

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Put everything back."""


class Stateful:
    """An object that is saved and restored part by part, with the states of torch's random number generators.

    Attributes:
        MODULES: the names of the parts that have a `state_dict` of their own.
        VALUES: the names of the others, plain values or tensors.
    """

    MODULES: ClassVar[tuple[str, ...]]
    VALUES: ClassVar[tuple[str, ...]]

    def state_dict(self) -> dict[str, Any]:
        modules = {name: getattr(self, name).state_dict() for name in self.MODULES}
        return {**modules, **{name: getattr(self, name) for name in self.VALUES}, "streams": rng_states()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        for name in self.MODULES:
            getattr(self, name).load_state_dict(saved[name])
        for name in self.VALUES:
            setattr(self, name, saved[name])
        restore_rng_states(saved["streams"])


class ColdStart(Stateful):
    """The phase for a generator without a warm start: finished from the beginning."""

    MODULES, VALUES = ("generator",), ()
    seconds = 0.0
    progress = 1.0

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    def run(self, seconds: float, interrupted: Callable[[], bool]) -> bool:
        return True


def rng_states() -> dict[str, Any]:
    """The states of torch's global random number generators: the CPU's, and that of the GPU in use, if any."""
    # Asking for a GPU's state would start CUDA, which fails if the driver is too old, even if no GPU is wanted.
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_rng_states(saved: dict[str, Any]) -> None:
    """Set the states of torch's global random number generators, the GPU's only if there still is one."""
    torch.set_rng_state(saved["cpu"])
    if saved["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved["cuda"])
