"""The shells' own completion, asked in real shells; a name that is mistyped all the same."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import bare_environment, run_router


def with_router(folder: Path) -> dict[str, str]:
    """Return an environment with an empty HOME and the command `router`."""
    program = folder / "bin" / "router"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m router "$@"\n')
    program.chmod(0o755)
    environ = bare_environment(folder)
    return environ | {"PATH": f"{program.parent}:{environ['PATH']}"}


def completed(folder: Path, *words: str) -> set[str]:
    """Return what bash offers behind some words, the last of which is being written."""
    environ = with_router(folder)
    line = " ".join(f'"{word}"' for word in words)
    script = (
        'eval "$(router completion bash)"\n'
        f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}\n"
        f'_router_completion router "{words[-1]}" "{words[-2]}"\n'
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environ, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("router", "do"), {"doctor"}),
        (("router", "keys", ""), {"create", "list", "revoke", "topup"}),
        (("router", "serve", "--acc"), {"--access"}),
        (("router", "serve", "--log", ""), {"json", "text"}),
        (("router", "completion", ""), {"bash", "fish", "zsh"}),
    ],
)
def test_bash_offers_what_fits(tmp_path: Path, words: tuple[str, ...], offered: set[str]) -> None:
    assert completed(tmp_path, *words) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shells_script_is_one_of_its_language(tmp_path: Path, shell: str) -> None:
    done = run_router(tmp_path, "completion", shell)
    assert done.returncode == 0
    assert "_ROUTER_COMPLETE" in done.stdout
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} here")
    checked = subprocess.run([program, "-n"], input=done.stdout, text=True, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


# What an interactive shell says once its start-up files were read.
LOOKS = {
    "bash": ("complete -p router", "_router_completion"),
    "zsh": ("print $_comps[router]", "_router_completion"),
    "fish": ("complete --do-complete 'router doc'", "doctor"),
}


@pytest.mark.parametrize("shell", LOOKS)
def test_the_line_that_help_prints_works_in_an_empty_home(tmp_path: Path, shell: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} here")
    environ = with_router(tmp_path)
    said = run_router(tmp_path, "completion", "--help").stdout
    (line,) = re.findall(rf"^  {shell} +(.+)$", said, re.MULTILINE)
    subprocess.run([program, "-c", line], cwd=tmp_path, env=environ, check=True, timeout=60)
    look, found = LOOKS[shell]
    done = subprocess.run(
        [program, "-i", "-c", look],
        cwd=tmp_path,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        start_new_session=True,  # an interactive bash would ask for the terminal
    )
    assert found in done.stdout, done.stderr
    assert "not found" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("doctro", "No such command 'doctro'. Did you mean 'doctor'?"),
        ("key list", "No such command 'key'. Did you mean 'keys'?"),
        ("keys crate", "No such command 'crate'. Did you mean 'create'?"),
        ("logs --folow", "No such option '--folow'. Did you mean '--follow'?"),
        ("zzz", "No such command 'zzz'."),
    ],
)
def test_a_mistyped_name_is_told_with_what_was_meant(tmp_path: Path, words: str, said: str) -> None:
    done = run_router(tmp_path, *words.split())
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, f"Error: {said}")
