"""A module in a Python process of its own, which finds every package where this process does.

`python -m` would look into the working folder first: a source checkout there holds another `fastplan`, without the
parts that lie beside it until they are installed.
"""

import json
import sys

_PROGRAM = """
import json, runpy, sys
sys.path[:] = json.loads(sys.argv.pop(1))
try:
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
except KeyboardInterrupt:
    sys.exit(130)
"""


def module_command(module: str, *words: str) -> list[str]:
    """The command that runs `module` as a program; interrupted, that ends with status 130 and says nothing."""
    return [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), module, *words]
