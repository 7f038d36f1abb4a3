"""Networks as ONNX files."""

from __future__ import annotations

import json

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import trimtab
from callbacks.onnx_export import ONNXExport
from datamodules import Digits
from framework.command import cli
from framework.objectives.errors import IncompatibleError
from modules import Classifier
from tests.helpers.configs import arguments, one_of_many
from tests.helpers.runs import QUIET
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer

onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")


def outputs(path, *inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
    return [torch.from_numpy(value) for value in session.run(None, feed)]


@pytest.mark.parametrize(
    ("system", "options"),
    [
        ("classifier", []),
        # images are trained in other sizes than those of the data, 96 x 96
        one_of_many("gghl", ["--model.multi_scale=[64]"], quick=False),
    ],
)
def test_the_file_computes_what_the_network_does(system, options, tmp_path):
    trimtab.import_configurable_classes()
    torch.set_num_threads(1)
    args = [*arguments(system), *options, f"--run_folder={tmp_path}", *QUIET]
    args += ["--trainer.max_epochs=1", "--trainer.limit_val_batches=1"]
    run = cli.run(["fit", *args, "--trainer.callbacks+=ONNXExport"])
    network = run.model.network
    assert network.training
    # another number of rows than at the export
    image = torch.rand(3, *run.datamodule.input_shape)
    with torch.no_grad():
        expected = network.eval()(image)
    found = outputs(tmp_path / "network.onnx", image)
    assert len(found) == (len(expected) if isinstance(expected, tuple) else 1)
    for ours, theirs in zip(
        expected if isinstance(expected, tuple) else [expected], found, strict=True
    ):
        assert ours.abs().max() > 0.01
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
def test_batches_may_be_tuples(tmp_path):
    module = Classifier(3, (1, 2, 2), widths=(4,))
    rows = TensorDataset(torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 2, 0]))
    trainer = tiny_trainer(tmp_path, [ONNXExport()], False, max_epochs=1, limit_val_batches=0)
    trainer.fit(module, DataLoader(rows, batch_size=4, num_workers=0))
    assert outputs(tmp_path / "network.onnx", torch.rand(2, 1, 2, 2))[0].shape == (2, 3)


def test_the_file_names_classes_and_normalization(tmp_path):
    onnx = pytest.importorskip("onnx")
    data = Digits(batch_size=64, mean=[0.5], std=[0.25])
    module = Classifier.for_data(data, widths=(4,))
    module.decoding_facts = {"strides": [8, 16]}
    trainer = tiny_trainer(
        tmp_path, [ONNXExport()], False, limit_train_batches=1, limit_val_batches=1, max_epochs=1
    )
    trainer.fit(module, data)
    found = {
        entry.key: entry.value for entry in onnx.load(tmp_path / "network.onnx").metadata_props
    }
    assert found["name"] == "Classifier"
    assert json.loads(found["class_names"]) == list("0123456789")
    assert json.loads(found["strides"]) == [8, 16]
    assert (json.loads(found["mean"]), json.loads(found["std"])) == ([0.5], [0.25])


def test_nothing_is_written_where_nothing_was_trained(tmp_path):
    trainer = tiny_trainer(tmp_path, [ONNXExport()], False, limit_train_batches=0)
    trainer.fit(TinyModule(), TinyData())
    assert not (tmp_path / "network.onnx").exists()


def test_a_module_without_a_network_is_refused(tmp_path):
    module = TinyModule()
    del module.network
    with pytest.raises(IncompatibleError, match="TinyModule has none"):
        ONNXExport().setup(tiny_trainer(tmp_path, [], False), module, "fit")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("framework.utilities.packages.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'trimtab\[onnx\]'"):
        ONNXExport().setup(tiny_trainer(tmp_path, [], False), TinyModule(), "fit")
