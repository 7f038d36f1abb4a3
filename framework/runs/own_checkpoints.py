"""Which of the files that a checkpoint names are those of its own run."""

from __future__ import annotations

import os
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint


def own_checkpoints(callback: ModelCheckpoint, state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a checkpoint callback without the files that are not in its folder.

    Lightning removes what a state names when something better comes. A checkpoint may be anybody's,
    so that only files that end in ``.ckpt`` and lie directly in the callback's folder are kept.

    Args:
        callback: Callback that the state is for; its folder is known.
        state: State as it was read.
    """
    kept = dict(state)
    scores = state.get("best_k_models")
    if isinstance(scores, dict):
        own = {path: score for path, score in scores.items() if _is_own(path, callback.dirpath)}
        kept["best_k_models"] = own
        if state.get("kth_best_model_path") not in own:
            choose = max if callback.mode == "min" else min
            worst = choose(own, key=lambda path: float(own[path])) if own else ""
            kept["kth_best_model_path"] = worst
            kept["kth_value"] = own[worst] if own else callback.kth_value
    for name in ("best_model_path", "last_model_path"):
        if name in state and not _is_own(state[name], callback.dirpath):
            kept[name] = ""
    return kept


def follow_moved_run(
    callback: ModelCheckpoint, state: dict[str, Any], loaded: str | os.PathLike[str]
) -> dict[str, Any]:
    """Return the state of a checkpoint callback with the paths that a moved run's files have now.

    Lightning would forget which file is the best one, and write over it with a worse one.

    Args:
        callback: Callback that the state is for; its folder is known.
        state: State as it was read.
        loaded: Checkpoint that it was read from; only one in the callback's folder was moved along.
    """
    before, folder = state.get("dirpath"), callback.dirpath
    here = folder and os.path.realpath(os.path.dirname(loaded)) == os.path.realpath(folder)
    if not here or not isinstance(before, str) or before == str(folder):
        return state

    def moved(path: object) -> object:
        inside = isinstance(path, str) and os.path.dirname(path) == before
        return os.path.join(str(folder), os.path.basename(str(path))) if inside else path

    new = {**state, "dirpath": folder}
    for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
        if name in state:
            new[name] = moved(state[name])
    if isinstance(scores := state.get("best_k_models"), dict):
        new["best_k_models"] = {moved(path): score for path, score in scores.items()}
    return new


def _is_own(path: object, folder: Any) -> bool:
    if not isinstance(path, str) or not path.endswith(".ckpt") or "\0" in path or not folder:
        return False
    folder = str(folder)
    if "://" in folder:
        return path.rpartition("/")[0] == folder.rstrip("/")
    folder = os.path.realpath(folder)
    parent = os.path.dirname(path)
    # a link in it may lead anywhere
    return os.path.realpath(parent) == folder == os.path.dirname(os.path.realpath(path))
