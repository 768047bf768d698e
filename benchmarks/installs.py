"""Install the peers, pinned, into a cache folder; nothing of them ever enters this project's environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.site import Unavailable

INSTALL_S = 900


def cache() -> Path:
    """Return the folder that peers are kept in unless another is given."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-router-benchmarks"


def python_peer(peers: Path, package: str, version: str) -> Path:
    """Install a PyPI package into a virtual environment of its own; returns its python.

    Raises `Unavailable` when uv or the package cannot be had.
    """
    folder = peers / f"{package.partition('[')[0]}-{version}"
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.is_file():
        uv = _tool("uv", "install uv (https://docs.astral.sh/uv/)")
        _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], peers)
        _run([uv, "pip", "install", "--quiet", "--python", str(python), f"{package}=={version}"], peers)
        done.touch()
    return python


def files_of(peers: Path, package: str, version: str) -> Path:
    """Unpack a PyPI package alone, for its files; returns the folder. Raises `Unavailable`."""
    folder = peers / f"{package}-{version}-files"
    done = folder / "installed"
    if not done.is_file():
        uv = _tool("uv", "install uv (https://docs.astral.sh/uv/)")
        _run(
            [uv, "pip", "install", "--quiet", "--no-deps", "--target", str(folder), f"{package}=={version}"],
            peers,
        )
        done.touch()
    return folder


def node_peer(peers: Path, package: str, version: str, overrides: dict[str, str]) -> Path:
    """Install an npm package into a folder of its own, without install scripts; returns the package's folder.

    `overrides` replaces versions that it pins and that cannot be had. Raises `Unavailable`.
    """
    folder = peers / f"{package.rpartition('/')[2]}-{version}"
    done = folder / "installed"
    if not done.is_file():
        npm = _tool("npm", "install Node.js 20 or later with npm")
        folder.mkdir(parents=True, exist_ok=True)
        manifest = {"private": True, "dependencies": {package: version}, "overrides": overrides}
        (folder / "package.json").write_text(json.dumps(manifest))
        _run([npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--legacy-peer-deps"], folder)
        done.touch()
    return folder / "node_modules" / package


def debian_peer(program: str, package: str) -> str:
    """Find a program that only the distribution's packages bring; raises `Unavailable` with the package."""
    return _tool(program, f"apt-get install {package}")


def _tool(name: str, fix: str) -> str:
    # Debian's servers are in /usr/sbin, which is not on everybody's PATH.
    found = shutil.which(name) or shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise Unavailable(f"{name} is not installed: {fix}")
    return found


def _run(command: Sequence[str], folder: Path) -> None:
    """Run an installer outside any project, so that no project's settings reach it."""
    folder.mkdir(parents=True, exist_ok=True)
    environ = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=INSTALL_S,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"`{Path(command[0]).name}` did not end within {INSTALL_S} s") from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Unavailable(f"`{Path(command[0]).name} {command[1]}` failed: {' / '.join(said[-3:])[:400]}")
