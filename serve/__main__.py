"""The commands: each parses its options and makes one call. `python -m serve --help` lists them."""

import json
import math
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import click

from serve import client as clients
from serve import models, server
from serve import state as states
from serve.client import Client
from serve.errors import ServeError, UsageError
from serve.launch import Settings
from train import MAX_SEED, MODEL_NAME

WORK_FAILED, WRONG_USAGE = 1, 2
RUNS = Path("runs")
PORT = click.IntRange(1, 65535)
INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class Range(click.FloatRange):
    """A range of numbers that excludes NaN, which click's own accepts since no comparison with NaN is true."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not a number.", param, ctx)
        return number


def option(name: str, **settings: Any) -> Decorator:
    """A click option that can also be set by LOOKALIKE_SERVE_NAME and shows its default."""
    field = name.split("/")[0].removeprefix("--").replace("-", "_")
    settings.setdefault("envvar", f"LOOKALIKE_SERVE_{field.upper()}")
    return click.option(name, field, show_envvar=True, show_default=True, **settings)


def runs_option() -> Decorator:
    return option(
        "--runs",
        type=click.Path(path_type=Path),
        default=RUNS,
        envvar=["LOOKALIKE_SERVE_RUNS", "LOOKALIKE_OUT"],  # the latter is the variable of `fit --out`
        help="Where runs are kept, and the server's own files.",
    )


def json_option(what: str) -> Decorator:
    return click.option("--json", "as_json", is_flag=True, help=f"Print {what} as JSON.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
def cli() -> None:
    """Serve lookalikes over HTTP with TorchServe."""


@cli.command()
@runs_option()
@option("--model", help="An archive, run directory, artifact or registered model.  [default: the newest run]")
@option("--host", default=Settings.host, help="Where to listen.")
@option("--port", type=PORT, default=Settings.port, help="Port of the predictions.")
@option("--metrics-port", type=PORT, default=Settings.metrics_port, help="Port of the Prometheus metrics.")
@option("--grpc-port", type=click.IntRange(0, 65535), default=0, help="Port for gRPC, on loopback; 0: any free one.")
@option("--workers", type=click.IntRange(1, 64), default=Settings.workers, help="Worker processes.")
@option("--tokens/--no-tokens", default=None, help="Whether predictions need a token.  [default: unless on loopback]")
@option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="File with the token that predictions need, instead of one that TorchServe draws: for replicas.",
)
@option(
    "--model-api/--no-model-api",
    default=Settings.model_api,
    help="Let `use` load versions without tokens: any user of this machine can then load code, too.",
)
@option(
    "--wait-seconds",
    type=Range(1, 600),
    default=Settings.wait_seconds,
    help="Limit for the first answer, and above 120 also for the proof before.",
)
@click.option("--foreground", is_flag=True, help="Stay until interrupted, then stop the server: for containers.")
def start(*, foreground: bool, **given: Any) -> None:
    """Start TorchServe with a model and wait until it answers."""
    settings = Settings(**given)
    interrupted = _interruptions()  # SIGTERM must not leave an untracked server behind either
    before = states.running(settings.runs)
    state = server.start(settings, _tell)
    stays = state == before  # a server that was already running is not ours to stop
    try:
        _introduce(settings, state)
        if not foreground or not server.attend(settings.runs, state, interrupted):
            stays = True  # or has ended already
    except KeyboardInterrupt:
        pass
    except Exception:
        stays = stays or not foreground
        raise
    finally:
        if not stays:
            server.finish(settings.runs, state, server.GRACE_SECONDS, _tell)


@cli.command()
@runs_option()
@option(
    "--grace-seconds",
    type=Range(0, 600),
    default=server.GRACE_SECONDS,
    help="How long requests may take to finish.",
)
def stop(runs: Path, grace_seconds: float) -> None:
    """Let accepted requests finish and stop the server."""
    _interruptions()  # an interrupted stop still ends the server, which refuses everything by then
    click.echo("stopped" if server.stop(runs, grace_seconds, _tell) else "no server runs here")


@cli.command()
@runs_option()
@json_option("the state")
def status(runs: Path, as_json: bool) -> None:
    """Say what runs: model, versions, workers, queue. Exit code 1 when nothing does."""
    found = server.status(runs)
    if as_json:
        click.echo(json.dumps(found))
    elif found:
        click.echo(_status_text(found))
    if found is None:
        raise ServeError(server.NOT_RUNNING)


@cli.command()
@runs_option()
@click.option("-n", "--n", type=click.IntRange(1), default=5, show_default=True, help="How many sequences.")
@option("--seed", type=click.IntRange(0, MAX_SEED), help="The same seed gives the same sequences.  [default: drawn]")
@option("--temperature", type=Range(0.1, 2), help="Below 1: likelier sequences, less variety.")
@option("--candidates", type=click.IntRange(1, 64), help="Draw so many for each sequence; one is kept.")
@option("--label", help="Only sequences of this class.")
@option("--address", help="Ask this server instead of the one started here.")
@option("--token", help="The token for --address; as a variable, other users do not see it.")
@json_option("the answer's exact body")
def request(
    *, runs: Path, n: int, seed: int | None, address: str | None, token: str | None, as_json: bool, **options: Any
) -> None:
    """Ask for sequences. Not every model has --temperature, --candidates and --label; one that does not says so."""
    body = _client(runs, address, token).request(n, seed, **options)
    shown = clients.show(body)
    click.echo(body if as_json else shown)


@cli.command()
@runs_option()
@click.argument("version")
def use(runs: Path, version: str) -> None:
    """Switch to VERSION: one that is loaded, was served before or was trained here (7 or 00007-toy), or as --model."""
    _interruptions()  # so that a version that does not answer is unloaded again
    used = server.use(runs, version, _tell)
    click.echo(f"version {used} answers now")
    _warn(used, models.missed_limits(models.card(runs, used)))


@cli.command()
@runs_option()
@click.option("--header", is_flag=True, help="Print it as a header, for: … | curl -H @- …")
def token(runs: Path, header: bool) -> None:
    """Print the token for predictions.

    For curl, which takes a header from standard input, where no other user sees it:
    python -m serve token --header | curl -H @- …
    """
    state = states.running(runs)
    if state is None:
        raise ServeError(server.NOT_RUNNING)
    found = server.inference_token(state)
    if found is None:
        raise ServeError("the server here needs no token; one that does starts with: python -m serve start --tokens")
    click.echo(f"Authorization: Bearer {found}" if header else found)


@cli.command()
@runs_option()
@option("--model", help="As for start.")
@option("--port", type=PORT, default=18080, help="Port for the server under test.")
@option("--metrics-port", type=PORT, default=18082, help="Port of its metrics.")
@option("--workers", type=click.IntRange(1, 64), default=Settings.workers, help="Worker processes.")
@option("--seconds", type=Range(0.1, 60), default=3.0, help="How long each line is measured.")
@json_option("the measurements")
def bench(seconds: float, as_json: bool, **given: Any) -> None:
    """Measure a server of its own beside a no-op handler, a FastAPI twin and the bare generator."""
    from serve import bench as benches

    _interruptions()  # so that the server under test is always stopped
    click.echo(benches.HEADING, err=as_json)
    lines = []
    for line in benches.run(Settings(**given), seconds):
        click.echo(benches.text(line), err=as_json)
        lines.append(line)
    if as_json:
        click.echo(json.dumps([vars(line) for line in lines]))


@cli.command()
@runs_option()
@option("--model", help="As for start.")
@option("--port", type=PORT, default=18080, help="Port for the server under test.")
@option("--metrics-port", type=PORT, default=18082, help="Port of its metrics.")
@option("--workers", type=click.IntRange(1, 64), default=2, help="Worker processes.")
@option("--minutes", type=Range(0.01, 1440), default=15.0, help="How long.")
@click.option("-n", type=click.IntRange(1), default=20, show_default=True, help="How many sequences a request.")
@json_option("the measurements")
def soak(n: int, minutes: float, as_json: bool, **given: Any) -> None:
    """Load a server of its own with 16 connections and compare its memory before and after."""
    from serve import soak as soaks

    _interruptions()
    seconds = minutes * 60
    measured, memories = soaks.run(Settings(**given), n, seconds, _tell)
    if as_json:
        click.echo(json.dumps({"load": vars(measured), "memory": [vars(memory) for memory in memories]}))
    else:
        click.echo(soaks.text(measured, memories, seconds))
    if measured.failures:
        raise ServeError(f"{measured.failures} requests failed")


def _tell(line: str) -> None:
    """Report progress on standard error, apart from the command's result."""
    click.echo(line, err=True)


def _interruptions() -> Callable[[], bool]:
    """Make SIGTERM and SIGHUP interrupt as Ctrl-C does; the result tells whether any of these signals has arrived.

    KeyboardInterrupt alone is not enough: Python swallows one that is raised inside a finalizer.
    """
    came = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        came.set()
        raise KeyboardInterrupt

    for number in INTERRUPTIONS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, interrupt)
    return came.is_set


def _client(runs: Path, address: str | None, token: str | None) -> Client:
    """A client for `address`, with or without the path that `start` prints; by default, for the server started here."""
    if address:
        if not address.startswith(("http://", "https://")):
            raise UsageError(f"--address {address}: must start with http:// or https://")
        if token and not token.isascii():
            raise UsageError("--token: holds other characters than ASCII")
        return Client(address=address.rstrip("/").removesuffix(f"/predictions/{MODEL_NAME}"), token=token)
    state = states.running(runs)
    if state is None:
        raise ServeError(server.NOT_RUNNING)
    return Client(address=state.address, token=server.inference_token(state))


def _introduce(settings: Settings, state: states.State) -> None:
    """Say what was started, and how to use it."""
    found = server.status(settings.runs)
    if found is None:
        raise ServeError("TorchServe ended, or was stopped, as soon as it was ready")
    default = next(version for version in found["versions"] if version["default"])
    _warn(default["version"], default["missed"])
    click.echo(f"model    {found['model']} version {default['version']}, MLflow run {default['run_id'] or 'unknown'}")
    click.echo(f"address  {found['address']}/predictions/{found['model']}")
    click.echo(f"metrics  {found['metrics']}")
    click.echo(f"logs     {found['logs']}")
    click.echo(f"try      {_curl(settings.runs, state)}")


def _warn(version: str, missed: list[str]) -> None:
    """Warn that a served model missed its quality gate: serving it may be intended, but should not go unnoticed."""
    if missed:
        _tell(f"Warning: version {version} failed its quality gate: {'; '.join(missed)}")


def _curl(runs: Path, state: states.State) -> str:
    header = "python -m serve token --header" + (f" --runs {shlex.quote(str(runs))}" if runs != RUNS else "")
    before, bearer = (f"{header} | ", " -H @-") if server.inference_token(state) else ("", "")
    asked = """-d '{"n": 5, "seed": 1}' -H 'Content-Type: application/json'"""
    return f"{before}curl -X POST {state.address}/predictions/{MODEL_NAME} {asked}{bearer}"


def _status_text(found: dict[str, Any]) -> str:
    lines = [f"{found['model']} at {found['address']} (process {found['pid']}), metrics at {found['metrics']}"]
    if found["stopping"]:
        lines.append(f"answers nobody any more: {server.STOPPING}")
    for version in found["versions"]:
        workers = ", ".join(f"{worker['pid']} {worker['status']}" for worker in version["workers"])
        queue = version["queue"]
        mark = "*" if version["default"] else " "
        lines.append(
            f"{mark} version {version['version']}, MLflow run {version['run_id'] or 'unknown'}, workers: {workers}, "
            f"queue: {queue['pendingRequests']} waiting, room for {queue['remainingCapacity']}"
            + "".join(f"\n    failed its quality gate: {reason}" for reason in version["missed"])
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code; an expected problem is one line on standard error."""
    try:
        code = cli.main(arguments, prog_name="python -m serve", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as problem:
        click.echo(problem.format_message())
        return WRONG_USAGE
    except click.ClickException as problem:
        return _fail(problem.format_message(), WRONG_USAGE)
    except UsageError as problem:
        return _fail(str(problem), WRONG_USAGE)
    except OSError as problem:
        return _fail(f"{problem.filename}: {problem.strerror}" if problem.filename else str(problem), WORK_FAILED)
    except ServeError as problem:
        return _fail(str(problem), WORK_FAILED)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", WORK_FAILED)
    except Exception as problem:
        if os.environ.get("LOOKALIKE_DEBUG"):
            raise
        message = f"{type(problem).__name__}: {problem}"
        return _fail(f"unexpected, please report it: {message} (LOOKALIKE_DEBUG=1 shows where)", WORK_FAILED)


def _fail(message: str, code: int) -> int:
    click.echo(f"Error: {' '.join(message.split())}", err=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
