"""`python -m fastplan`, which torchrun calls `-m fastplan`."""

import sys

from fastplan.cli import main

if __name__ == "__main__":
    sys.exit(main())
