"""Repeats tests under other kernels, numbers of threads and surroundings: `make test-portable`.

The numeric tests run once per kind of processor that the libraries can be told to be; a sample of
all tests runs once per kind of surroundings. Name some of them to run only those.

Example:
    python -m tests.portable nehalem cluster
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from torch.backends.cpu import get_cpu_capability

ROOT = Path(__file__).parents[1]
NUMERIC = ("tests/framework", "tests/modules")
QUICK = "not slow and not combination"
SHARE = 10  # one test in so many runs in each of the surroundings


def kernels(aten: str, onednn: str, mkl: str, openblas: str, threads: int) -> dict[str, str]:
    """Return the settings that make every library compute as on one kind of processor."""
    return {
        "ATEN_CPU_CAPABILITY": aten,
        "DNNL_MAX_CPU_ISA": onednn,
        "MKL_ENABLE_INSTRUCTIONS": mkl,
        "OPENBLAS_CORETYPE": openblas,
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        # threads that wait leave the core to the other tests
        "OMP_WAIT_POLICY": "PASSIVE",
    }


PROCESSORS = {
    "nehalem": kernels("default", "SSE41", "SSE4_2", "Nehalem", threads=1),
    "haswell": kernels("avx2", "AVX2", "AVX2", "Haswell", threads=2),
    "zen": kernels("avx2", "AVX2", "AVX2", "Zen", threads=3),
}
if get_cpu_capability() == "AVX512":
    PROCESSORS["skylakex"] = kernels("avx512", "AVX512_CORE", "AVX512", "SkylakeX", threads=3)


def cluster(folder: Path) -> dict[str, str]:
    """The shell of a scheduler's job, where `srun` is installed."""
    srun = folder / "srun"
    srun.touch(mode=0o755)
    return {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NAME": "train",
        "SLURM_LOCALID": "1",
        "SLURM_NODEID": "0",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1",
    }


def launcher(folder: Path) -> dict[str, str]:
    """The second process of a launcher, and a person's own settings of the loggers."""
    return {
        "RANK": "1",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "192.0.2.1",
        "MASTER_PORT": "1",
        "TRIMTAB_RUN_FOLDER": str(folder),
        "PL_GLOBAL_SEED": "7",
        "WANDB_MODE": "disabled",
        "WANDB_PROJECT": "another",
    }


def abroad(folder: Path) -> dict[str, str]:
    """Another language and time zone, and files that nobody else may read."""
    return {"LC_ALL": "C", "TZ": "Pacific/Chatham", "COLUMNS": "40"}


def homeless(folder: Path) -> dict[str, str]:
    """A home that cannot be written, as in many containers."""
    unset = dict.fromkeys(("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"), "")
    return {"HOME": "/dev/null", **unset}


SURROUNDINGS: dict[str, Callable[[Path], dict[str, str]]] = {
    "cluster": cluster,
    "launcher": launcher,
    "abroad": abroad,
    "homeless": homeless,
}


def run(selection: list[str], settings: Mapping[str, str], jobs: int, umask: int = -1) -> int:
    """Run pytest in a process of its own and return its exit code."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(jobs), "--dist=worksteal"]
    command += ["-p", "no:cacheprovider", "-p", "tests.helpers.sampling", *selection]
    environment = {"OMP_NUM_THREADS": "1", **os.environ, **settings}
    environment = {name: value for name, value in environment.items() if value}
    return subprocess.run(command, cwd=ROOT, env=environment, umask=umask, check=False).returncode


def main() -> int:
    """Run what is named, print a table, and return 1 if any of it failed."""
    names = [*PROCESSORS, *SURROUNDINGS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--jobs", type=int, default=2, help="Number of tests that run at once.")
    options = parser.parse_args()
    if unknown := set(options.names) - set(names):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(names)}.")
    table = []
    for number, name in enumerate(options.names):
        sys.stdout.write(f"\n== {name}\n")
        sys.stdout.flush()
        start = time.monotonic()
        if name in PROCESSORS:
            code = run([*NUMERIC, "-m", QUICK], PROCESSORS[name], options.jobs)
        else:
            sample = ["-m", QUICK, f"--shuffle={number}", f"--one-in={SHARE}"]
            umask = 0o077 if name == "abroad" else -1
            with tempfile.TemporaryDirectory() as folder:
                code = run(sample, SURROUNDINGS[name](Path(folder)), options.jobs, umask)
        table.append((name, code, time.monotonic() - start))
    sys.stdout.write("\n")
    for name, code, seconds in table:
        sys.stdout.write(f"{name:<10} {'failed' if code else 'passed'} {seconds:7.0f} s\n")
    return int(any(code for _, code, _ in table))


if __name__ == "__main__":
    raise SystemExit(main())
