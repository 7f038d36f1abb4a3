"""Every reader of the project: importing this fills the registry."""

from tests.hostile import (  # noqa: F401
    array_readers,
    face_readers,
    few_shot_readers,
    graph_readers,
    image_readers,
    run_readers,
    study_readers,
    tensor_readers,
    text_readers,
)
from tests.hostile.registry import READERS, Reader

__all__ = ["READERS", "Reader"]
