"""The ``fgan`` command: its subcommands, and the exit code and message of every failure.

Exit codes: 0 success; 2 usage or configuration; 3 data; 4 checkpoint or run; 5 device,
memory, missing compiler or extra; 6 diverged; 7 files and disk; 129, 130 and 143 after
SIGHUP, SIGINT and SIGTERM; 1 only for a bug in fgan. Results go to stdout, everything else
to stderr.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import traceback
import warnings
from typing import Annotated

import typer

import fgan
from fgan.compile import environment
from fgan.errors import Elsewhere, FganError, Interrupted

from .bench import bench
from .diagnose import diagnose
from .doctor import doctor
from .evaluate import evaluate
from .export import export
from .inspect import inspect
from .interpolate import interpolate
from .networks import networks
from .project import project
from .recipes import recipes
from .report import report
from .reproduce import reproduce
from .sample import sample
from .streams import print_every_name
from .train import ending, train

app = typer.Typer(
    name="fgan",
    help="Train GANs with one pure, compiled minimax step.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with:  fgan train mnist --arch mlp --compile",
)
for command in (
    train, sample, interpolate, project, export, evaluate, diagnose, report, recipes, reproduce,
    networks, inspect, doctor, bench,
):  # fmt: skip
    app.command()(command)


def _version(value: bool) -> None:
    if value:
        print(f"fgan {fgan.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and end the process."""
    _open_what_is_closed()
    print_every_name()
    environment.before_torch()
    for number in ending():
        signal.signal(number, _interrupt)
    if os.environ.get("FGAN_DEBUG") == "1":
        logging.basicConfig()
        logging.getLogger("fgan").setLevel(logging.INFO)
    # These warnings announce changes inside PyTorch; a user of the command cannot act on them.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")
    try:
        code = app(prog_name="fgan", standalone_mode=False)
        if not code:
            sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except Interrupted as stop:
        code = stop.exit_code
    except BrokenPipeError:  # the reader of our output has gone
        code = 0
    except SystemExit as end:  # typer turns a broken pipe into this
        code = 0 if isinstance(end.__context__, BrokenPipeError) else end.code
    except (Exception, typer.Abort) as error:
        code = _report(error)
    gc.enable()  # `fgan train` turns it off until its first step
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # nobody reads it; flushing again at exit would end with 120
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code if isinstance(code, int) else 0)


def _open_what_is_closed() -> None:
    """Open closed standard streams on the null device; else the next file takes their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def _interrupt(number: int, frame: object) -> None:
    raise Interrupted(number)


def _out_of_memory(error: BaseException) -> bool:
    # Name and text decide, because importing torch for its classes takes a second.
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "can't allocate memory" in str(error)


def _report(error: BaseException) -> int:
    """Print the problem and its fix, and return the exit code.

    Rank 0 prints an error that all processes of torchrun meet, such as a wrong option. Another rank
    prints an error that it alone has met, which has the attribute ``speaks``.
    """
    if isinstance(error, Elsewhere):
        return error.exit_code
    if os.environ.get("FGAN_DEBUG") == "1":
        traceback.print_exception(error)
    if isinstance(error, FganError):
        problem, fix, code = error.problem, error.fix, error.exit_code
    elif hasattr(error, "format_message"):  # typer raised it: an option is unknown or malformed
        command = getattr(getattr(error, "ctx", None), "command_path", "fgan")
        problem, fix, code = error.format_message(), f"See `{command} --help`.", 2
        if not problem:  # there were no arguments, and the help was shown
            return 2
    elif _out_of_memory(error):
        problem, code = f"There is not enough memory: {str(error).splitlines()[0]}", 5
        fix = "Use a smaller --batch-size or smaller networks."
    elif isinstance(error, OSError):
        what = error.filename or "A file, or standard output,"
        problem, code = f"{what} cannot be used: {error.strerror or error}.", 7
        fix = "Check the path, the free space and the permissions."
    else:
        problem = f"fgan failed unexpectedly: {type(error).__name__}: {error}"
        fix = "Run again with FGAN_DEBUG=1 and report what it prints."
        code = 1
    if os.environ.get("RANK", "0") != "0" and not getattr(error, "speaks", False):
        return code
    with contextlib.suppress(OSError):  # nobody reads it
        print(f"error: {problem}\nfix: {fix}", file=sys.stderr)
    return code
