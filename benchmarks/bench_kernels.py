"""The kernels' part of `gpu_check`: is every configuration right, and how fast is each operator beside PyTorch's?

fastplan bench kernels [--minutes 8] [--output FOLDER] [--tiny] [--allow-missing]
"""

import sys

from fastplan.benchmarks.gpu_check import __main__ as gpu_check


def main(argv: list[str] | None = None) -> int:
    """Stages `correct` and `ops`; arguments and exit status are those of `make gpu-check`."""
    given = sys.argv[1:] if argv is None else argv
    return gpu_check.main(["--stage", "correct", "--stage", "ops", *given])


if __name__ == "__main__":
    sys.exit(main())
