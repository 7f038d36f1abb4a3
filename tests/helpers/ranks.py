"""One warm pair of processes for all tests that need two ranks.

Importing torch and Lightning takes seconds, so that is done once, and the pair is started once, at
its first use.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import multiprocessing as mp
import os
import pickle
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only

RANKS = 2
_END = b"end"
PRELOADED = ["sklearn.datasets", "tests.helpers.runs"]
"""What both ranks need is imported once, by the process that they are forked from."""


class RankError(RuntimeError):
    """A rank raised, died or did not answer; the message holds its traceback."""


class TwoRanks:
    """Calls a function on two ranks of a gloo group and returns both results.

    Inside, everything looks as under ``torchrun --nproc-per-node 2``, so that a Lightning Trainer
    with ``devices=2, strategy="ddp", accelerator="cpu"`` joins the group. After an error the pair
    is started afresh, as a rank may still wait in a collective of the failed call.

    Args:
        timeout: seconds that a call may take.

    Example:
        >>> from framework.distributed.collectives import rank
        >>> from tests.helpers.ranks import TwoRanks
        >>> two_ranks = TwoRanks()
        >>> two_ranks(rank)  # doctest: +SKIP
        [0, 1]
    """

    def __init__(self, timeout: float = 300.0) -> None:
        self.timeout = timeout
        self._processes: list[Any] = []
        self._connections: list[Connection] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        """Return ``[result of rank 0, result of rank 1]`` of ``function(*args, **kwargs)``.

        Args:
            function: at the top level of any module, also of a test module.
            *args: picklable; tensors are copied.
            **kwargs: likewise.

        Raises:
            RankError: a rank raised, died, or did not answer in time.
            ValueError: ``function`` stands inside another function.
        """
        if "<" in function.__qualname__:
            raise ValueError(f"{function.__qualname__} must stand at the top level of its module.")
        if not self._processes:
            self._start()
        file = getattr(sys.modules[function.__module__], "__file__", None)
        name = (function.__module__, file, function.__qualname__)
        job = pickle.dumps((name, pickle.dumps((args, kwargs))))
        try:
            for connection in self._connections:
                connection.send_bytes(job)
            return self._collect(self.timeout)
        except BaseException:
            self._kill()
            raise

    def _start(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        context = mp.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        for rank in range(RANKS):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, port, self._folder.name, theirs))
            process.start()
            theirs.close()
            self._processes.append(process)
            self._connections.append(ours)
        # before multiprocessing's own exit handler, which would wait for the pair for ever
        atexit.register(self.close)
        try:
            self._collect(self.timeout)
        except BaseException:
            self._kill()
            raise

    def _collect(self, timeout: float) -> list[Any]:
        """Return one answer of every rank; the first bad one counts."""
        results: dict[int, Any] = {}
        deadline = time.monotonic() + timeout
        while len(results) < RANKS:
            pending = [self._connections[r] for r in range(RANKS) if r not in results]
            ready = wait(pending, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                waiting = [r for r in range(RANKS) if r not in results]
                raise RankError(
                    f"No answer from rank {' and '.join(map(str, waiting))} within {timeout:g} s: "
                    "do all ranks take part in the same collectives?"
                )
            for connection in ready:
                rank = self._connections.index(connection)  # type: ignore[arg-type]
                try:
                    ok, payload = pickle.loads(self._connections[rank].recv_bytes())
                except (EOFError, ConnectionError):
                    self._processes[rank].join(5)
                    code = self._processes[rank].exitcode
                    raise RankError(f"Rank {rank} died with exit code {code}.") from None
                if not ok:
                    raise RankError(f"Rank {rank} raised:\n{payload}")
                results[rank] = payload
        return [results[rank] for rank in range(RANKS)]

    def close(self) -> None:
        """End the pair; it starts again at its next use."""
        for connection in self._connections:
            # a forked process may hold the other end open, so that closing it tells a rank nothing
            with suppress(OSError):
                connection.send_bytes(_END)
            connection.close()
        for process in self._processes:
            process.join(5)
        self._kill()

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        for connection in self._connections:
            connection.close()
        self._processes, self._connections = [], []
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        atexit.unregister(self.close)


def environment_of(rank: int, port: int) -> dict[str, str]:
    """Return the variables by which torchrun tells a process that it is one of two ranks."""
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "NODE_RANK": "0",
        "WORLD_SIZE": str(RANKS),
        "LOCAL_WORLD_SIZE": str(RANKS),
        "TORCHELASTIC_RUN_ID": "two-ranks",
    }


def _serve(rank: int, port: int, folder: str, connection: Connection) -> None:
    """Join the group as ``rank`` and work off what comes in, until the other end closes."""
    os.environ |= environment_of(rank, port)
    # Lightning was imported before it could read the rank
    rank_zero_only.rank = rank
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=(Path(folder) / "rendezvous").as_uri(),
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(minutes=10),
    )
    answer = pickle.dumps((True, None))
    while True:
        try:
            connection.send_bytes(answer)
            job = connection.recv_bytes()
        except (EOFError, ConnectionError):
            # no farewell to the group: the other rank may be gone
            os._exit(0)
        if job == _END:
            os._exit(0)
        try:
            (module, file, qualname), arguments = pickle.loads(job)
            function: Any = _load(module, file)
            for attribute in qualname.split("."):
                function = getattr(function, attribute)
            args, kwargs = pickle.loads(arguments)
            answer = pickle.dumps((True, function(*args, **kwargs)))
        except BaseException:
            answer = pickle.dumps((False, traceback.format_exc()))


def _load(name: str, file: str | None) -> ModuleType:
    """Return a module, also one that pytest imported from a file under a name of its own."""
    if name in sys.modules:
        return sys.modules[name]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if file is None or not name.startswith(error.name or "?"):
            raise
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
