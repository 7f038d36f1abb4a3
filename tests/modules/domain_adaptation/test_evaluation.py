"""What is measured in both domains, and what is remembered of the start."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor
from torch.utils.data import Subset

from framework.adaptation.bayes_refinement import bayes_refine
from framework.losses import TargetClassificationMimicking
from framework.metrics.embedding_sample import EmbeddingSample
from framework.runs.run_checkpoint import RunCheckpoint
from framework.utilities.evaluation_mode import evaluation_mode
from modules import DomainAdaptation
from modules.domain_adaptation.evaluation import DomainEvaluation
from modules.domain_adaptation.mdd import MDD
from modules.domain_adaptation.scores import DomainScores
from tests.helpers.runs import differences
from tests.helpers.tiny import tiny_trainer
from tests.modules.domain_adaptation.small import SHAPE, TwoDomains, fit, model, rows


def validated(
    folder: Path, module: DomainAdaptation, data: TwoDomains, stage: str = "validate"
) -> dict[str, float]:
    trainer = tiny_trainer(folder, [], False)
    (values,) = getattr(trainer, stage)(module, data, verbose=False)
    return {name.split("/")[1]: value for name, value in values.items()}


def trained(**kwargs: Any) -> DomainAdaptation:
    """Return a model whose batch norms have seen some batches."""
    module = model(**kwargs)
    with torch.no_grad():
        for seed in range(3):
            module.objectives({**rows(8, 8, seed), "index": torch.arange(16)})
    return module


def test_metrics_are_those_of_all_rows(tmp_path: Path) -> None:
    module, data = trained(), TwoDomains(eval_batch_size=7)
    every, discriminator = data.val_set.fields, module.alignment.discriminator
    module.eval()
    with torch.no_grad():
        logits, features = module.network(every["image"])
        # so that it takes half of the rows for the source
        discriminator.bias -= discriminator(features).median()
        said = discriminator(features).squeeze(1)
        q = module.network.class_discriminators(features)
    found = validated(tmp_path, module, data)
    predicted, label, domain = logits.argmax(1), every["label"], every["domain"]
    target, held_out = domain == 1, every["held_out"]
    assert int(held_out.sum()) == 9
    right = (predicted == label).double()
    loss = TargetClassificationMimicking()
    expected = {
        "accuracy": right[target].mean(),
        "accuracy_per_class": balanced_accuracy_score(label[target], predicted[target]),
        "source_accuracy": right[~target].mean(),
        "discriminator_accuracy": (
            (said > 0)[~target].double().mean() + (said <= 0)[target].double().mean()
        )
        / 2,
        "guide_loss": loss(bayes_refine(logits, F.logsigmoid(q))[held_out]),
        "classification": F.cross_entropy(logits[~target], label[~target]),
        "loss": F.cross_entropy(logits[~target], label[~target]),
    }
    assert found == pytest.approx({n: float(v) for n, v in expected.items()}, abs=1e-6)
    # the numbers tell the domains apart
    assert len({round(value, 4) for value in found.values()}) == 6
    table = module.metric_values["confusion"]
    assert table.sum() == 22
    assert table.diagonal().sum() == right[target].sum()


@pytest.mark.parametrize("settings", [{"refine": False}, {"mimicking": 0.0, "alignment": None}])
def test_every_variant_can_be_selected_without_labels(settings, tmp_path: Path) -> None:
    module, data = trained(**settings), TwoDomains(known=False)
    found = validated(tmp_path, module, data)
    names = {"loss", "classification", "source_accuracy", "guide_loss"}
    assert set(found) == names | ({"discriminator_accuracy"} if "refine" in settings else set())
    every = data.val_set.fields
    with torch.no_grad():
        logits = module.eval()(every["image"])[every["held_out"]]
    assert found["guide_loss"] == pytest.approx(
        float(TargetClassificationMimicking()(logits)), abs=1e-6
    )
    assert list(module.figures("val", module.metric_values)) == ["features"]


def test_labels_that_are_known_count_alone(tmp_path: Path) -> None:
    module, data = trained(), TwoDomains()
    label, target = data.val_set.fields["label"], data.val_set.fields["domain"] == 1
    hidden = target.nonzero().flatten()[::2]
    label[hidden] = -1
    found = validated(tmp_path, module, data)
    with torch.no_grad():
        predicted = module.eval()(data.val_set.fields["image"]).argmax(1)
    known = target & (label >= 0)
    assert int(known.sum()) == 11
    assert found["accuracy"] == pytest.approx(float((predicted == label)[known].double().mean()))


def test_mdd_has_no_discriminator_to_measure(tmp_path: Path) -> None:
    assert "discriminator_accuracy" not in validated(
        tmp_path, trained(alignment=MDD()), TwoDomains()
    )


def test_what_no_row_is_known_for_is_left_out(tmp_path: Path) -> None:
    found = validated(tmp_path, trained(), TwoDomains(), "test")
    # target rows alone, none of them held out
    assert set(found) == {"accuracy", "accuracy_per_class", "discriminator_accuracy"}


def test_a_class_that_is_not_there_has_no_accuracy() -> None:
    scores = DomainScores(2, 3, discriminates=False)
    batch = {
        "domain": torch.ones(4, dtype=torch.int64),
        "label": torch.tensor([0, 0, 0, 2]),
        "index": torch.arange(4),
    }
    logits = torch.eye(3)[[0, 0, 1, 2]]
    scores.measure(batch, logits, torch.zeros(4, 2), torch.zeros(0, 3), None)
    values = scores.compute()
    assert float(values["accuracy"]) == 0.75
    assert float(values["accuracy_per_class"]) == pytest.approx((2 / 3 + 1) / 2)
    assert not {"source_accuracy", "guide_loss", "discriminator_accuracy"} & set(values)


def test_an_evaluation_without_marks_has_no_guide(tmp_path: Path) -> None:
    data = TwoDomains()
    del data.val_set.fields["held_out"]
    found = validated(tmp_path, trained(), data)
    assert "guide_loss" not in found
    assert "accuracy" in found


def test_predictions(tmp_path: Path) -> None:
    module, data = trained(), TwoDomains()
    trainer = tiny_trainer(tmp_path, [], False)
    (columns,) = trainer.predict(module, data)
    assert list(columns) == ["index", "prediction", "probability", "domain"]
    assert columns["domain"].tolist() == [1] * 14
    torch.testing.assert_close(columns["probability"].sum(1), torch.ones(14))
    assert torch.equal(columns["probability"].argmax(1), columns["prediction"])
    # nothing but images is asked for
    assert list(module.predict({"image": torch.zeros(2, *SHAPE)})) == ["prediction", "probability"]


# ---- how the features once lay ------------------------------------------------------------------


def samples_of(module: DomainAdaptation, data: TwoDomains) -> list[Any]:
    """Return the features of all validation rows, in the order of the samples."""
    every = data.val_set.fields
    with torch.no_grad(), evaluation_mode(module):
        features = module.network(every["image"])[1]
    made = []
    for side in (0, 1):
        own = every["domain"] == side
        sample = EmbeddingSample(features.shape[1], 500)
        sample.update(
            features[own], every["domain"][own], torch.arange(39)[own], every["label"][own]
        )
        made.append(sample.compute())
    return made


@pytest.mark.parametrize("sanity", [0, 2, -1])
def test_features_before_training_are_those_of_the_untrained_network(sanity, tmp_path) -> None:
    expected = samples_of(model(), TwoDomains())
    module, _ = fit(tmp_path, num_sanity_val_steps=sanity)
    for found, kept in zip(module.before, expected, strict=True):
        torch.testing.assert_close(found.code, kept.code)
        assert torch.equal(found.label, kept.label)
        assert torch.equal(found.cluster, kept.cluster)
    assert [len(kept.code) for kept in module.before] == [17, 22]
    now = module.metric_values["target_features"].code
    # the same samples, moved
    assert now.shape == module.before[1].code.shape
    assert float((now - module.before[1].code).abs().mean()) > 0.05


def test_looking_leaves_no_trace(tmp_path: Path) -> None:
    looked, _ = fit(tmp_path)
    blind = model()
    blind.on_fit_start = super(DomainEvaluation, blind).on_fit_start
    fit(tmp_path, module=blind)
    assert blind.before is None
    assert differences(looked.state_dict(), blind.state_dict()) == []


def test_of_a_part_of_the_validation_the_same_part_is_looked_at(tmp_path: Path) -> None:
    for limit, expected in ((1, 16), (0.5, 16), (1.0, 39)):
        module, _ = fit(tmp_path, limit_val_batches=limit, max_steps=1)
        assert sum(len(kept.code) for kept in module.before) == expected
    module, _ = fit(tmp_path, limit_val_batches=0, max_steps=1)
    assert module.before is None


class NoValidation(TwoDomains):
    def __init__(self) -> None:
        super().__init__()
        self.val_set = None


@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")
def test_without_a_validation_there_is_nothing_to_remember(tmp_path: Path) -> None:
    module, _ = fit(tmp_path, data=NoValidation(), max_steps=1)
    assert module.before is None


def test_a_second_fit_looks_again(tmp_path: Path) -> None:
    module, _ = fit(tmp_path)
    first, expected = module.before, samples_of(module, TwoDomains())
    fit(tmp_path, module=module)
    torch.testing.assert_close(module.before[0].code, expected[0].code)
    assert not torch.equal(module.before[0].code, first[0].code)


def test_a_resumed_run_remembers_the_first_start(tmp_path: Path) -> None:
    checkpoint = RunCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_top_k=-1)
    whole, trainer = fit(tmp_path, checkpoint, num_sanity_val_steps=2)
    path = next(tmp_path.glob("*step=3*.ckpt"))
    resumed = model()
    with torch.no_grad():
        resumed.network.head.weight.zero_()
    again = tiny_trainer(tmp_path / "again", [copy.deepcopy(checkpoint)], False)
    again.fit(resumed, TwoDomains(), ckpt_path=path)
    for a, b in zip(whole.before, resumed.before, strict=True):
        assert all(map(torch.equal, a, b))
    assert differences(whole.state_dict(), resumed.state_dict()) == []
    ours = {n: float(v) for n, v in trainer.callback_metrics.items()}
    assert {n: float(v) for n, v in again.callback_metrics.items()} == ours
    # a checkpoint brings it along, but figures of other stages do not show it
    tested = model()
    tester = tiny_trainer(tmp_path, [copy.deepcopy(checkpoint)], False)
    tester.test(tested, TwoDomains(), ckpt_path=path, verbose=False)
    assert len(tested.figures("test", tested.metric_values)["features"].axes) == 1


def test_figures_of_a_run(tmp_path: Path) -> None:
    class Draw(Callback):
        def on_fit_end(self, trainer, pl_module):
            self.figures = pl_module.figures("val", pl_module.metric_values)

    draw = Draw()
    fit(tmp_path, draw)
    assert list(draw.figures) == ["features", "confusion_matrix"]
    titles = [axes.get_title(loc="left") for axes in draw.figures["features"].axes]
    assert titles[0].startswith("before training (")
    assert titles[1].startswith("after 10 steps (")
    labels = [
        text.get_text() for text in draw.figures["confusion_matrix"].axes[0].get_yticklabels()
    ]
    assert labels == ["circle", "square", "triangle"]


def guide_loss(module: DomainAdaptation, subset: Tensor) -> float:
    data = TwoDomains()
    data.val_set = Subset(data.val_set, subset.tolist())
    return validated(Path(), module, data)["guide_loss"]


def test_the_guide_loss_does_not_depend_on_the_other_rows() -> None:
    module, fields = trained(), TwoDomains().val_set.fields
    held_out = fields["held_out"].nonzero().flatten()
    assert guide_loss(module, torch.arange(39)) == pytest.approx(guide_loss(module, held_out))
    assert 0 <= guide_loss(module, held_out) <= math.log(3)
