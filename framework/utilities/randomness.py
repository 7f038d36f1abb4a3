"""Random numbers that do not depend on the number of processes, workers or restarts."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from framework.utilities.error_reason import reason_of

MERSENNE = 624
"""Words in the state of NumPy's generator, the Mersenne twister."""


def stable_seed(*key: int | str) -> int:
    """Return a 63-bit seed that is a function of ``key`` alone, the same in every process."""
    text = "\x1f".join(str(part) for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def global_seed() -> int:
    """Return the seed given to ``seed_everything``, or 0 if it was not called."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def capture_rng() -> dict[str, Any]:
    """Return the states of Python's, NumPy's, torch's and the current GPU's generator.

    Holds tensors and plain containers only, as checkpoints do.
    """
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, torch.tensor(internal, dtype=torch.int64), gauss],
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        **capture_torch_rng(),
    }


def capture_torch_rng() -> dict[str, Any]:
    """Return the states of the generators that networks draw from, as a part of ``capture_rng``."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
    }


def restore_rng(state: dict[str, Any]) -> None:
    """Set every generator to a state that ``capture_rng`` returned.

    Raises:
        ValueError: It is none; some generators may have been set.
    """
    try:
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal.tolist()), gauss))
        name, keys, position, has_gauss, cached = state["numpy"]
        if not 0 <= position <= MERSENNE:
            # NumPy would read on behind its state
            raise ValueError(f"NumPy's position is {position}")
        np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
        _restore_torch(state)
    except Exception as error:  # of many kinds, by which part is no state
        raise ValueError(
            f"The checkpoint's 'rng' is no state of generators: {reason_of(error)}."
        ) from None


def _restore_torch(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"].cpu())
    if torch.cuda.is_available() and (found := state["cuda"]):
        # those of earlier versions hold a state for each GPU that the process saw
        place = torch.cuda.current_device()
        torch.cuda.set_rng_state(found[place if place < len(found) else 0].cpu())


@contextmanager
def drawing_from(state: dict[str, Any]) -> Iterator[None]:
    """Draw from a captured state inside the block, and after it go on as before.

    Args:
        state: What ``capture_rng`` returned, or ``capture_torch_rng`` for torch's generators.
    """
    whole = "python" in state
    before = capture_rng() if whole else capture_torch_rng()
    restore = restore_rng if whole else _restore_torch
    restore(state)
    try:
        yield
    finally:
        restore(before)


@contextmanager
def seeded(*key: int | str) -> Iterator[None]:
    """Seed the global CPU generators by ``key`` inside the block and restore them after it.

    Lets third-party transforms, which draw from global generators, depend on (seed, epoch, index)
    alone.
    """
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed = stable_seed(*key)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # torch.manual_seed would also reseed CUDA, which the caller's step is using
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
