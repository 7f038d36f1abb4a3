"""What every phase does: targets, assignments, first clusters, and what must not leave a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor, nn

from datamodules import Digits, WholeSet
from framework.clustering.target_distribution import dec_target_distribution
from framework.losses import CompSumLoss, EnsLoss
from framework.objectives.errors import IncompatibleError
from framework.objectives.reduction import reduce_objectives
from modules import DEPICT
from tests.helpers.runs import differences
from tests.helpers.tiny import tiny_trainer
from tests.modules.depict.small import SAMPLES, data, fit, model

EVERY = torch.arange(SAMPLES)


class Watch(Callback):
    """Calls ``look(module, batch)`` at every training batch's end, and keeps what it returns."""

    def __init__(self, look: Any) -> None:
        self.look = look
        self.seen: list[Any] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append((pl_module.part.name, self.look(pl_module, batch)))


def state(module: DEPICT) -> dict[str, Tensor]:
    return {
        name: value.detach().clone()
        for name, value in module.network.state_dict().items()
        if isinstance(value, Tensor)
    }


# ---- targets and assignments --------------------------------------------------------------------


def gap_after_the_step(module: DEPICT, batch: Any) -> float | None:
    if module.part.name != "joint":
        return None
    remembered = module.assignments.read(batch["index"])
    return float((remembered - module(batch["image"]).detach().softmax(1)).abs().max())


def test_a_running_refresh_takes_the_assignment_right_after_the_step(tmp_path: Path) -> None:
    watch = Watch(gap_after_the_step)
    fit(tmp_path, watch)
    gaps = [gap for part, gap in watch.seen if part == "joint"]
    assert len(gaps) == 6
    assert max(gaps) < 1e-6


@pytest.mark.parametrize("kind", ["sqrt", "square", "exact"])
@pytest.mark.parametrize("refresh", ["running", "full"])
def test_targets_are_those_of_all_assignments(kind, refresh, tmp_path: Path) -> None:
    module, _ = fit(tmp_path, target=kind, refresh=refresh)
    p, q = module.assignments.read(EVERY), module.targets.read(EVERY)
    torch.testing.assert_close(q, dec_target_distribution(p, kind))
    # the last, smaller batch is in: no row is missing, none is NaN
    torch.testing.assert_close(q.sum(1), torch.ones(SAMPLES))
    torch.testing.assert_close(p.sum(1), torch.ones(SAMPLES))
    image = torch.cat([batch["image"] for batch in data_of(module)])
    now = module(image).softmax(1)
    if refresh == "full":
        torch.testing.assert_close(p, now)
    else:
        # assignments of the epoch's first batches are from weights that have moved on
        assert float((p - now).detach().abs().max()) > 1e-6


def data_of(module: DEPICT) -> Any:
    return module.trainer.datamodule.ordered_train_dataloader()


def test_targets_rest_while_assignments_run(tmp_path: Path) -> None:
    def tables(module: DEPICT, batch: Any) -> tuple[Tensor, Tensor]:
        return module.assignments.read(EVERY), module.targets.read(EVERY)

    watch = Watch(tables)
    fit(tmp_path, watch)
    first, second, third = [seen for part, seen in watch.seen if part == "joint"][:3]
    # the official code keeps both in one array, which sharpens some rows twice
    assert torch.equal(first[1], second[1])
    assert torch.equal(second[1], third[1])
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(second[0], third[0])


def test_the_joint_phase_starts_from_targets_of_the_clean_network(tmp_path: Path) -> None:
    class AtTheStart(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if pl_module.part.name == "joint" and not hasattr(self, "gap"):
                image = torch.cat([b["image"] for b in data_of(pl_module)])
                with torch.no_grad():
                    expected = dec_target_distribution(pl_module(image).softmax(1), "sqrt")
                self.gap = float((pl_module.targets.read(EVERY) - expected).abs().max())

    watch = AtTheStart()
    fit(tmp_path, watch)
    assert watch.gap < 1e-6


def test_the_change_of_the_targets_is_a_mean_square(tmp_path: Path) -> None:
    module, _ = fit(tmp_path)
    old = module.targets.read(EVERY)
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(SAMPLES, 10, generator=generator).softmax(1)
    module.assignments.write(EVERY, p)
    change = module._update_targets()
    expected = (dec_target_distribution(p, "sqrt") - old).double().square().mean()
    assert change == pytest.approx(float(expected))


# ---- the losses ---------------------------------------------------------------------------------


def step(module: DEPICT) -> tuple[Any, dict[str, Tensor]]:
    """Return the objectives of a batch in the module's present phase."""
    module.train()
    batch = next(iter(data_of(module)))
    objectives = module.objectives(batch)
    return objectives, batch


def test_the_gradient_of_the_clustering_loss_is_p_minus_q(tmp_path: Path) -> None:
    module, _ = fit(tmp_path)
    objectives, batch = step(module)
    term = objectives.per_sample["clustering"].mean()
    (gradient,) = torch.autograd.grad(term, objectives.predictions)
    q = module.targets.read(batch["index"])
    expected = (objectives.predictions.softmax(1) - q) / len(q)
    torch.testing.assert_close(gradient, expected.detach(), rtol=1e-5, atol=1e-8)


def test_without_noise_and_hidden_layers_it_is_a_plain_autoencoder(tmp_path: Path) -> None:
    module, _ = fit(tmp_path, dropouts=(0.0, 0.0, 0.0), hidden_weight=0.0)
    objectives, batch = step(module)
    autoencoder = module.network.autoencoder
    output = autoencoder.decode(autoencoder.encode(batch["image"])[-1])[0]
    expected = F.mse_loss(output, batch["image"], reduction="none").flatten(1).mean(1)
    torch.testing.assert_close(objectives.per_sample["reconstruction"], expected)


@pytest.mark.parametrize("detach", [False, True])
def test_clean_layers_can_be_kept_out_of_the_gradient(detach, tmp_path: Path) -> None:
    module, _ = fit(tmp_path, detach_targets=detach, dropouts=(0.0, 0.0, 0.0))
    image = next(iter(data_of(module)))["image"]
    kept = module.network.autoencoder.encode(image)
    decoded = module.network.autoencoder.decode(kept[-1])
    targets = [image, *(z.detach() if detach else z for z in kept[:-1])]
    weights = (1.0, 0.1, 0.1)
    expected = sum(w * F.mse_loss(d, t) for w, d, t in zip(weights, decoded, targets, strict=True))
    objectives, _ = step(module)
    encoder = module.shared_parameters()
    ours = torch.autograd.grad(objectives.per_sample["reconstruction"].mean(), encoder)
    for got, want in zip(ours, torch.autograd.grad(expected, encoder), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-7)


def test_predictions_and_features_are_of_the_noisy_network(tmp_path: Path) -> None:
    module, _ = fit(tmp_path, dropouts=(0.5, 0.0, 0.0))
    objectives, batch = step(module)
    torch.testing.assert_close(module.network.logits(objectives.features), objectives.predictions)
    clean = module(batch["image"])
    assert float((objectives.predictions - clean).detach().abs().max()) > 1e-3


def test_evaluation_reconstructs_without_noise(tmp_path: Path) -> None:
    module, _ = fit(tmp_path, dropouts=(0.5, 0.0, 0.0), hidden_weight=0.3)
    batch = next(iter(data_of(module)))
    module.part.name = "autoencoder"  # whose evaluation needs no metrics
    found = module.train().evaluate(batch).per_sample["reconstruction"]
    autoencoder, image = module.network.autoencoder, batch["image"]
    clean = autoencoder.encode(image)
    pairs = zip([image, *clean[:-1]], autoencoder.decode(clean[-1]), strict=True)
    errors = [F.mse_loss(a, b, reduction="none").flatten(1).mean(1) for a, b in pairs]
    torch.testing.assert_close(found, errors[0] + 0.3 * (errors[1] + errors[2]))


def test_the_terms_are_weighted_by_lambda(tmp_path: Path) -> None:
    module, _ = fit(tmp_path, lambda_rec=0.5, lambda_clus=3.0)
    objectives, _ = step(module)
    reduced = reduce_objectives(objectives)
    expected = 0.5 * reduced.terms["reconstruction"] + 3.0 * reduced.terms["clustering"]
    torch.testing.assert_close(reduced.total, expected)


def test_another_criterion_learns_the_soft_targets(tmp_path: Path) -> None:
    module, _ = fit(tmp_path, criterion=CompSumLoss(tau=1.5))
    objectives, batch = step(module)
    q = module.targets.read(batch["index"])
    expected = CompSumLoss(tau=1.5, reduction="none")(objectives.predictions, q)
    torch.testing.assert_close(objectives.per_sample["clustering"], expected)


# ---- the phases ---------------------------------------------------------------------------------


def test_the_head_rests_in_the_autoencoders_phase(tmp_path: Path) -> None:
    watch = Watch(lambda module, batch: module.network.head.weight.detach().clone())
    module, trainer = fit(tmp_path, watch)
    heads = [head for part, head in watch.seen if part == "autoencoder"]
    assert all(torch.equal(head, model().network.head.weight) for head in heads)
    assert len(trainer.optimizers[0].param_groups[0]["params"]) == len(
        [p for p in module.parameters() if p.ndim > 1]
    )


@pytest.mark.parametrize("init", ["kmeans", "acpic"])
def test_the_first_labels_belong_to_the_rows_of_the_head(init, tmp_path: Path) -> None:
    class AtTheStart(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if pl_module.part.name == "head" and not hasattr(self, "head"):
                self.head = pl_module.network.head.weight.detach().clone()
                self.bias = pl_module.network.head.bias.detach().clone()
                self.label = pl_module.first_label.read(EVERY)
                image = torch.cat([b["image"] for b in data_of(pl_module)])
                self.code = pl_module.network.code(image).detach()

    watch = AtTheStart()
    options = {} if init == "acpic" else {"n_init": 2}
    fit(tmp_path, watch, init=init, init_options=options)
    # not shifted by one, not transposed, and each row by its own norm
    assert set(watch.label.tolist()) == set(range(10))
    for k in range(10):
        centroid = watch.code[watch.label == k].double().mean(0)
        torch.testing.assert_close(watch.head[k].double(), centroid / centroid.norm())
    assert not watch.bias.any()


def test_each_phase_ends_with_its_best_weights(tmp_path: Path) -> None:
    class Swap(Callback):
        """Says that the first epoch of each phase was the best."""

        def on_train_start(self, trainer, pl_module):
            self.best: dict[str, Any] = {}
            self.found: dict[str, Any] = {}
            self.epochs: list[str] = []
            pl_module._held_out_reconstruction = lambda: float(len(self.epochs))
            pl_module._held_out_agreement = lambda: -float(len(self.epochs))

        def on_train_epoch_end(self, trainer, pl_module):
            self.epochs.append(pl_module.part.name)
            self.best.setdefault(pl_module.part.name, state(pl_module))

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.found.setdefault(pl_module.part.name, state(pl_module))

    swap = Swap()
    fit(tmp_path, swap, phase_epochs=(3, 3, 1))
    before, after = swap.best["autoencoder"], swap.found["head"]
    assert set(differences(before, after)) == {"/head.weight"}
    assert differences(swap.best["head"], swap.found["joint"]) == []


def test_patience_ends_a_phase(tmp_path: Path) -> None:
    class Worse(Callback):
        def on_train_start(self, trainer, pl_module):
            self.parts: list[str] = []
            scores = iter(range(100))
            pl_module._held_out_reconstruction = lambda: float(next(scores))

        def on_train_epoch_end(self, trainer, pl_module):
            self.parts.append(pl_module.part.name)

    watch = Worse()
    fit(tmp_path, watch, phase_epochs=(50, 1, 1), patience=(3, 5))
    assert watch.parts == ["autoencoder"] * 4 + ["head", "joint"]


def test_the_run_ends_when_the_targets_no_longer_change(tmp_path: Path) -> None:
    _, trainer = fit(tmp_path, tol=1e3, phase_epochs=(1, 1, 50))
    assert trainer.current_epoch == 3
    _, trainer = fit(tmp_path, tol=0.0, phase_epochs=(1, 1, 4))
    assert trainer.current_epoch == 6


def test_a_finished_run_does_not_go_on(tmp_path: Path) -> None:
    module, trainer = fit(tmp_path)
    path = tmp_path / "end.ckpt"
    trainer.save_checkpoint(path)
    again = model()
    watch = Watch(lambda module, batch: None)
    second = tiny_trainer(tmp_path, [watch], False, max_epochs=-1)
    second.fit(again, data(), ckpt_path=path)
    assert not watch.seen
    assert differences(state(module), state(again)) == []


def test_held_out_samples_do_not_teach_the_first_two_phases(tmp_path: Path) -> None:
    watch = Watch(lambda module, batch: module.objectives(batch).sample_weight)
    module, _ = fit(tmp_path, watch, held_out=0.25)
    dropped = {"autoencoder": 0, "head": 0, "joint": 0}
    for part, weight in watch.seen:
        dropped[part] += 0 if weight is None else int((weight == 0).sum())
    assert dropped == {"autoencoder": 2 * 26, "head": 2 * 26, "joint": 0}
    assert len(module.tables.held_out_rows) == 26
    # in every phase the score is over these rows alone
    rows = torch.tensor(module.tables.held_out_rows)
    assert torch.equal(module.tables.held_out.nonzero().flatten(), rows)


def test_held_out_scores_are_those_of_the_held_out_samples(tmp_path: Path) -> None:
    module, _ = fit(tmp_path, held_out=0.3)
    every = torch.cat([batch["image"] for batch in data_of(module)])
    held_out = torch.tensor(module.tables.held_out_rows)
    with torch.no_grad():
        error = module.reconstruct(every[held_out])[0].double().mean()
        cluster = module(every[held_out]).argmax(1)
    assert module._held_out_reconstruction() == pytest.approx(float(error), rel=1e-6)
    first = module.first_label.read(held_out)
    expected = normalized_mutual_info_score(first, cluster, average_method="geometric")
    assert module._held_out_agreement() == pytest.approx(expected, abs=1e-9)


def test_the_baselines_are_what_they_are_called(tmp_path: Path) -> None:
    class Starts(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            name = pl_module.part.name
            if name in ("head", "baseline") and not hasattr(self, name):
                batches = list(data_of(pl_module))
                self.image = torch.cat([b["image"] for b in batches])
                self.label = torch.cat([b["label"] for b in batches])
                with torch.no_grad():
                    code, logits = pl_module.network.code(self.image), pl_module(self.image)
                setattr(self, name, code if name == "head" else logits.argmax(1))

    starts = Starts()
    module, _ = fit(tmp_path, starts, init="acpic", init_options={}, baselines=True)

    def nmi(cluster: Any) -> float:
        return normalized_mutual_info_score(starts.label, cluster, average_method="geometric")

    def kmeans(x: Tensor) -> Any:
        return KMeans(10, n_init=40, random_state=0).fit_predict(x.double().numpy())

    expected = {
        "acpic_code": nmi(module.first_label.read(EVERY)),
        "kmeans_code": nmi(kmeans(starts.head)),
        "kmeans_pixels": nmi(kmeans(starts.image.flatten(1))),
        "head": nmi(starts.baseline),
    }
    for stage, value in expected.items():
        assert module.stages[stage]["nmi_geometric"] == pytest.approx(value, abs=1e-9), stage


def test_a_second_fit_starts_anew(tmp_path: Path) -> None:
    module, _ = fit(tmp_path, tol=0.0)
    watch = Watch(lambda module, batch: None)
    trainer = tiny_trainer(tmp_path, [watch], False, max_epochs=-1, log_every_n_steps=50)
    digits = Digits(test_size=61, mean=[0.5], std=[0.5])
    trainer.fit(module, WholeSet(digits, parts=["test"], batch_size=40))
    parts = [part for part, _ in watch.seen]
    assert parts == ["autoencoder"] * 4 + ["head"] * 4 + ["joint"] * 4


class Relabeled(Digits):
    """Digits whose labels are turned round."""

    def read(self):
        splits = super().read()
        for part in (splits.train, splits.test):
            part.fields["label"] = part.fields["label"].flip(0)
        return splits


def test_labels_do_not_change_a_single_bit(tmp_path: Path) -> None:
    source = WholeSet(
        Relabeled(test_size=SAMPLES, mean=[0.5], std=[0.5]), parts=["test"], batch_size=40
    )
    ours, _ = fit(tmp_path / "a")
    other, _ = fit(tmp_path / "b", source=source)
    assert differences(state(ours), state(other)) == []


def test_the_baseline_leaves_no_trace(tmp_path: Path) -> None:
    class Starts(Callback):
        def __init__(self) -> None:
            self.first: dict[str, Any] = {}
            self.groups: dict[str, Any] = {}

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.first.setdefault(pl_module.part.name, state(pl_module))
            self.groups.setdefault(pl_module.part.name, dict(trainer.optimizers[0].state))

    starts = Starts()
    module, trainer = fit(tmp_path, starts, baselines=True)
    assert list(starts.first) == ["autoencoder", "head", "baseline", "joint"]
    assert trainer.current_epoch == 8
    differing = differences(starts.first["baseline"], starts.first["joint"])
    assert differing == []
    # every phase begins with a fresh optimizer
    assert all(not group for group in starts.groups.values())
    names = {"kmeans_pixels", "kmeans_code", "head", "dec"}
    assert set(module.stages) == names
    assert module._start == {}


def test_the_baseline_is_dec_without_reconstruction(tmp_path: Path) -> None:
    class AtTheStart(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if pl_module.part.name == "baseline" and not hasattr(self, "weights"):
                self.weights = pl_module.objectives(batch).weights
                self.p, self.q = (
                    table.read(EVERY) for table in (pl_module.assignments, pl_module.targets)
                )

    watch = AtTheStart()
    fit(tmp_path, watch, baselines=True, target="sqrt")
    assert watch.weights == {"reconstruction": 0.0, "clustering": 1.0}
    torch.testing.assert_close(watch.q, dec_target_distribution(watch.p, "square"))


# ---- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_clusters": 1}, "num_clusters"),
        ({"phase_epochs": (1, 1, 0)}, "phase_epochs"),
        ({"phase_epochs": (-1, 1, 1)}, "phase_epochs"),
        ({"patience": (0, 5)}, "patience"),
        ({"held_out": 1.0}, "held_out"),
        ({"tol": -1.0}, "tol"),
        ({"criterion": EnsLoss()}, "hard labels"),
        ({"kernels": (4,)}, "channels"),
        ({"lambda_rec": float("nan")}, "lambda_rec"),
        ({"target": "sqr"}, "target"),
        ({"init": "km"}, "init"),
        ({"refresh": "Full"}, "refresh"),
    ],
)
def test_arguments_out_of_range_are_refused(settings, said) -> None:
    with pytest.raises(ValueError, match=said):
        model(**settings)


def test_data_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match=r"set model\.input_shape"):
        fit(tmp_path, input_shape=(1, 16, 16))
    with pytest.raises(IncompatibleError, match="mixup"):
        fit(tmp_path, source=Digits(mixup=0.2))
    with pytest.raises(IncompatibleError, match="103 samples for 200 clusters"):
        fit(tmp_path, num_clusters=200)
    with pytest.raises(ValueError, match=r"init_options does not fit kmeans: .*ninit"):
        fit(tmp_path, init_options={"ninit": 3})


def test_the_defaults_are_the_published_ones() -> None:
    module = DEPICT()
    assert module.plan.epochs == (4001, 1000, 4000)
    assert module.plan.patience == (100, 5)
    assert (module.held_out, module.tol, module.hidden_weight) == (0.1, 1e-7, 0.1)
    assert (module.lambda_rec, module.lambda_clus, module.target) == (1.0, 1.0, "sqrt")
    assert [layer.p for layer in module.network.autoencoder.dropouts] == [0.1, 0.1, 0.0]
    assert [tuple(c.weight.shape) for c in module.network.autoencoder.convolutions] == [
        (50, 1, 4, 4),
        (50, 50, 5, 5),
    ]


def test_both_terms_act_on_the_encoder_alone() -> None:
    module = model()
    shared = {id(p) for p in module.shared_parameters()}
    encoder = [*module.network.autoencoder.convolutions, module.network.autoencoder.to_code]
    assert shared == {id(p) for layer in encoder for p in layer.parameters()}
    assert isinstance(encoder[0], nn.Conv2d)
