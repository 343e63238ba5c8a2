"""Name the extra that brings a library which a command needs and which is not installed.

The plain installation has no PyTorch and no Flower. Where an import fails for that reason, `shell`
prints one line with the next step. The names come from the installed package's own metadata.
"""

import re

_LINE = re.compile(r"(?P<library>[\w.-]+).*;.*\bextra\s*==\s*[\"'](?P<extra>\w+)[\"']")


def explain_missing(error: ModuleNotFoundError) -> str:
    """Return one line that names a missing library and its extra; raises the error if no extra has it."""
    from importlib.metadata import PackageNotFoundError, requires  # ten milliseconds, and rarely needed

    library = (error.name or "").partition(".")[0].replace("_", "-")
    try:
        lines = requires("palate") or []
    except PackageNotFoundError:
        lines = []
    for found in filter(None, map(_LINE.match, lines)):
        if found["library"].replace("_", "-") == library:
            step = f"pip install 'palate[{found['extra']}]'"
            return f"this needs {library}, which is not installed; install it with: {step}"
    raise error
