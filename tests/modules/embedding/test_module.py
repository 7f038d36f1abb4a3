"""Embedders: their terms, what they are evaluated by, and heads of which ranks hold parts."""

from __future__ import annotations

import math

import pytest
import torch
from lightning.pytorch import Callback

from callbacks import MESA
from datamodules import RenderedFaces
from framework.data.facts import KEY
from framework.embedding.heads import CosFaceHead, SFaceHead
from framework.embedding.metrics.embedding_evaluation import EmbeddingEvaluation
from framework.embedding.metrics.retrieval import retrieval_scores
from framework.embedding.metrix import Metrix
from framework.embedding.pair_losses import MultiSimilarityLoss
from framework.embedding.unpg import UNPG
from framework.objectives.errors import IncompatibleError
from framework.objectives.reduction import reduce_objectives
from framework.utilities.tensor_archive import load_archive
from modules.embedding import FaceEmbedder, MetricLearner
from tests.helpers.configs import arguments
from tests.helpers.ranks import RankError
from tests.helpers.runs import (
    DDP,
    fit,
    fit_on_two_ranks,
    largest_difference,
    terms,
    whole_parameters,
)

SMALL = {"num_classes": 5, "input_shape": (1, 8, 8), "backbone": "mlp", "embedding_dim": 6}
FLOAT64 = ["--trainer.precision=64-true", "--trainer.logger=false", "--trainer.max_steps=4"]


class ClippedGradients(Callback):
    """Keeps the gradients that each step was taken with."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer, pl_module, *args):
        named = pl_module.named_parameters()
        gradients = {name: p.grad for name, p in named if p.grad is not None}
        self.steps.append(whole_parameters(pl_module, gradients))


def clipped(args: list[str]) -> list[dict[str, torch.Tensor]]:
    kept = ClippedGradients()
    fit(args, [kept])
    return kept.steps


def batch(rows: int = 12) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randn(rows, 1, 8, 8, generator=generator),
        "label": torch.arange(rows) % 5,
        "index": torch.arange(rows),
    }


def test_the_classification_is_the_heads_with_the_negatives_of_the_batch():
    model = MetricLearner(**SMALL, head=CosFaceHead, negatives=UNPG()).eval()
    found = model.objectives(batch())
    embedding = model(batch()["image"])
    negatives, _ = UNPG()(embedding, batch()["label"], model.head.scale)
    values, _ = model.head(embedding, batch()["label"], negatives)
    torch.testing.assert_close(found.per_sample["classification"], values)
    alone = MetricLearner(**SMALL, head=CosFaceHead)
    alone.load_state_dict(model.state_dict())
    without = alone.eval().objectives(batch()).per_sample["classification"]
    assert (values > without).all()


def test_mixed_examples_have_their_weight():
    model = MetricLearner(
        **SMALL, head=None, criterion=MultiSimilarityLoss(), mixing=Metrix(weight=0.25)
    )
    reduced = reduce_objectives(model.objectives(batch()))
    assert set(reduced.terms) == {"pairs", "mixed"}
    expected = reduced.terms["pairs"] + 0.25 * reduced.terms["mixed"]
    torch.testing.assert_close(reduced.total, expected)


@pytest.mark.parametrize("flip", ["none", "sum", "concat"])
def test_an_image_is_evaluated_with_its_mirror_image(flip):
    model = MetricLearner(**SMALL, flip=flip).eval()
    image = batch()["image"]
    one, other = model(image), model(image.flip(-1))
    expected = {"none": one, "sum": one + other, "concat": torch.cat([one, other], 1)}
    torch.testing.assert_close(model.embed(image), expected[flip])
    assert model.make_metrics()["embedding"].embedding_dim == expected[flip].shape[1]


def test_queries_find_images_of_the_gallery_alone():
    model = MetricLearner(**SMALL).eval()
    model.setup_metrics()
    images, is_query = batch(), torch.arange(12) < 5
    model.evaluate({**images, "is_query": is_query})
    embedding, label = model.embed(images["image"]).detach(), images["label"]
    expected = retrieval_scores(
        embedding[is_query], label[is_query], (1,), embedding[~is_query], label[~is_query]
    )
    values = model.metrics["embedding"].compute()
    assert values["map@r"] == expected.map_at_r
    assert not is_query[values["neighbors"].found].any()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"head": None}, "give model.head or model.criterion"),
        ({"mixing": Metrix()}, "give model.criterion, too"),
        ({"head": SFaceHead, "negatives": UNPG()}, "SFaceHead, has not"),
        ({"flip": "both"}, "flip"),
        (
            {"head": None, "criterion": MultiSimilarityLoss(), "sharded": True},
            "give model.head",
        ),
        ({"input_shape": None}, "model.input_shape"),
    ],
)
def test_what_does_not_fit_together_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        MetricLearner(**{**SMALL, **options})


def test_episodes_are_refused():
    model = MetricLearner(**SMALL)
    with pytest.raises(IncompatibleError, match=r"\(2, 12, 1, 8, 8\); episodes are for"):
        model.objectives({**batch(), "image": torch.zeros(2, 12, 1, 8, 8)})


def test_the_defaults_of_faces():
    model = FaceEmbedder(**{**SMALL, "input_shape": (3, 32, 32), "backbone": "iresnet_tiny"})
    assert (model.flip, model.clip_backbone_norm, type(model.head)) == ("sum", 5.0, CosFaceHead)
    (group,) = model.parameter_groups()
    assert len(group["params"]) == len([p for p in model.parameters() if p.requires_grad])
    with pytest.raises(ValueError, match="clip_backbone_norm"):
        FaceEmbedder(**SMALL, clip_backbone_norm=0.0)


def test_the_gradient_of_the_backbone_is_clipped_and_the_heads_is_not(tmp_path):
    limit = ["--model.clip_backbone_norm=0.01", f"--run_folder={tmp_path}"]
    for gradients in clipped([*arguments("face"), *FLOAT64, *limit]):
        backbone = [g for name, g in gradients.items() if name.startswith("network.")]
        assert math.isclose(torch.nn.utils.get_total_norm(backbone), 0.01, rel_tol=1e-4)
        assert gradients["head.weight"].norm() > 0.01


def test_an_evaluation_is_that_of_the_embeddings(tmp_path):
    record = fit([*arguments("face"), *FLOAT64, f"--run_folder={tmp_path}"])
    data = RenderedFaces(
        num_identities=9,
        images_per_identity=5,
        val_identities=3,
        test_identities=3,
        image_size=16,
        num_pairs=40,
        num_folds=2,
    )
    data.setup("fit")
    options = {"num_classes": 9, "input_shape": (3, 16, 16), "backbone": "iresnet_tiny"}
    model = FaceEmbedder(**options, embedding_dim=64)
    checkpoint = load_archive(tmp_path / "checkpoints" / "last.ckpt")
    model.load_state_dict(checkpoint["state_dict"])
    assert checkpoint[KEY]["normalize"] == {"mean": [0.5], "std": [0.5]}
    images = data.val_set.batch(range(len(data.val_set)))
    with torch.no_grad():
        embedding = model.double().eval().embed(images["image"].double())
    metric = EmbeddingEvaluation(64, pairs=data.pairs("val"))
    metric.update(embedding, images["label"], torch.arange(len(embedding)))
    values = metric.compute()
    for name in ("held_out/acc", "held_out/threshold", "recall@1", "map@r"):
        assert record.metrics[f"val/{name}"] == pytest.approx(float(values[name]), abs=1e-6), name


def test_the_norm_that_clips_is_that_of_all_rows_of_a_head_in_parts(tmp_path, two_ranks):
    args = [*arguments("face", "with/sharded"), *FLOAT64, "--trainer.gradient_clip_val=0.05"]
    args += ["--model.clip_backbone_norm=null"]
    one = clipped([*args, f"--run_folder={tmp_path / 'one'}"])
    two, other = two_ranks(clipped, [*args, *DDP, f"--run_folder={tmp_path / 'two'}"])
    for left, right, last in zip(one, two, other, strict=True):
        norm = torch.nn.utils.get_total_norm(list(left.values()))
        assert math.isclose(norm, 0.05, rel_tol=1e-4)
        assert largest_difference(left, right) < 1e-12
        assert largest_difference(right, last) == 0


def test_what_needs_whole_parameters_is_refused_beside_a_head_in_parts(tmp_path, two_ranks):
    args = [*arguments("face", "with/sharded", "with/ema"), *FLOAT64]
    with pytest.raises(RankError, match=r"some rows of 'head.weight': set model.sharded to false"):
        two_ranks(fit_on_two_ranks, [*args, f"--run_folder={tmp_path}"])


def test_the_average_of_the_weights_predicts_by_its_own_head(tmp_path):
    class Watch(Callback):
        seen: tuple[torch.Tensor, torch.Tensor] | None = None

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            (mesa,) = (c for c in trainer.callbacks if isinstance(c, MESA))
            average = mesa.term.average
            with torch.no_grad():
                expected = average.head.logits(average.network(batch["image"]))
                self.seen = expected, mesa.term.logits_of(average(batch["image"]))
            assert not torch.equal(average.head.weight, pl_module.head.weight)

    watch = Watch()
    args = [*arguments("face"), "--trainer.max_steps=3", f"--run_folder={tmp_path}"]
    args += ["--trainer.callbacks+=MESA", "--trainer.callbacks.start_epoch=-1"]
    record = fit(args, [watch])
    assert all(0 < terms(step)["mesa"] < math.inf for step in record.steps)
    assert torch.equal(*watch.seen)
