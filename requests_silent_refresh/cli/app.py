"""The ``silent-refresh`` command: its subcommands, and how errors become exit codes."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from importlib import import_module

import click

from ..errors import printable
from ..system.foreign import account_of
from . import exits
from .output import say

logger = logging.getLogger("requests_silent_refresh")

_COMMANDS = {
    "sign-in": ("sign_in", "Sign in to a profile, creating it if needed."),
    "status": ("status", "Show the profiles and their sessions."),
    "token": ("session", "Print the current access token, refreshed if needed."),
    "refresh": ("session", "Refresh a profile's token now."),
    "sign-out": ("session", "Revoke a profile's tokens and wipe them."),
    "import": ("import_tokens", "Read tokens from standard input into a profile."),
    "providers": ("providers", "Show what is known about authorization servers."),
    "rotate-key": ("keys", "Encrypt a profile's tokens with a new key."),
    "settings": ("places", "Print a profile's settings, and change them."),
    "move": ("places", "Move a profile's session to another store."),
    "reset": ("places", "Move tokens aside that cannot be read any more."),
    "doctor": ("doctor", "Check a profile for problems."),
    "demo": ("demonstration", "Watch threads work through expiring tokens."),
    "completion": ("completion", "Print the shell completion script."),
}


class _OneLine(logging.Formatter):
    """Writes a record as one line, without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _log_to_stderr(context: click.Context, option: click.Parameter, wanted: bool) -> None:
    if wanted:
        handler = logging.StreamHandler()
        handler.setFormatter(_OneLine("%(levelname)s %(message)s"))
        logging.basicConfig(handlers=[handler])
        logger.setLevel(logging.DEBUG)


_VERBOSE = click.Option(
    ["--verbose", "-v"],
    is_flag=True,
    expose_value=False,
    callback=_log_to_stderr,
    help="Log each step to standard error.",
)


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
        if cmd_name != "demo" and _VERBOSE not in command.params:  # demo parses its own
            command.params.append(_VERBOSE)
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
    say(f"silent-refresh, version {version}")
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
@click.pass_context
def app(context: click.Context) -> None:
    """Sign in once; every script on this machine just works."""
    if context.invoked_subcommand is None:
        say(*context.get_help().splitlines())


app.params.append(_VERBOSE)


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code. A failure prints one line to stderr."""
    logger.addHandler(logging.NullHandler())  # without -v, the error itself says what matters
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: logger.warning("%s", message)
        try:
            code = app.main(list(arguments), prog_name="silent-refresh", standalone_mode=False)
        except click.UsageError as error:
            command = "silent-refresh" if error.ctx is None else error.ctx.command_path
            message = " ".join(error.format_message().split()).rstrip(".")
            return _failed(f"{message}: see {command} --help", exits.USAGE)
        except click.ClickException as error:
            return _failed(error, error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            return _failed("interrupted: nothing was changed", exits.INTERRUPTED)
        except (OSError, ValueError, ImportError) as error:  # includes requests' errors and ours
            return _failed(error, exits.code_for(error))
        except Exception as error:  # noqa: BLE001 (a traceback helps nobody at a terminal)
            return _failed(f"unexpected {account_of(error)}: please report it", exits.FAILED)
    return code if isinstance(code, int) else exits.DONE


def _failed(what: object, code: int) -> int:
    say(exits.line_for(what), err=True)
    return code


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
