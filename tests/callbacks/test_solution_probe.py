"""The probe logs what is measured by hand, on one process and two, and changes nothing."""

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from torch import nn
from torch.utils.data import DataLoader

from callbacks import SolutionProbe
from framework.dynamics import LayerFeatures, measure_solution
from framework.objectives.errors import IncompatibleError
from framework.runs.panels import Layout
from tests.helpers.configs import arguments
from tests.helpers.runs import differences, fit, fit_on_two_ranks
from tests.helpers.tiny import TinyData, TinyModule, tiny_trainer


class Module(TinyModule):
    """A network with dropout and batch norm, whose buffers a careless probe would move."""

    prediction_shape = (3,)

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network = nn.Sequential(
                nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 3)
            )


class Losses(Callback):
    def __init__(self):
        self.losses = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))


def probes(values):
    return {name: float(v) for name, v in values.items() if name.startswith("probe/")}


def run(folder, *callbacks, module=None, **options):
    torch.manual_seed(3)
    module, losses = module or Module(), Losses()
    trainer = tiny_trainer(folder, [*callbacks, losses], False, **options)
    trainer.fit(module, TinyData())
    return module, losses.losses, probes(trainer.callback_metrics)


def test_it_changes_nothing(tmp_path):
    plain, losses, _ = run(tmp_path)
    probed, same, found = run(tmp_path, SolutionProbe())
    assert losses == same
    assert not differences(plain.state_dict(), probed.state_dict())
    assert len(found) == 19
    assert all(any(panel.shows(name) for panel in SolutionProbe.panels) for name in found)
    assert not any(layer._forward_hooks for layer in probed.modules())


def test_values_are_those_of_the_functions(tmp_path):
    module, _, found = run(tmp_path, SolutionProbe())
    fields = TinyData().val_set.fields
    module.eval()
    batch = {**fields, "index": torch.arange(9)}

    def loss():
        objectives = module.objectives(batch)
        weights = {"classification": 1.0, "size": 0.5}
        return [sum(w * objectives.per_sample[n].mean() for n, w in weights.items())]

    expected = measure_solution(module, [((fields["image"],), fields["label"])], loss=loss)
    layer = LayerFeatures()
    layer.add(module.network[:-1](fields["image"]), fields["label"])
    for name, value in (expected | layer.compute()).items():
        assert found[f"probe/{name}"] == pytest.approx(float(value), rel=1e-3, abs=1e-6), name


def test_groups_and_layers_are_chosen(tmp_path):
    probe = SolutionProbe(["features", "norms"], layers=["network.0", "network.[23]"])
    _, _, found = run(tmp_path, probe)
    ranks = ("effective_rank", "stable_rank", "energy_rank", "class_cosine")
    names = [f"probe/{rank}/network.{k}" for rank in ranks for k in (0, 2, 3)]
    assert sorted(found) == sorted([*names, "probe/norm_l2", "probe/norm_max"])
    # dropout is off in an evaluation
    assert found["probe/stable_rank/network.2"] == found["probe/stable_rank/network.3"]
    titles = [panel.title for panel in Layout((*probe.panels,)).by_panel(found)]
    assert titles == [
        "Dimensions of the features",
        "Cosine between class means",
        "Norms of the parameters",
    ]


def test_rests_in_between_and_measures_the_last_epoch(tmp_path):
    measured = []

    class Counted(SolutionProbe):
        def _measured(self, trainer, module, batches):
            measured.append((trainer.current_epoch, sum(count for _, count in batches)))
            return super()._measured(trainer, module, batches)

    probe = Counted(["sparsity"], every_n_epochs=2, max_samples=5)
    run(tmp_path, probe, max_epochs=5, num_sanity_val_steps=1)
    assert measured == [(1, 8), (3, 8), (4, 8)]  # whole batches of 4 from 5 rows on
    trainer = tiny_trainer(tmp_path, [Counted(["sparsity"], every_n_epochs=9)], False)
    trainer.validate(Module(), TinyData(), verbose=False)
    assert measured[-1] == (0, 9)


class Plain(LightningModule):
    """A module that knows nothing of Trimtab."""

    def __init__(self):
        super().__init__()
        self.network = Module().network

    def forward(self, image):
        return self.network(image)

    def validation_step(self, batch, batch_idx):
        self(batch[0])


@pytest.mark.filterwarnings("ignore:The 'val_dataloader' does not have many workers")
def test_serves_a_plain_module(tmp_path):
    fields = TinyData().val_set.fields
    loader = DataLoader(list(zip(fields["image"], fields["label"], strict=True)), batch_size=4)
    module = Plain()
    trainer = tiny_trainer(tmp_path, [SolutionProbe()], False)
    trainer.validate(module, loader, verbose=False)
    found = probes(trainer.callback_metrics)
    expected = measure_solution(module.eval(), [((fields["image"],), fields["label"])])
    assert len(found) == 19
    for name, value in expected.items():
        assert found[f"probe/{name}"] == pytest.approx(float(value), rel=1e-3, abs=1e-6), name


@pytest.mark.filterwarnings("ignore:The 'val_dataloader' does not have many workers")
def test_a_field_of_a_batch_may_be_without_rows(tmp_path):
    fields = {**TinyData().val_set.fields, "scale": torch.tensor(2.0)}
    module = Plain()
    module.validation_step = lambda batch, batch_idx: None
    trainer = tiny_trainer(tmp_path, [SolutionProbe(["pruning"])], False)
    trainer.validate(module, DataLoader([fields], batch_size=None), verbose=False)
    right = module.eval()(fields["image"]).argmax(1) == fields["label"]
    assert probes(trainer.callback_metrics)["probe/accuracy"] == pytest.approx(
        float(right.double().mean())
    )


class Pair(Plain):
    def forward(self, image):
        return self.network(image), image


@pytest.mark.filterwarnings("ignore:The .val_dataloader. does not have many workers")
def test_a_forward_of_another_kind_is_refused_in_words(tmp_path):
    fields = TinyData().val_set.fields
    loader = DataLoader(list(zip(fields["image"], fields["label"], strict=True)), batch_size=4)
    trainer = tiny_trainer(tmp_path, [SolutionProbe()], False)
    with pytest.raises(IncompatibleError, match=r"logits \(B, C\), which that of Pair does not"):
        trainer.validate(Pair(), loader, verbose=False)
    trainer = tiny_trainer(tmp_path, [SolutionProbe(["features", "norms"])], False)
    trainer.validate(Pair(), loader, verbose=False)
    assert "probe/effective_rank" in trainer.callback_metrics


class Looks(Callback):
    """Another callback that runs the module on what it likes."""

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, *place):
        pl_module(torch.full_like(batch["image"], 7.0))


def test_other_callbacks_do_not_mix_with_the_features(tmp_path):
    _, _, found = run(tmp_path, SolutionProbe(["features"]))
    _, _, same = run(tmp_path, SolutionProbe(["features"]), Looks())
    assert found == same


class Shapeless(Module):
    prediction_shape = None


class Embedded(Module):
    """One whose validation rows may be of classes that it does not train."""

    embedding_column = "embedding"


def test_what_a_module_has_not_is_left_out_or_refused(tmp_path):
    _, _, found = run(tmp_path, SolutionProbe(), module=Shapeless())
    assert "probe/lambda_max" in found
    assert not [name for name in found if "pruned" in name or "margin" in name]
    for probe, message in (
        (SolutionProbe(["margins"]), "'margins' of class logits, which Shapeless does not have"),
        (SolutionProbe(layers=["backbone.*"]), r"No layer of Shapeless matches 'backbone\.\*'"),
    ):
        with pytest.raises(IncompatibleError, match=message):
            run(tmp_path, probe, module=Shapeless())
    for metric, needed in (("pruning", "class logits"), ("sharpness", "a loss of validation rows")):
        message = f"'{metric}' of {needed}, which Embedded does not have"
        with pytest.raises(IncompatibleError, match=message):
            run(tmp_path, SolutionProbe([metric]), module=Embedded())
    _, _, found = run(tmp_path, SolutionProbe(), module=Embedded())
    assert "probe/effective_rank" in found
    assert not {"probe/accuracy", "probe/lambda_max"} & found.keys()
    with pytest.raises(IncompatibleError, match="is given twice"):
        run(tmp_path, SolutionProbe(), SolutionProbe())
    no_linear = Module()
    no_linear.network = nn.Sequential(nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 3, 5), nn.Flatten())
    with pytest.raises(IncompatibleError, match="has no linear layer whose inputs are features"):
        run(tmp_path, SolutionProbe(["features"]), module=no_linear)


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="every_n_epochs must be at least 1, got 0"):
        SolutionProbe(every_n_epochs=0)
    with pytest.raises(ValueError, match="metrics must be one of"):
        SolutionProbe(["rank"])
    with pytest.raises(ValueError, match="rho must be"):
        SolutionProbe(rho=0.0)


@pytest.mark.combination
def test_two_ranks_log_what_one_process_logs_and_training_is_as_without(tmp_path, two_ranks):
    args = [*arguments("classifier"), "--trainer.precision=64-true", "--trainer.max_epochs=2"]
    probe = ["--trainer.callbacks+=SolutionProbe"]
    folders = [f"--run_folder={tmp_path / name}" for name in ("0", "1", "2")]
    without = fit([*args, folders[0]])
    one = fit([*args, *probe, folders[1]])
    two = two_ranks(fit_on_two_ranks, [*args, *probe, folders[2]])
    assert not differences(without.parameters, one.parameters)
    assert not differences(without.steps, one.steps)
    found = probes(one.metrics)
    assert len(found) == 19
    for record in two:
        for name, value in found.items():
            assert record.metrics[name] == pytest.approx(value, rel=2e-3, abs=1e-6), name
