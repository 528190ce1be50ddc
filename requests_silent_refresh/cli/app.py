"""The ``silent-refresh`` command: its subcommands, and how errors become exit codes."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import IO, Any

import click

from . import exits

_COMMANDS = {
    "sign-in": ("sign_in", "Sign in to a profile, creating it if needed."),
    "status": ("status", "Show the profiles and their sessions."),
    "token": ("session", "Print the current access token, refreshed if needed."),
    "refresh": ("session", "Refresh a profile's token now."),
    "sign-out": ("session", "Revoke a profile's tokens and wipe them."),
    "import": ("import_tokens", "Read tokens from standard input into a profile."),
    "providers": ("providers", "Show what is known about authorization servers."),
    "rotate-key": ("keys", "Encrypt a profile's tokens with a new key."),
    "doctor": ("doctor", "Check a profile for problems."),
    "demo": ("demonstration", "Watch threads work through expiring tokens."),
    "completion": ("completion", "Print the shell completion script."),
}


class _Lazy(click.Group):
    """A group that imports a command's module only when the command runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f".{_COMMANDS[cmd_name][0]}", __package__)
        command: click.Command = getattr(
            module, cmd_name.replace("-", "_").replace("import", "import_")
        )
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


def _show_version(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    if not wanted or context.resilient_parsing:
        return
    from importlib import metadata

    try:
        version = metadata.version("requests-silent-refresh")
    except metadata.PackageNotFoundError:
        version = "(not installed)"
    click.echo(f"silent-refresh, version {version}")
    context.exit()


@click.group(
    cls=_Lazy,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=(
        "Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 signed out, 4 wrong set-up, "
        "5 try again later, 6 sign-in not completed, 130 interrupted."
    ),
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
@click.option("--verbose", "-v", is_flag=True, help="Log each step to standard error.")
@click.pass_context
def app(context: click.Context, verbose: bool) -> None:
    """Sign in once; every script on this machine just works."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
    logger = logging.getLogger("requests_silent_refresh")
    if verbose:
        logging.basicConfig(format="%(levelname)s %(message)s")
        logger.setLevel(logging.DEBUG)
    else:
        logger.addHandler(logging.NullHandler())  # the error itself says what matters


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code. An expected failure prints one line to stderr."""
    try:
        code = app.main(list(arguments), prog_name="silent-refresh", standalone_mode=False)
    except click.UsageError as error:
        command = "silent-refresh" if error.ctx is None else error.ctx.command_path
        message = " ".join(error.format_message().split()).rstrip(".")
        click.echo(f"silent-refresh: {message}: see {command} --help", err=True)
        return exits.USAGE
    except click.ClickException as error:
        click.echo(exits.line_for(error), err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("silent-refresh: interrupted: nothing was changed", err=True)
        return exits.INTERRUPTED
    except (OSError, ValueError, ImportError) as error:  # includes requests' errors and ours
        click.echo(exits.line_for(error), err=True)
        return exits.code_for(error)
    return code if isinstance(code, int) else exits.DONE


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C while the body changes files. Outside the main thread this does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def is_terminal(stream: IO[Any] | None = None) -> bool:
    """Return whether ``stream`` (standard error by default) is a terminal."""
    stream = stream or sys.stderr
    return stream is not None and stream.isatty()
