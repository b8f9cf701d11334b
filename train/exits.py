"""How commands end, those of serve too: every foreseen problem is one line on standard error, and an exit code."""

import os

import click

from train import SHOWN_SAFELY
from train.errors import interruptions_shown, is_out_of_memory

WORK_FAILED, WRONG_USAGE, GATE_FAILED = 1, 2, 3


def run(
    cli: click.Command,
    arguments: list[str] | None,
    *,
    name: str,
    mistake: type[Exception],
    failure: type[Exception],
) -> int:
    """Run one command and return its exit code.

    Args:
        name: what users call the program, such as "python -m train".
        mistake: the errors that users can correct.
        failure: the errors by which the work itself failed.
    """
    try:
        with interruptions_shown():
            code = cli.main(arguments, prog_name=name, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as problem:
        click.echo(problem.format_message())
        return WRONG_USAGE
    except click.ClickException as problem:
        return _fail(problem.format_message(), WRONG_USAGE)
    except mistake as problem:
        return _fail(str(problem), WRONG_USAGE)
    except OSError as problem:
        return _fail(f"{problem.filename}: {problem.strerror}" if problem.filename else str(problem), WORK_FAILED)
    except failure as problem:
        return _fail(str(problem), WORK_FAILED)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", WORK_FAILED)
    except Exception as problem:
        if os.environ.get("LOOKALIKE_DEBUG"):
            raise
        if is_out_of_memory(problem):
            return _fail("out of memory: free some, or use fewer rows or columns", WORK_FAILED)
        message = f"{type(problem).__name__}: {problem}"
        return _fail(f"unexpected error, please report it: {message} (LOOKALIKE_DEBUG=1 shows where)", WORK_FAILED)


def _fail(message: str, code: int) -> int:
    click.echo(f"Error: {' '.join(message.split()).translate(SHOWN_SAFELY)}", err=True)
    return code
