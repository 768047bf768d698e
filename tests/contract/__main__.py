"""Ask a real router what its OpenAPI document allows and forbids; exit 1 for a 5xx or a false promise.

    python -m tests.contract --examples 500     a full run: so many examples an operation
    python -m tests.contract --seconds 30       as CI does

The demo provider answers, so nothing is called and nothing costs. The admin routes are on and asked too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.serving import serve

ADMIN = "a key for the contract's requests alone"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.contract",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--seconds", type=int)
    given = parser.parse_args()
    return run(given.examples, given.seconds)


def run(examples: int, seconds: int | None) -> int:
    """Serve and ask; returns the exit status of schemathesis."""
    with tempfile.TemporaryDirectory(prefix="contract-") as name:
        folder = Path(name)
        with serve(folder, "--demo", ROUTER_ADMIN_KEY=ADMIN, ROUTER_DECISION_LOG_MIB="0") as router:
            router._watchdog.cancel()  # a full run takes longer than a test may
            router.read_until("ready")
            router.drain()
            origin = f"http://127.0.0.1:{router.port}"
            public, operators = ("--exclude-path-regex", "^/admin"), ("--include-path-regex", "^/admin")
            as_admin = ("--header", f"Authorization: Bearer {ADMIN}")
            return max(
                ask(folder, origin, examples, seconds, *public),
                ask(folder, origin, examples, seconds, *operators, *as_admin),
            )


def ask(folder: Path, origin: str, examples: int, seconds: int | None, *more: str) -> int:
    """Ask one part of the routes, all of them with the same rights; returns the exit status."""
    command = [
        *(Path(sys.executable).with_name("schemathesis"), "run", f"{origin}/openapi.json"),
        *("--url", origin, "--max-examples", str(examples), "--checks", CHECKS),
        *("--phases", "examples,coverage,fuzzing", "--mode", "all", "--no-color"),
        *("--suppress-health-check", "all", "--request-timeout", "20", "--seed", "1"),
        *("--continue-on-failure", "--warnings", "off"),
        *(("--max-time", str(seconds)) if seconds is not None else ()),
        *more,
    ]
    return subprocess.run(command, cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
