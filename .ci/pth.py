"""Fail when an environment has what Python runs at every start and nobody knows: .pth files, sitecustomize.

python .ci/pth.py [FOLDER...]      by default the folders of this interpreter, which has run them by then
"""

import site
import sys
from pathlib import Path

# The one line of code that each may hold, by who makes it: setuptools, virtualenv.
CODE = {
    "distutils-precedence.pth": "import os; var = 'SETUPTOOLS_USE_DISTUTILS';"
    " enabled = os.environ.get(var, 'local') == 'local';"
    " enabled and __import__('_distutils_hack').add_shim();",
    "_virtualenv.pth": "import _virtualenv",
}
# The editable install of this project, by several installers: a folder, no code.
FOLDERS = {"_llm_router.pth", "llm_router.pth", "_editable_impl_llm_router.pth"}
STARTED = ("sitecustomize.py", "usercustomize.py")


def faults(folders: list[Path]) -> list[str]:
    """Return one line for each file that nobody knows, or that holds other code than it should."""
    found = []
    for folder in folders:
        found += [
            f"{folder / name}: Python runs it at every start" for name in STARTED if (folder / name).exists()
        ]
        for path in sorted(folder.glob("*.pth")):
            code = [
                line for line in path.read_text().splitlines() if line.startswith(("import ", "import\t"))
            ]
            if path.name not in CODE and path.name not in FOLDERS:
                found.append(f"{path}: not on the list of .ci/pth.py; which package put it there, and why?")
            elif any(line.strip() != CODE.get(path.name) for line in code):
                found.append(f"{path}: runs other code than the list of .ci/pth.py has")
    return found


if __name__ == "__main__":
    lines = faults([Path(name) for name in sys.argv[1:] or site.getsitepackages()])
    sys.stdout.write("".join(line + "\n" for line in lines))
    sys.exit(bool(lines))
