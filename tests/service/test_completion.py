"""The shells' own completion, asked in real shells."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving import bare_environment, run_router


def completed(folder: Path, *words: str) -> set[str]:
    """Return what bash offers behind some words, the last of which is being written."""
    program = folder / "bin" / "router"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m router "$@"\n')
    program.chmod(0o755)
    environ = bare_environment(folder)
    environ["PATH"] = f"{program.parent}:{environ['PATH']}"
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
