"""``hangwatch completion``: the shell's part of completing commands, options and ids."""

from __future__ import annotations

from typing import Any

import click

from hangwatch.errors import HangwatchError

VARIABLE = "_HANGWATCH_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> int:
    """Print what makes the shell complete commands, options and incident ids.

    \b
    eval "$(hangwatch completion bash)"                                        in ~/.bashrc
    eval "$(hangwatch completion zsh)"                                         in ~/.zshrc
    hangwatch completion fish > ~/.config/fish/completions/hangwatch.fish
    """
    click.echo(_script(context.find_root().command, shell))
    return 0


def _script(cli: click.Command, shell: str) -> str:
    """Click 8 has a public class for each shell, click 7 a private function."""
    try:
        from click.shell_completion import get_completion_class
    except ImportError:
        from importlib import import_module

        old: Any = import_module("click._bashcomplete")
        return str(old.get_completion_script("hangwatch", VARIABLE, shell))
    found = get_completion_class(shell)
    if found is None:
        raise HangwatchError(f"click knows no completion for {shell}")
    try:
        return found(cli, {}, "hangwatch", VARIABLE).source()
    except RuntimeError as error:  # a bash too old, or none
        raise HangwatchError(f"no completion: {error}", "Bash 4.4 or later has it.") from None
