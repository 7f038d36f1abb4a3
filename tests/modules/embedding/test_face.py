"""The metric learner and the face embedder: what their parts get from one another."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from framework.embedding.heads import NormFaceHead
from framework.embedding.unpg import UNPG
from framework.objectives.errors import IncompatibleError
from modules.embedding import FaceEmbedder

SMALL = {"num_classes": 4, "input_shape": (3, 16, 16), "backbone": "conv4", "embedding_dim": 6}


def test_negatives_of_a_batch_have_the_scale_that_the_head_learned():
    head = partial(NormFaceHead, scale=4.0, learnable_scale=True)
    model = FaceEmbedder(**SMALL, head=head, negatives=UNPG())
    with torch.no_grad():
        model.head.log_scale.add_(1)
    image, label = torch.rand(6, 3, 16, 16), torch.tensor([0, 0, 1, 2, 3, 3])
    found = model.objectives({"image": image, "label": label})
    x = model(image)
    negatives, _ = UNPG()(x, label, scale=4 * torch.e)
    values, _ = model.head(x, label, negatives)
    torch.testing.assert_close(found.per_sample["classification"], values)


def test_a_backbone_is_not_clipped_where_a_fused_optimizer_unscales_its_gradient():
    optimizer = partial(torch.optim.SGD, lr=0.1, fused=True)
    trainer: Any = SimpleNamespace(precision="16-mixed", world_size=1, gradient_clip_val=None)
    model = FaceEmbedder(**SMALL, optimizer=optimizer)
    model._trainer = trainer
    with pytest.raises(IncompatibleError, match=r"model\.clip_backbone_norm=5\.0 cannot clip"):
        model.configure_optimizers()
    model.clip_backbone_norm = None
    model.configure_optimizers()
