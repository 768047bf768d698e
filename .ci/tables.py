"""Write the tables of docs/operations.md that the code knows better: metrics and settings.

python .ci/tables.py           write them anew
python .ci/tables.py --check   fail when they are not as they would be written
"""

import re
import sys
from pathlib import Path

from router.settings import Settings
from router.telemetry import families

PAGE = Path("docs/operations.md")


def settings_table() -> str:
    """Return every setting with its default and what it is."""
    rows = ["| variable | default | |", "|---|---|---|"]
    for name, setting in Settings.model_fields.items():
        shown = _shown(setting.default)
        text = (setting.description or "").replace("|", "\\|")
        rows.append(f"| `ROUTER_{name.upper()}` | {shown} | {text} |")
    return "\n".join(rows)


def _shown(default: object) -> str:
    if default is None or default in ((), {}):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{','.join(default)}`" if isinstance(default, tuple) else f"`{default}`"


TABLES = {"metrics": families.table, "settings": settings_table}


def written(text: str) -> str:
    """Return the page with its tables as the code has them now."""
    for name, table in TABLES.items():
        block = re.compile(
            rf"(<!-- {name}: written by .ci/tables.py -->\n).*?(\n<!-- end of {name} -->)", re.DOTALL
        )
        text, found = block.subn(lambda match, table=table: f"{match[1]}{table()}{match[2]}", text)
        if found != 1:
            raise SystemExit(f"{PAGE} has {found} places for the table of {name}, it should have one")
    return text


if __name__ == "__main__":
    old = PAGE.read_text()
    new = written(old)
    if sys.argv[1:] != ["--check"]:
        PAGE.write_text(new)
    elif old != new:
        sys.exit(f"{PAGE} is not what the code says: python .ci/tables.py writes it anew")
