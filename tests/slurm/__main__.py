"""Runs the tests on a SLURM of their own: ``python -m tests.slurm [ARGUMENTS OF PYTEST]``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.slurm.cluster import UnavailableError, install, running


def main() -> int:
    """Return pytest's exit code, or 0 where SLURM cannot be had, which a line says."""
    # what was started is to be stopped then, too
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))
    # a short path, as sockets are made in it
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp") as folder:
        try:
            install()
            with running(Path(folder)) as config:
                environment = os.environ | {"SLURM_CONF": str(config)}
                named = any(argument.startswith("tests/") for argument in sys.argv[1:])
                folder_of_tests = [] if named else ["tests/slurm"]
                command = [sys.executable, "-m", "pytest", *folder_of_tests, *sys.argv[1:]]
                return subprocess.run(command, env=environment, check=False).returncode
        except UnavailableError as error:
            print(f"tests/slurm: skipped, as {error}")
            return 0


if __name__ == "__main__":
    sys.exit(main())
