"""`router completion`: the script that lets a shell complete commands, options and their values."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_WHERE = {
    "bash": "echo 'eval \"$(router completion bash)\"' >> ~/.bashrc",
    "zsh": "echo 'eval \"$(router completion zsh)\"' >> ~/.zshrc",
    "fish": "mkdir -p ~/.config/fish/completions;"
    " router completion fish > ~/.config/fish/completions/router.fish",
}
# A .zshrc that nobody has written yet does not switch zsh's completion on.
_BEFORE = {"zsh": "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }\n"}


@click.command(epilog="\b\n" + "\n".join(f"{shell:<5} {line}" for shell, line in _WHERE.items()))
@click.argument("shell", type=click.Choice(list(_WHERE)))
def completion(shell: str) -> None:
    """Print the completion script of a shell. For bash it needs version 4.4 or newer."""
    found = get_completion_class(shell)
    if found is None:
        raise click.ClickException(f"no completion for {shell} in this version of click")
    root = click.get_current_context().find_root().command
    click.echo(_BEFORE.get(shell, "") + found(root, {}, "router", "_ROUTER_COMPLETE").source())
