"""Small C++ sources of ours, compiled for the processor at hand and loaded into this process."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path

# without contraction a product and a sum are rounded once only where the source says so; the last
# two change no result, and let loops with comparisons be vectorized
_FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fPIC"),
    *("-ffp-contract=off", "-fno-trapping-math", "-fno-math-errno"),
)


def compile_library(package: str, name: str, macros: Sequence[str] = ()) -> ctypes.CDLL:
    """Compile a source file of a package and load it, which takes a second or two.

    The code is that of this process alone, and what was compiled is gone from the disk when it is
    loaded. Loops run on torch's own OpenMP threads where the compiler has OpenMP.

    Args:
        package: Package that holds the source file.
        name: Name of the source file, ending in ``.cpp``.
        macros: Macros, such as ``FUSED=1``.

    Raises:
        RuntimeError: There is no C++ compiler, it fails, or what it made cannot be loaded.

    Example:
        >>> library = compile_library(
        ...     "framework.optim", "lion_kernel.cpp", ["FUSED=0"]
        ... )  # doctest: +SKIP
    """
    # such as "ccache g++ -m64"
    compiler = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    if shutil.which(compiler[0]) is None:
        raise RuntimeError(
            f"{name} needs a C++ compiler, and there is no {compiler[0]!r} on this machine: "
            "install one, or name it in the variable CXX."
        )
    with tempfile.TemporaryDirectory() as folder, as_file(files(package) / name) as source:
        built, library = Path(folder) / "code.o", Path(folder) / "code.so"
        flags = [*_FLAGS, *(f"-D{macro}" for macro in macros)]
        compiling = [*compiler, *flags, "-c", str(source), "-o", str(built)]
        linking = [*compiler, "-shared", str(built), "-o", str(library)]
        try:
            # linked without OpenMP, whose threads are then those that torch has loaded
            _run([*compiling, "-fopenmp"], name)
            _run(linking, name)
            return ctypes.CDLL(str(library))
        except (OSError, RuntimeError):
            _run(compiling, name)
            _run(linking, name)
        try:
            return ctypes.CDLL(str(library))
        except OSError as error:
            raise RuntimeError(
                f"{name} was compiled but cannot be loaded ({error}): let TMPDIR name a folder "
                "from which programs may run."
            ) from error


def _run(command: list[str], name: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        fault = next((line for line in said if "error" in line), said[0])
        raise RuntimeError(f"The C++ compiler {command[0]!r} cannot compile {name}: {fault}")
