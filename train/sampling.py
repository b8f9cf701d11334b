"""What `sample` does: one file, or a folder of shards that processes share."""

import os
from pathlib import Path
from typing import Any

import torch

from train import cpus, generator, shards, writers
from train.artifact import Artifact
from train.errors import JobError, is_out_of_memory
from train.processes import await_all, process_count, started
from train.progress import Progress


def to_file(loaded: Artifact, out: Path, n: int, seed: int) -> None:
    """Write sequences into one file.

    Raises:
        JobError: memory does not suffice.
    """
    torch.set_num_threads(1)  # several passes at a time take half as long, more threads for each do not
    try:
        with Progress("sampling", n) as progress:
            made = generator.sample_labelled(loaded.generator, n, seed, progress.add, each=cpus.in_threads)
        writers.write(out, made, loaded.codec)
    except (MemoryError, RuntimeError) as problem:
        if not is_out_of_memory(problem):
            raise
        raise JobError(
            f"--out {out}: out of memory; a folder (a name without extension) may hold more rows than memory does"
        ) from problem


def to_shards(loaded: Artifact, out: Path, plan: dict[str, Any], processes: int, command: list[str]) -> None:
    """Write this process's shards; unless torchrun has started the others, start them, with such a command.

    Args:
        plan: the arguments of `shards.write` that say which sequences.

    Raises:
        JobError: another process failed, or this one was interrupted.
    """
    rank, number = int(os.environ.get("RANK", 0)), process_count(processes)
    again = f"run the same command again to continue {out}"
    try:
        with started(1 if "WORLD_SIZE" in os.environ else number, command) as workers:

            def check() -> None:  # now, because the shards of a lost process would be left for one process alone
                for worker in workers:
                    worker.check()

            shards.write(out, loaded, **plan, rank=rank, processes=number, before_each=check)
            await_all(workers)
    except KeyboardInterrupt as problem:
        raise JobError(f"interrupted; {again}") from problem
    except JobError as problem:
        raise JobError(f"{problem}; {again}") from problem
