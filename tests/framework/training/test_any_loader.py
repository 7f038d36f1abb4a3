"""Modules train, evaluate and predict from any loader that has what they need."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from framework.losses.ldr import ALDRLoss
from framework.objectives.errors import IncompatibleError
from framework.schedules.cosine import WarmupCosine
from framework.sparse_coding.selection import TokenChoice
from framework.training.batches import named_fields
from framework.training.objectives_callback import ObjectivesCallback
from modules.classifier.module import Classifier
from modules.coteaching.module import CoTeaching
from modules.depict.module import DEPICT
from modules.domain_adaptation.module import DomainAdaptation
from modules.gghl.module import GGHL
from modules.nested.module import NestedClassifier
from modules.regressor.module import Regressor
from modules.sae.module import SparseAutoencoderModule

IMAGES, LABELS = torch.rand(6, 1, 8, 8), torch.arange(6) % 3
ROWS = torch.rand(6, 10)
# those of a config cost seconds to build
CLASSIFIERS = {
    "classifier": lambda: Classifier(3, (1, 8, 8), backbone="cnn", widths=(2, 2)),
    "nested": lambda: NestedClassifier(
        num_classes=3, input_shape=(1, 8, 8), backbone="cnn", widths=(2, 2)
    ),
    "coteaching": lambda: CoTeaching(
        num_classes=3, input_shape=(1, 8, 8), backbone="cnn", widths=(2, 2), warmup_epochs=0
    ),
}


class Dicts(Dataset[dict[str, Any]]):
    def __init__(self, **fields: torch.Tensor) -> None:
        self.fields = fields

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {name: value[row] for name, value in self.fields.items()}


def trainer(folder: Any, *callbacks: Any) -> Trainer:
    return Trainer(
        max_epochs=1,
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=folder,
    )


def loader(dataset: Any, batch_size: int = 3) -> DataLoader[Any]:
    return DataLoader(dataset, batch_size=batch_size)


# what Lightning says of loaders without workers, of few batches and of a run without validation
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
]


def all_four(module: LightningModule, labeled: Any, unlabeled: Any, folder: Any) -> list[Any]:
    run = trainer(folder)
    run.fit(module, loader(labeled), loader(labeled))
    run.validate(module, loader(labeled), verbose=False)
    run.test(module, loader(labeled), verbose=False)
    found = run.predict(module, loader(unlabeled))
    assert found is not None
    return found


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_classifiers(name, kind, tmp_path):
    labeled: Any = TensorDataset(IMAGES, LABELS)
    unlabeled: Any = TensorDataset(IMAGES)
    if kind == "dict":
        labeled, unlabeled = Dicts(image=IMAGES, label=LABELS), Dicts(image=IMAGES)
    found = all_four(CLASSIFIERS[name](), labeled, unlabeled, tmp_path)
    assert [set(batch) for batch in found] == [{"prediction", "probability"}] * 2


@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_a_regressor(kind, tmp_path):
    target = ROWS.sum(1)
    labeled: Any = TensorDataset(ROWS, target)
    unlabeled: Any = TensorDataset(ROWS)
    if kind == "dict":
        labeled, unlabeled = Dicts(input=ROWS, target=target), Dicts(input=ROWS)
    assert len(all_four(Regressor(10, widths=(4,)), labeled, unlabeled, tmp_path)) == 2


@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_a_sparse_autoencoder(kind, tmp_path):
    data: Any = TensorDataset(ROWS) if kind == "tuple" else Dicts(activation=ROWS)
    module = SparseAutoencoderModule(d_in=10, d_sae=16, selection=TokenChoice(k=4))
    assert len(all_four(module, data, data, tmp_path)) == 2


def test_a_tuple_is_the_dict_of_its_parts(tmp_path):
    weights = []
    for data in (TensorDataset(IMAGES, LABELS), Dicts(image=IMAGES, label=LABELS)):
        torch.manual_seed(0)
        module = CLASSIFIERS["classifier"]()
        trainer(tmp_path).fit(module, loader(data))
        weights.append(torch.cat([p.flatten() for p in module.parameters()]))
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("module", "data", "message"),
    [
        (
            CLASSIFIERS["classifier"],
            Dicts(image=IMAGES),
            "Classifier needs the field 'label', and the batches of this loader have only image.",
        ),
        (
            CLASSIFIERS["classifier"],
            TensorDataset(IMAGES, LABELS, LABELS),
            r"Classifier reads batches that are dicts with image and label or tuples "
            r"\(image, label\), and this loader gives a list of 3.",
        ),
        (
            lambda: Regressor(10, widths=(4,)),
            Dicts(image=IMAGES, label=LABELS),
            "Regressor needs the field 'input', .* have only image, label.",
        ),
        (
            lambda: GGHL(3, widths=(2, 2, 2, 2, 2), neck_width=2),
            TensorDataset(IMAGES, LABELS),
            "GGHL reads batches that are dicts with image and quads and label and index, and ",
        ),
        (
            lambda: DomainAdaptation(
                num_classes=3, input_shape=(1, 8, 8), backbone="cnn", widths=(2, 2)
            ),
            Dicts(image=IMAGES, label=LABELS),
            "DomainAdaptation needs the field 'domain'",
        ),
    ],
)
def test_what_is_refused(module, data, message, tmp_path):
    with pytest.raises(IncompatibleError, match=message):
        trainer(tmp_path).fit(module(), loader(data))


def test_depict_asks_for_its_datamodule(tmp_path):
    with pytest.raises(IncompatibleError, match="DEPICT"):
        trainer(tmp_path).fit(DEPICT(), loader(Dicts(image=IMAGES)))


def test_a_loss_that_remembers_samples(tmp_path):
    index = torch.arange(6)
    data = Subset(Dicts(image=IMAGES, label=LABELS, index=index), [1, 2, 3, 5])
    module = Classifier(3, (1, 8, 8), backbone="cnn", widths=(2, 2), criterion=ALDRLoss())
    trainer(tmp_path).fit(module, loader(data))
    assert module.criterion.temperature.num_samples == 6
    module = Classifier(3, (1, 8, 8), backbone="cnn", widths=(2, 2), criterion=ALDRLoss())
    with pytest.raises(IncompatibleError, match="ALDRLoss needs `index`, which is not available"):
        trainer(tmp_path).fit(module, loader(Dicts(image=IMAGES, label=LABELS)))


def test_a_callback_that_needs_an_index(tmp_path):
    class NeedsIndex(ObjectivesCallback):
        needs = ("index",)

    module = CLASSIFIERS["classifier"]()
    with pytest.raises(IncompatibleError, match="NeedsIndex needs `index`, a field that the batch"):
        trainer(tmp_path, NeedsIndex()).fit(module, loader(TensorDataset(IMAGES, LABELS)))


def test_named_fields_of_other_kinds():
    one = torch.zeros(2)
    assert named_fields(one, "M", ("x",), ("x", "y")) == {"x": one}
    batch = {"x": one, "more": 1}
    assert named_fields(batch, "M", ("x",)) is batch
    for wrong in ("text", 3, [], None):
        with pytest.raises(IncompatibleError, match=r"^M reads batches that are dicts with x"):
            named_fields(wrong, "M", ("x",), ("x",))


def test_auto_steps_in_a_module_of_ones_own(tmp_path):
    class Own(LightningModule):
        def __init__(self, total_steps: Any) -> None:
            super().__init__()
            self.layer, self.total_steps = torch.nn.Linear(1, 1), total_steps

        def training_step(self, batch: Any) -> Any:
            return self.layer(batch[0]).sum()

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
            steps = self.total_steps or int(self.trainer.estimated_stepping_batches)
            return [optimizer], [WarmupCosine(optimizer, total_steps=steps)]

    data = loader(TensorDataset(torch.ones(4, 1)))
    with pytest.raises(ValueError, match=r"give total_steps=.*estimated_stepping_batches"):
        trainer(tmp_path).fit(Own("auto"), data)
    trainer(tmp_path).fit(Own(None), data)
