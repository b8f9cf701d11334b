"""Samples larger than memory: a folder of Parquet shards, made in constant memory by any number of processes.

Each block of `BLOCK_ROWS` rows has its own stream of noise, so a row depends only on the artifact, the seed and its
number, not on the size of the shards or the process that makes it. The first block uses the stream of a single-file
sample, so both begin with the same rows. A shard appears whole or not at all, and whole ones are kept.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import torch
from filelock import FileLock
from torch import Tensor

from train import MAX_SEED, atomic, cpus, readers, writers
from train.artifact import Artifact
from train.codec import TokensCodec
from train.errors import InputError
from train.generator import Generator, LabelledRows, Map, generate_labelled, noise_of
from train.progress import Progress

BLOCK_ROWS = 100_000
PASS_VALUES = 2**20  # noise values drawn at once; the rows made from them are one row group
STREAM_STEP = 2_654_435_761  # odd, so that no two blocks of a seed share a stream
MOST_SHARDS = 1_000_000  # nobody can use more files in one folder
MANIFEST = "_manifest.json"  # tools that read folders of Parquet files ignore names with an underscore


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a folder of shards holds, as written to its manifest.

    Attributes:
        options: the generator's options that were chosen.
    """

    weights_sha256: str
    seed: int
    n: int
    shard_rows: int
    options: dict[str, Any]

    @property
    def shards(self) -> int:
        return -(-self.n // self.shard_rows)

    def rows(self, shard: int) -> range:
        """The numbers of a shard's rows."""
        return range(shard * self.shard_rows, min(self.n, (shard + 1) * self.shard_rows))

    def path(self, folder: Path, shard: int) -> Path:
        width = max(5, len(str(self.shards - 1)))  # the same for all, so that sorting by name sorts by rows
        return folder / f"part-{shard:0{width}d}-of-{self.shards:05d}.parquet"


def write(
    folder: Path,
    artifact: Artifact,
    *,
    n: int,
    seed: int,
    shard_rows: int,
    options: dict[str, Any] | None = None,
    rank: int = 0,
    processes: int = 1,
    before_each: Callable[[], object] = lambda: None,
) -> Plan:
    """Make the missing shards of a sample of `n` rows, or one process's part of them.

    Args:
        folder: created if it does not exist; an unfinished sample in it is continued.
        options: the artifact's generator options, for the manifest.
        rank: the number of the process, from 0 on.
        processes: how many share the work.
        before_each: called before each shard; what it raises ends the work.

    Raises:
        InputError: the folder holds another sample or other data, its manifest cannot be read, or it is a file; or
            there would be more than `MOST_SHARDS`.
    """
    weights = artifact.card["weights_sha256"]
    plan = Plan(weights_sha256=weights, seed=seed, n=n, shard_rows=shard_rows, options=options or {})
    if plan.shards > MOST_SHARDS:
        raise InputError(
            f"--shard-rows {shard_rows}: {n:,} rows need {plan.shards:,} files, but {MOST_SHARDS:,} is the limit; "
            f"use {-(-n // MOST_SHARDS):,} or more"
        )
    _claim(folder, plan)
    atomic.clear(folder)
    torch.set_num_threads(1)  # more threads than cores wait for each other and take six times as long
    # Rows of 0/1 are drawn faster than they are written: passes side by side would take more memory for nothing.
    each: Map = cpus.in_threads if processes == 1 and isinstance(artifact.codec, TokensCodec) else map
    mine = range(rank, plan.shards, processes)
    with Progress("sampling", sum(len(plan.rows(shard)) for shard in mine)) as progress:
        for shard in mine:
            before_each()
            path, rows = plan.path(folder, shard), plan.rows(shard)
            if _whole(path, len(rows), writers.schema(artifact.codec).names):
                progress.add(len(rows))
            else:
                _write_shard(path, artifact, samples(artifact.generator, rows, seed, each), progress)
    return plan


def _claim(folder: Path, plan: Plan) -> None:
    """Write the manifest, or check it against an existing one."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--out {folder}: an existing file; name a folder, or a file with an extension")
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / MANIFEST
    with FileLock(folder / ".lock"):
        if not manifest.exists():
            _refuse_others(folder, set())
            atomic.write_text(manifest, json.dumps(asdict(plan), indent=1) + "\n")
        try:
            found = dict(json.loads(manifest.read_text()))
        except (ValueError, TypeError) as problem:
            raise InputError(f"--out {folder}: {MANIFEST} cannot be read ({problem})") from problem
    for name, value in asdict(plan).items():
        if found.get(name) != value:
            raise InputError(f"--out {folder}: holds a sample of {name} {found.get(name)}, not {value}; name another")
    _refuse_others(folder, {plan.path(folder, shard).name for shard in range(plan.shards)})


def _refuse_others(folder: Path, ours: set[str]) -> None:
    """Refuse a folder that holds other data, which its readers would take for rows of the sample."""
    if others := sorted(file.name for file in folder.iterdir() if readers.is_shard(file) and file.name not in ours):
        raise InputError(f"--out {folder}: holds {others[0]}, which is not part of this sample; name another folder")


def _whole(path: Path, rows: int, columns: list[str]) -> bool:
    try:
        found = pa.parquet.read_metadata(path)
    except (OSError, pa.ArrowException):
        return False
    return (found.num_rows, found.schema.names) == (rows, columns)


def _write_shard(path: Path, artifact: Artifact, sample: Iterable[LabelledRows], progress: Progress) -> None:
    codec = artifact.codec
    schema = writers.schema(codec)
    with atomic.replacing(path) as partial, pa.parquet.ParquetWriter(partial, schema, write_page_checksum=True) as file:
        for some in sample:
            file.write_table(writers.arrow(some, codec))
            progress.add(len(some.codes))


def samples(generator: Generator, rows: range, seed: int, each: Map = map) -> Iterator[LabelledRows]:
    """The rows with these numbers in the sample of a seed, some at a time.

    Args:
        each: how noise is mapped to rows, one pass after the other or several at a time.
    """
    return iter(each(lambda noise: generate_labelled(generator, noise), _noise(generator, rows, seed)))


def _noise(generator: Generator, rows: range, seed: int) -> Iterator[Tensor]:
    for block in range(rows.start // BLOCK_ROWS, -(-rows.stop // BLOCK_ROWS)):
        first = block * BLOCK_ROWS
        wanted = range(max(rows.start, first) - first, min(rows.stop - first, BLOCK_ROWS))
        yield from _noise_of_block(generator, wanted, (seed + block * STREAM_STEP) % (MAX_SEED + 1))


def _noise_of_block(generator: Generator, rows: range, stream_seed: int) -> Iterator[Tensor]:
    """The noise of the given rows of one block; that of the rows before them is drawn and discarded."""
    rng = torch.Generator().manual_seed(stream_seed)
    step = max(1, PASS_VALUES // generator.noise_size)
    done = 0
    while done < rows.stop:
        end = min(done + step, rows.stop if done >= rows.start else rows.start)
        noise = noise_of(generator, end - done, rng)
        if done >= rows.start:
            yield noise
        done = end
