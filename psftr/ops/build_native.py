"""Compile the native CPU library: `python psftr/ops/build_native.py [FILE]`.

For developers and for wheels (setup.py); it is never called at run time. The compiler is $CC, or cc, or gcc. Only
the standard library is imported: building a wheel must not need PyTorch.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parent / "csrc" / "temporal_deform_attn.c"
LIBRARY = Path(__file__).parent / "_native" / "libpsftr_ops.so"
FLAGS = ["-std=gnu99", "-O3", "-shared", "-Wall", "-Wextra", "-Werror"]
# all Windows code can be moved, and a MinGW library is not to need MinGW's own at run time
FLAGS += ["-static-libgcc"] if sys.platform == "win32" else ["-fPIC", "-fvisibility=hidden"]


def source_hash() -> str:
    """Built into the library, and compared when it is loaded."""
    return hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]


def compiler() -> str | None:
    """Path of the C compiler, or None where there is none."""
    return shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")


def build(target: Path = LIBRARY) -> Path:
    """Compile the library to `target`; raises RuntimeError with the compiler's message."""
    command = compiler()
    if command is None:
        raise RuntimeError("no C compiler found: install one or set CC")
    target.parent.mkdir(parents=True, exist_ok=True)
    finished = target.with_name(f"{target.name}.{os.getpid()}")
    arguments = [*FLAGS, f'-DSOURCE_HASH="{source_hash()}"', "-o", str(finished), str(SOURCE)]
    result = subprocess.run([command, *arguments], capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{command} failed on {SOURCE.name}:\n{result.stderr}")
    finished.replace(target)  # a process that has loaded the old file keeps it
    return target


if __name__ == "__main__":
    print(build(*map(Path, sys.argv[1:2])))
