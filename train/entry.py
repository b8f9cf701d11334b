"""How a command of training begins: its streams, its log lines beside the progress bar, and its signals."""

import _thread
import contextlib
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import click
from tqdm import tqdm

from train import exits
from train.errors import InputError, JobError
from train.processes import end_with_the_first

PRINT_JSON = {"--json", "--dry-run"}  # options whose answer is all of standard output
AGAIN_SECONDS = 0.05  # a finalizer is over by then


def run(cli: click.Command, arguments: list[str] | None) -> int:
    """Run one command and return its exit code."""
    _open_streams()
    end_with_the_first()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is half-written is removed, as by Ctrl-C
    log = logging.getLogger("lookalike")
    log.setLevel(logging.DEBUG)  # the run's log file takes everything
    given = sys.argv if arguments is None else arguments
    console = BesideTheBar(json_alone=not PRINT_JSON.isdisjoint(given))
    log.addHandler(console)
    try:
        with _interruptions_kept():
            return exits.run(cli, arguments, name="python -m train", mistake=InputError, failure=JobError)
    finally:
        log.removeHandler(console)


class BesideTheBar(logging.Handler):
    """Prints log lines without tearing the progress bar, to standard error if standard output is for JSON alone."""

    def __init__(self, *, json_alone: bool = False) -> None:
        super().__init__(logging.INFO)
        self.json_alone = json_alone

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if self.json_alone else sys.stdout
        try:
            tqdm.write(self.format(record), file=stream)
        except OSError:  # nobody reads any more (| head), or the disk is full: a run's log.txt has it all
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())  # not a new stream: Python would still flush the old one at its end
            os.close(nowhere)


def _open_streams() -> None:
    """Give a process that was started without standard output or error (2>&-) ones that swallow all.

    Else the next files to be opened would take their descriptors, and get what libraries print there; and tqdm's lock
    would be held for ever. Characters that the terminal's encoding lacks are escaped: they must not end a job.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - it stays open
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def _interruptions_kept() -> Iterator[None]:
    """Python drops an interruption that comes during a finalizer; here it comes again when that is over."""
    again: list[threading.Timer] = []
    before = sys.unraisablehook

    def hook(problem: "sys.UnraisableHookArgs") -> None:
        if not issubclass(problem.exc_type, KeyboardInterrupt):
            before(problem)
            return
        number = signal.SIGTERM if signal.getsignal(signal.SIGINT) == signal.SIG_IGN else signal.SIGINT
        again.append(threading.Timer(AGAIN_SECONDS, _thread.interrupt_main, [number]))
        again[-1].start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
        for timer in again:
            timer.cancel()
