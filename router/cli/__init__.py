"""The command line; each group is a file of its own, imported when it is used."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any

import click

from router import __version__

_COMMANDS = {
    "serve": "router.cli.serve:serve",
    "explain": "router.cli.explain:explain",
    "catalog": "router.cli.catalog:catalog",
    "replay": "router.cli.replay:replay",
    "suggest": "router.cli.suggest:suggest",
    "logs": "router.cli.logs:logs",
    "top": "router.cli.top:top",
    "doctor": "router.cli.doctor:doctor",
    "keys": "router.cli.keys:keys",
    "ledger": "router.cli.payments:ledger",  # the group, with the commands of both files
    "wallet": "router.cli.wallet:wallet",
    "train": "router.cli.classifier:train",
    "evaluate": "router.cli.classifier:evaluate",
    "feedback": "router.cli.feedback:feedback",
    "completion": "router.cli.completion:completion",
    "init": "router.cli.init:init",
}


class _LazyGroup(click.Group):
    """Import a command when it is asked for, so that `router serve` does not pay for the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = _COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, name = target.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command; a name that is none is told with those it may have been meant for."""
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as fault:  # click itself proposes what was imported: nothing
            raise click.NoSuchCommand(fault.command_name, possibilities=_COMMANDS, ctx=ctx) from None

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run; a full disk and a terminal that is gone end a command with a line, as a closed pipe does."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            # What the terminal has no sign for is told by its number: it is no reason to tell nothing.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            return super().main(*args, **kwargs)
        except OSError as fault:
            if fault.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
            where = "" if fault.filename is None else f" ({fault.filename})"
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in the buffer fits nowhere
            with suppress(OSError):
                click.echo(f"Error: {fault.strerror}{where}", err=True)
            raise SystemExit(1) from None


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="router")
def main() -> None:
    """Route each LLM request to the catalog model that serves it best for the money.

    Shell completion for bash, zsh and fish: `router completion --help`.
    """
