"""What the compiler made of a kernel: the tools in Triton's wheel, read."""

import bisect
import itertools
import re
import struct
import subprocess
import tempfile
from pathlib import Path

import triton

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def disassemble(cubins: list[bytes], arch: int) -> list[str]:
    """The instructions of each cubin, one a line.

    Of all together, as one run of machine code: nvdisasm takes half a second to begin, more than most of these kernels
    take to be compiled.
    """
    codes = [_code(cubin) for cubin in cubins]
    with tempfile.NamedTemporaryFile(suffix=".bin") as file:
        file.write(b"".join(codes))
        file.flush()
        listing = tool("nvdisasm", "--binary", f"SM{arch}a" if arch >= 90 else f"SM{arch}", file.name)
    instructions = re.findall(r"^\s*/\*([0-9a-f]+)\*/\s+(.*;)", listing, re.MULTILINE)
    assert len(instructions) == sum(map(len, codes)) // 16, "an instruction has 16 bytes"
    ends = list(itertools.accumulate(map(len, codes)))
    lines: list[list[str]] = [[] for _ in cubins]
    for at, instruction in instructions:
        lines[bisect.bisect_right(ends, int(at, 16))].append(instruction)
    return ["\n".join(each) for each in lines]


def _code(cubin: bytes) -> bytes:
    """The machine code in an ELF file: what its sections .text and .text.NAME hold."""
    at, size, count, names = struct.unpack_from("<40xQ10xHHH", cubin)
    headers = [struct.unpack_from("<I20xQQ", cubin, at + number * size) for number in range(count)]
    _, strings, _ = headers[names]
    return b"".join(
        cubin[begin : begin + length]
        for name, begin, length in headers
        if re.match(rb"\.text[.\0]", cubin[strings + name : strings + name + 6])
    )


def tool(name: str, *arguments: str) -> str:
    """What `nvdisasm` or `cuobjdump` prints. Raises `CalledProcessError` where it fails."""
    return subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, check=True).stdout
