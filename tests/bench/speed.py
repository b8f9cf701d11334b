"""Speed bench: throughput of training, where its time goes, how the cost grows, and how fast samples are written.

Everything is measured in one run on one thread; alternatives take turns. Prints medians and ranges.
"""

import copy
import dataclasses
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import click
import numpy as np
import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.bench.tables import machine
from train import artifact, builtin, loop, losses, metrics, nade, row_cache, shards
from train.artifact import Artifact
from train.codec import BitsCodec
from train.config import Config, resolve
from train.dataset import split
from train.discriminator import ResidualDiscriminator, TextbookDiscriminator
from train.generator import Generator, TextbookGenerator, generate, sample
from train.loop import State
from train.nade import NadeGenerator
from train.warmup import WarmStart

DEFAULT = resolve({"generator": "nade"})
WANTED = 1.3  # the correlation_ratio to reach in "time to quality"
BUDGETS = (3, 6, 12, 25, 50, 100, 200)  # seconds of training, tried in this order until WANTED is reached
CLASSES = 32
CSV_SHAPE = 200_000, 128  # rows, columns

Measured = dict[str, list[float]]


class Eager(NadeGenerator):
    """The same generator in plain torch operations: weights gathered for each row, one step per bit."""

    def logits(self, rows: Tensor, net: int, latent: Tensor) -> Tensor:
        with mock.patch.object(nade.HiddenTerm, "apply", nade.hidden_term):
            return super().logits(rows, net, latent)

    def _draw(self, net: Tensor, latent: Tensor, logistic: Tensor, columns: Any = None) -> Tensor:
        hidden, logit = self._start(net, latent)
        later = self.direct.tril(-1).transpose(1, 2)
        recent, noisy = torch.zeros_like(net), []
        for t in range(self.length):
            here = logit[:, t] + (torch.relu(hidden) * self.output[net, t]).sum(1) + self.local[net, recent]
            noisy.append(here + logistic[:, t])
            bit = (noisy[-1] > 0).to(here)
            centred = (bit - self.center[net, t])[:, None]
            hidden = hidden + centred * self.input[net, t]
            logit = logit + centred * later[net, t]
            recent = (2 * recent + bit.long()) % 2**self.WINDOW
        return torch.stack(noisy, dim=1)


@click.command()
@click.option("--rounds", type=click.IntRange(2), default=7, show_default=True, help="Measurements of everything.")
@click.option("--seconds", type=click.FloatRange(0.01), default=1.0, show_default=True, help="Of each measurement.")
@click.option("--sampled", type=click.IntRange(1), default=700_000, show_default=True, help="Rows to write, in all.")
@click.option("--quality/--no-quality", default=True, show_default=True, help="Measure the time to quality, too.")
def main(rounds: int, seconds: float, sampled: int, quality: bool) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    print(f"{machine(with_gpu=False)}, one thread; median (lowest to highest) of {rounds} measurements\n", flush=True)
    rows = torch.as_tensor(builtin.digits())
    _throughput(rows, rounds, seconds)
    _split(rows, rounds)
    _growth(rounds, seconds)
    _conversion(rounds)
    _sampling(rounds, -(-sampled // rounds))
    if quality:
        for name in ("digits", "topics"):
            _time_to_quality(name)


def _throughput(rows: Tensor, rounds: int, seconds: float) -> None:
    print("Training on digits (64 bits), sequences a second")
    jobs = {
        "textbook": _textbook(rows),
        "plain eager": _plain(rows, penalised_every=1),
        "plain eager, lazy penalty": _plain(rows, penalised_every=loop.PENALTY_EVERY),
        "default": _steps(DEFAULT, NadeGenerator(**_sizes(rows.shape[1])), rows),
    }
    measured = _by_turns({name: lambda steps=steps: _rate(steps, seconds) for name, steps in jobs.items()}, rounds)
    _print(measured, "{:,.0f}")
    for name in list(jobs)[:-1]:
        times = [ours / other for ours, other in zip(measured["default"], measured[name], strict=True)]
        print(f"  the default's over {name}: {_shown(times, '{:.1f}')}")
    print(flush=True)


def _textbook(rows: Tensor) -> Iterator[int]:
    """The textbook's training loop: one row per step."""
    generator, judge = TextbookGenerator(rows.shape[1]), TextbookDiscriminator(rows.shape[1])
    optimizers = [torch.optim.Adam(net.parameters(), lr=1e-3) for net in (judge, generator)]
    one, zero = torch.ones(1), torch.zeros(1)
    for row in itertools.cycle(rows.float()):
        fake = generator(torch.rand(1, generator.noise_size))
        loss = F.binary_cross_entropy(judge(row[None]), one) + F.binary_cross_entropy(judge(fake.detach()), zero)
        _descend(optimizers[0], loss)
        _descend(optimizers[1], F.binary_cross_entropy(judge(fake), one))
        yield 1


def _plain(rows: Tensor, penalised_every: int) -> Iterator[int]:
    """The default preset's game in plain torch: same nets, losses and batches, but real and generated rows are judged
    in separate passes.

    Args:
        penalised_every: the number of discriminator updates from one gradient penalty to the next; 1 is the usual
            choice, the default preset uses more (lazy regularization).
    """
    config = DEFAULT
    generator, judge = Eager(**_sizes(rows.shape[1])), ResidualDiscriminator(rows.shape[1], config.width, config.blocks)
    averaged = copy.deepcopy(generator)
    optimizers = [torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.0, 0.99)) for net in (judge, generator)]
    while True:
        drawn = generator.stratified(torch.rand(config.batch_size, generator.noise_size), 0)
        for turn in range(config.turns):
            real = rows[torch.randint(len(rows), (config.batch_size,))].float()
            real, fake = (torch.where(torch.rand_like(each) < config.flip, 1 - each, each) for each in (real, drawn))
            penalised = turn % penalised_every == 0
            shown = real.requires_grad_(penalised), fake.detach().requires_grad_(penalised)
            scores = [judge(each) for each in shown]
            loss = losses.relativistic_discriminator(*scores)
            if penalised:
                penalties = [losses.gradient_penalty(*each) for each in zip(shown, scores, strict=True)]
                loss = loss + config.penalty * penalised_every * sum(penalties)
            _descend(optimizers[0], loss)
        _descend(optimizers[1], losses.relativistic_generator(judge(real).detach(), judge(fake)))
        with torch.no_grad():
            for ours, current in zip(averaged.parameters(), generator.parameters(), strict=True):
                ours.lerp_(current, 1 - config.average)
        yield config.batch_size * config.turns


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _sizes(length: int, **changed: int) -> dict[str, int]:
    return {"length": length, "hidden": Config.hidden, "nets": Config.folds, "classes": CLASSES, **changed}


def _steps(config: Config, generator: Generator, rows: Tensor) -> Iterator[int]:
    """Train endlessly; yields the number of sequences used by each step."""
    config = dataclasses.replace(config, head_start=0)  # so that steps update the generator from the start
    torch.manual_seed(0)
    state = State.new(config, generator, torch.device("cpu"))
    for batch in loop.batches(loop.data_order(len(rows), config), rows, 0, config.step_rows, float("inf")):
        loop.step(state, batch, config)
        loop.update_average(state, config.average)
        state.seen += len(batch)
        yield len(batch)


def _rate(steps: Iterator[int], seconds: float) -> float:
    """Sequences per second of CPU time, which other jobs on the machine affect less than wall-clock time."""
    started, done = time.process_time(), 0
    while time.process_time() - started < seconds:
        done += next(steps)
    return done / (time.process_time() - started)


def _by_turns(jobs: dict[str, Callable[[], float]], rounds: int) -> Measured:
    for job in jobs.values():
        job()
    turns = [{name: job() for name, job in jobs.items()} for _ in range(rounds)]
    return {name: [turn[name] for turn in turns] for name in jobs}


def _print(measured: Measured, form: str) -> None:
    for name, values in measured.items():
        print(f"  {name:26}{_shown(values, form)}")


def _shown(values: list[float], form: str) -> str:
    return f"{form.format(statistics.median(values))} ({form.format(min(values))} to {form.format(max(values))})"


def _split(rows: Tensor, rounds: int) -> None:
    """Where a step spends its time; its parts are measured separately, so they need not add up exactly."""
    config = DEFAULT
    print(f"A step of the default preset on digits ({config.turns} turns of {config.batch_size} rows), milliseconds")
    state = State.new(config, NadeGenerator(**_sizes(rows.shape[1])), torch.device("cpu"))
    generator, judge = state.generator, state.discriminator
    batches = loop.batches(loop.data_order(len(rows), config), rows, 0, config.step_rows, float("inf"))
    real = next(batches)[: config.batch_size]
    noise = torch.rand(len(real), generator.noise_size)

    def all_of_generator() -> None:
        judge(generator.stratified(noise, 0)).sum().backward(inputs=list(generator.parameters()))

    def optimizers() -> None:
        state.generator_optimizer.step()
        state.discriminator_optimizer.step()
        loop.update_average(state, config.average)

    whole = _steps(config, NadeGenerator(**_sizes(rows.shape[1])), rows)
    work: dict[str, Callable[[], Any]] = {
        "data": lambda: next(batches),
        "generator, forward": lambda: generator.stratified(noise, 0),
        "generator, with gradient": all_of_generator,
        "a turn: flips": lambda: loop.show(real, real, config),
        "a turn: discriminator": lambda: loop.update_discriminator(state, real, real, config, 0.0),
        "a turn, penalised": lambda: loop.update_discriminator(state, real, real, config, config.penalty),
        "both optimizers, average": optimizers,
        "whole step": lambda: next(whole),
    }
    _print(_by_turns({name: lambda each=each: _milliseconds(each) for name, each in work.items()}, rounds), "{:.2f}")
    print(flush=True)


def _milliseconds(work: Callable[[], Any], repetitions: int = 10) -> float:
    started = time.process_time()
    for _ in range(repetitions):
        work()
    return (time.process_time() - started) * 1000 / repetitions


def _growth(rounds: int, seconds: float) -> None:
    print("Cost of a sequence, microseconds")
    jobs: dict[str, Iterator[int]] = {}
    for n in (1_000, 10_000, 100_000, 1_000_000):
        jobs[f"{n:,} rows"] = _steps(DEFAULT, NadeGenerator(**_sizes(64)), _coins(n, 64))
    for length in (16, 64, 256):
        jobs[f"{length} bits"] = _steps(DEFAULT, NadeGenerator(**_sizes(length)), _coins(1_000, length))
    for hidden in (32, 128, 512):
        generator = NadeGenerator(**_sizes(64, hidden=hidden))
        jobs[f"{hidden} hidden units"] = _steps(DEFAULT, generator, _coins(1_000, 64))
    cost = {name: lambda steps=steps: 1e6 / _rate(steps, seconds) for name, steps in jobs.items()}
    _print(_by_turns(cost, rounds), "{:,.0f}")
    print(flush=True)


def _coins(n: int, length: int) -> Tensor:
    return torch.randint(0, 2, (n, length), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _conversion(rounds: int) -> None:
    """How fast CSV is converted to the packed rows of large sets, each time into a new cache."""
    with tempfile.TemporaryDirectory() as folder:
        file = _csv(Path(folder) / "rows.csv")
        rates = []
        for turn in range(rounds):
            started = time.process_time()
            with mock.patch.dict(os.environ, LOOKALIKE_CACHE=str(Path(folder) / f"cache-{turn}")):
                row_cache.load([file], codec="bits", max_bad_rows=0)
            rates.append(CSV_SHAPE[0] / (time.process_time() - started))
    print(f"Converting CSV of {CSV_SHAPE[1]} bits, rows a second: {_shown(rates, '{:,.0f}')}")
    print(f"  10 million rows at that: {10_000_000 / statistics.median(rates) / 60:.1f} minutes\n", flush=True)


def _csv(path: Path) -> Path:
    rows, columns = CSV_SHAPE
    text = np.full((rows, 2 * columns), ord(","), np.uint8)
    text[:, ::2] = ord("0") + _coins(rows, columns).numpy()
    text[:, -1] = ord("\n")
    path.write_bytes(",".join(f"x{i}" for i in range(columns)).encode() + b"\n" + text.tobytes())
    return path


def _sampling(rounds: int, rows: int) -> None:
    """How fast rows are written to Parquet, compared with only drawing them, and how much memory writing takes."""
    generator = artifact.for_serving(NadeGenerator(**_sizes(64)))
    codec = BitsCodec([f"x{i}" for i in range(64)])
    drawn = Artifact(generator=generator, codec=codec, card={"weights_sha256": ""})
    noise, memory = torch.rand(min(rows, 50_000), generator.noise_size, dtype=torch.float64), []

    def bare() -> float:
        started = time.process_time()
        generate(generator, noise)
        return len(noise) / (time.process_time() - started)

    def written() -> float:
        with tempfile.TemporaryDirectory() as folder:
            started = time.process_time()
            shards.write(Path(folder), drawn, n=rows, seed=0, shard_rows=rows)
            memory.append(psutil.Process().memory_info().rss / 2**20)
            return rows / (time.process_time() - started)

    measured = _by_turns({"drawn only": bare, "written": written}, rounds)
    print(f"Sampling 64 bits, rows a second; {rounds * rows:,} rows are written")
    _print(measured, "{:,.0f}")
    shares = [one / other for one, other in zip(measured["written"], measured["drawn only"], strict=True)]
    print(f"  written over drawn only: {_shown(shares, '{:.2f}')}")
    print(f"  MiB of memory after the first rows and the last: {memory[0]:,.0f}, {memory[-1]:,.0f}\n", flush=True)


def _time_to_quality(name: str) -> None:
    """Complete trainings with growing budgets, including the warm start, until `WANTED` is reached."""
    bits = torch.as_tensor(builtin.BITS[name]())
    parts = split(len(bits), holdout=0.5, validation=0.15, seed=0)
    train, heldout = bits[parts.train], bits[parts.heldout]
    for budget in BUDGETS:
        started = time.process_time()
        generator = _trained(train, resolve({"generator": "nade", "max_minutes": budget / 60, "device": "cpu"}))
        elapsed = time.process_time() - started
        made = sample(generator, len(heldout), 0).numpy()
        ratio = metrics.compare(made, heldout.numpy(), train.numpy())["correlation_ratio"]
        print(f"{name}: correlation_ratio {ratio:.2f} after {elapsed:.0f} s of CPU time in {budget} s", flush=True)
        if ratio <= WANTED:
            return
    print(f"{name}: {WANTED} was not reached")


def _trained(rows: Tensor, config: Config) -> Generator:
    torch.manual_seed(0)
    assert config.max_minutes is not None
    start = WarmStart(rows, hidden=config.hidden, folds=config.folds)
    start.run(60 * config.max_minutes * config.warmup, lambda: False)
    state = State.new(config, start.generator, torch.device("cpu"))
    state.seconds = start.seconds
    loop.train(state, rows, config, on_tick=lambda tick: False)
    return state.averaged


if __name__ == "__main__":
    main()
