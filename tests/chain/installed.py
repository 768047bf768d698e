"""The real parts of the payment tests: npm packages and Python scripts, pinned and installed once.

npm's are kept below the user's cache folder under a hash of what was asked for; the Python ones by uv.
Neither is in the project's own environment.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SCRIPTS = HERE / "scripts"
TRIES = 3
INSTALL_S = 300.0


class NotInstalled(Exception):
    """What the tests need is not here and could not be installed."""


def needs(install: Callable[[], Path]) -> Path:
    """Return what `install` does; where it cannot, skip with its reason, but not in CI."""
    try:
        return install()
    except NotInstalled as fault:
        if os.environ.get("CI"):
            pytest.fail(str(fault))
        pytest.skip(str(fault))


def node_folder(name: str) -> Path:
    """Return the folder with the `node_modules` of `tests/chain/NAME`, installed when it is not there."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        raise NotInstalled("no npm and node here (Debian: apt-get install nodejs npm)")
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise NotInstalled("the anvil that is pinned here is for Linux on x86_64")
    source = HERE / name
    asked = [source / part for part in ("package.json", "package-lock.json", ".npmrc")]
    known = hashlib.sha256(b"\0".join(path.read_bytes() for path in asked)).hexdigest()[:16]
    folder = _cache() / f"{name}-{known}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix="new-") as made:
            new = Path(made) / name
            new.mkdir()
            for path in asked:
                shutil.copy(path, new)
            _tried(["npm", "ci", "--loglevel=error"], new)
            _keep(new, folder)
    return folder


def script_python(script: Path) -> Path:
    """Return the interpreter of an environment, kept by uv, with what the script's head asks (PEP 723)."""
    if shutil.which("uv") is None:
        raise NotInstalled("no uv here: pip install uv")
    sync = ["uv", "sync", "--quiet", "--script", str(script), "--python", sys.executable]
    try:
        _run([*sync, "--offline"], script.parent)  # what is there already needs no index
    except subprocess.CalledProcessError:
        _tried(sync, script.parent)
    return Path(_run(["uv", "python", "find", "--script", str(script)], script.parent).stdout.strip())


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "llm-router-tests"


def _keep(new: Path, folder: Path) -> None:
    try:
        new.rename(folder)
    except OSError:
        if not folder.exists():  # another run may have put the same there meanwhile
            raise


def _tried(command: list[str], cwd: Path) -> None:
    for left in reversed(range(TRIES)):
        try:
            _run(command, cwd)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as fault:
            if not left:
                said = (fault.stderr or "no answer in time")[:500]
                raise NotInstalled(f"{' '.join(command)} failed {TRIES} times: {said}") from fault
            time.sleep(TRIES - left)  # for what the network may fail
        else:
            return


def _run(command: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=INSTALL_S,
        check=True,
    )
