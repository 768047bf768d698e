"""The command line; each group is a file of its own, imported when it is used."""

from __future__ import annotations

from importlib import import_module

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


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="router")
def main() -> None:
    """Route each LLM request to the catalog model that serves it best for the money.

    Shell completion: `eval "$(router completion bash)"` (or zsh, fish).
    """
