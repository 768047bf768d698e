"""Fail when an environment has a .pth file that is not on the list: Python runs what it says at every start.

python .ci/pth.py [FOLDER...]      by default the folders of this interpreter
"""

import site
import sys
from pathlib import Path

# Who makes them: setuptools, virtualenv and uv, the editable install of this project.
ALLOWED = {
    "distutils-precedence.pth",
    "_virtualenv.pth",
    "_llm_router.pth",
    "llm_router.pth",
    "_editable_impl_llm_router.pth",
}


def faults(folders: list[Path]) -> list[str]:
    """Return one line for each file that nobody knows, or that does more than name a folder."""
    found = []
    for folder in folders:
        for path in sorted(folder.glob("*.pth")):
            if path.name not in ALLOWED:
                found.append(f"{path}: not on the list of .ci/pth.py; which package put it there, and why?")
            elif "llm_router" in path.name and any(
                line.startswith(("import ", "import\t")) for line in path.read_text().splitlines()
            ):
                found.append(f"{path}: runs code; it should name a folder")
    return found


if __name__ == "__main__":
    lines = faults([Path(name) for name in sys.argv[1:] or site.getsitepackages()])
    sys.stdout.write("".join(line + "\n" for line in lines))
    sys.exit(bool(lines))
