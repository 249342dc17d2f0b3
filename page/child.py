"""Commands of this project in processes of their own, wherever the page was started."""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent


def command(module: str, *arguments: str) -> list[str]:
    """The command line that calls `main()` of a module with these arguments.

    Imported, not run as `__main__`: what it pickles belongs to the module then.
    """
    start = f"import sys; sys.path.insert(0, {str(_ROOT)!r}); from {module} import main; main()"
    return [sys.executable, "-c", start, *arguments]
