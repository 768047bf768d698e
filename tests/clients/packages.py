"""Client packages as their authors publish them, and the programs that drive them as processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.installed import needs, node, node_folder, python_folder, script_python, side_by_side, uv

HERE = Path(__file__).parent
PYTHON = HERE / "python"
NODE = ("node", "opencode", "continue")
SCRIPTS = tuple(
    f"use_{name}.py" for name in ("langchain", "litellm", "llm", "openai", "openai_agents", "pydantic_ai")
)
AIDER = "aider-chat==0.86.2"
RUN_S = 600.0


def install() -> None:
    """Install all that `-m clients` runs, side by side; skip with the reason where it cannot be."""

    def all_of_them() -> None:
        node()  # npm needs it
        side_by_side(*(lambda name=name: node_folder(HERE / name) for name in NODE), *_python())

    needs(all_of_them)


def _python() -> list[Any]:
    scripts = [lambda name=name: script_python(PYTHON / name) for name in SCRIPTS]
    return [*scripts, lambda: python_folder("aider", AIDER)]


def npm_packages(name: str) -> Path:
    """Return the node_modules that the lock in the folder `name` describes."""
    return needs(lambda: node_folder(HERE / name)) / "node_modules"


def aider() -> Path:
    """Return the program `aider`."""
    return needs(lambda: python_folder("aider", AIDER)) / "bin" / "aider"


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return PATH with our Node first, an empty HOME, and what reaches the package index."""
    home.mkdir(exist_ok=True)
    index = re.compile(r"(UV|PIP|SSL|REQUESTS|NODE_EXTRA)_.*|.*_proxy", re.IGNORECASE)
    kept = {key: value for key, value in os.environ.items() if index.fullmatch(key)}
    path = os.pathsep.join([str(node().parent), str(Path(uv()).parent), os.environ["PATH"]])
    return {**kept, "PATH": path, "HOME": str(home), "NO_COLOR": "1", **more}


def run_python(script: str, question: Mapping[str, Any], home: Path, **more: str) -> Any:
    """Run a script of the folder `python` with its own packages; return its line of JSON."""
    python = needs(lambda: script_python(PYTHON / script))
    return _answer([str(python), str(PYTHON / script), json.dumps(question)], home, more)


def run_node(script: str, question: Mapping[str, Any], home: Path, **more: str) -> Any:
    """Run a script of the folder `node`; return its line of JSON."""
    environment(home)
    (home / "node_modules").symlink_to(npm_packages("node"))  # imports are looked for beside the script
    shutil.copy(HERE / "node" / script, home)
    return _answer([str(node()), str(home / script), json.dumps(question)], home, more)


def _answer(command: list[str], home: Path, more: Mapping[str, str]) -> Any:
    done = subprocess.run(
        command,
        cwd=home,
        env=environment(home, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2_000:]}\n{done.stderr[-4_000:]}"
    return json.loads(done.stdout.splitlines()[-1])
