"""Fail when a module of the product passes 400 lines or a function 60."""

import ast
import sys
from pathlib import Path

MODULE_LINES = 400
FUNCTION_LINES = 60


def faults() -> list[str]:
    """Return one line for everything that is too long."""
    found = []
    for path in sorted(Path("router").rglob("*.py")):
        text = path.read_text()
        if (lines := len(text.splitlines())) > MODULE_LINES:
            found.append(f"{path}: {lines} lines, at most {MODULE_LINES}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                length = node.end_lineno - node.lineno + 1
                if length > FUNCTION_LINES:
                    where = f"{path}:{node.lineno}: {node.name}"
                    found.append(f"{where} has {length} lines, at most {FUNCTION_LINES}")
    return found


if __name__ == "__main__":
    lines = faults()
    sys.stdout.write("".join(line + "\n" for line in lines))
    sys.exit(bool(lines))
