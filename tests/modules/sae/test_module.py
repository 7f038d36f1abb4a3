"""Training a sparse autoencoder: the terms, the order of a step, the carry on two ranks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback

from framework.objectives.errors import IncompatibleError
from framework.objectives.reduction import reduce_objectives
from framework.sparse_coding.selection import MutualChoice, TokenChoice
from modules import SparseAutoencoderModule
from modules.sae.activations import JumpReLU
from modules.sae.auxiliary import DeadLatentAuxLoss
from tests.helpers.configs import arguments
from tests.helpers.runs import Record, fit
from tests.test_parity import FLOAT64, compare
from tests.test_resume import assert_same_bits, kill_and_resume

QUIET_LOG = ["--trainer.logger=false"]


def batch(tokens: int = 20, d: int = 6) -> dict[str, torch.Tensor]:
    x = torch.randn(tokens, d, generator=torch.Generator().manual_seed(1)) + 2
    return {"activation": x, "index": torch.arange(tokens)}


def build(**kwargs: object) -> SparseAutoencoderModule:
    torch.manual_seed(0)
    kwargs = {"d_in": 6, "d_sae": 24, "selection": MutualChoice(k=4), **kwargs}
    return SparseAutoencoderModule(**kwargs)


def loss(model: SparseAutoencoderModule, data: dict[str, torch.Tensor]) -> float:
    return float(reduce_objectives(model.objectives(data)).terms["reconstruction"].detach())


def test_the_reconstruction_is_the_share_of_the_variance_that_is_left() -> None:
    data = batch()
    x = data["activation"]
    model = build()
    error = (x - model.sae.decode(model.sae.encode_batch(x).code)).square().sum().detach()
    assert loss(model, data) == pytest.approx(float(error / (x - x.mean(0)).square().sum()))
    with torch.no_grad():
        model.sae.W_dec.zero_()
        model.sae.b_dec.copy_(x.mean(0))
    assert loss(model, data) == pytest.approx(1.0)


def test_denominators() -> None:
    data = batch()
    error = (build()(data["activation"]) - data["activation"]).square().sum(1)
    models = {name: build(denominator=name) for name in ("batch", "fixed", "none")}
    for model in models.values():
        model.start_from(batch(1000))
    expected = batch(1000)["activation"].double().var(0, correction=0).sum()
    torch.testing.assert_close(models["fixed"].variance.double(), expected, rtol=1e-6, atol=0)
    per_token = loss(models["none"], data)
    error = (data["activation"] - _rebuilt(models["none"], data)).square().sum(1).mean()
    assert per_token == pytest.approx(float(error))
    assert loss(models["fixed"], data) == pytest.approx(per_token / float(expected))
    x = data["activation"]
    variance = float((x - x.mean(0)).square().sum(1).mean())
    assert loss(models["batch"], data) == pytest.approx(per_token / variance)


def _rebuilt(model: SparseAutoencoderModule, data: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model.sae.decode(model.sae.encode_batch(data["activation"]).code)


def test_nested_groups_add_their_errors_up() -> None:
    data = batch()
    model = build(groups=(0.25, 0.75))
    x = data["activation"]
    nested = model.sae.reconstructions(model.sae.encode_batch(x).code)
    error = (x - nested).square().sum().detach()
    assert loss(model, data) == pytest.approx(float(error / (x - x.mean(0)).square().sum()))


def test_evaluation_encodes_every_token_on_its_own() -> None:
    model, data = build(), batch()
    model.objectives(data)
    model.eval()
    model.trainer = SimpleNamespace(testing=False)
    model.setup_metrics()
    together = model.evaluate(data).per_sample["reconstruction"]
    alone = [
        model.evaluate({k: v[i : i + 1] for k, v in data.items()}).per_sample["reconstruction"]
        for i in range(20)
    ]
    torch.testing.assert_close(together, torch.cat(alone))
    values = model.metrics.compute()
    x = data["activation"].double()
    fvu = together.double().sum() / (x - x.mean(0)).square().sum()
    assert float(values["fvu"]) == pytest.approx(float(fvu), rel=1e-5)
    assert float(values["fvu_batch_rule"]) > 0
    columns = model.predict_columns(data)
    torch.testing.assert_close(columns["error"], together)
    assert torch.equal(columns["l0"], (model.sae.encode_dense(data["activation"]) > 0).sum(1))


def test_an_empty_batch() -> None:
    model = build(auxiliary=DeadLatentAuxLoss())
    objectives = model.objectives(batch(0))
    total = reduce_objectives(objectives).total
    total.backward()
    assert float(total.detach()) == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


# ---- calibration ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mutual", "feature"])
def test_calibrated_thresholds_keep_k_features_per_token(kind: str) -> None:
    from framework.sparse_coding.selection import FeatureChoice

    rule = FeatureChoice(k=4, alpha=1.0, beta=5.0) if kind == "feature" else MutualChoice(k=4)
    model = build(selection=rule)
    if kind == "feature":
        rule.assign(torch.arange(24.0))
    data = batch(40_000)
    parts = [{k: v[i : i + 7000] for k, v in data.items()} for i in range(0, 40_000, 7000)]
    model.calibrate(parts)
    active = model.sae.encode_dense(data["activation"]) > 0
    assert float(active.sum(1).float().mean()) == pytest.approx(4, rel=0.002)
    thresholds = model.sae.thresholds.values()
    if kind == "mutual":
        assert len(thresholds.unique()) == 1
        return
    # a feature that is above 0 less often than its share leaves the rest to the others
    positive = (model.sae.pre_activations(data["activation"]) > 0).double().mean(0)
    rate = active.double().mean(0)
    full = thresholds == 0
    assert 0 < int(full.sum()) < 24
    torch.testing.assert_close(rate[full], positive[full])
    level = rate[~full] / rule.share[~full]
    torch.testing.assert_close(level, level.mean().expand_as(level), rtol=0.02, atol=0)
    assert float(level.mean()) > 4


# ---- whole runs ----------------------------------------------------------------------------------


class Watch(Callback):
    """Looks at the decoder around every step."""

    def __init__(self) -> None:
        self.inner: list[float] = []
        self.lengths: list[float] = []
        self.norms: list[float] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.before = pl_module.sae.W_dec.detach().clone()
        optimizer = trainer.optimizers[0]
        if not self.inner and not hasattr(self, "hooked"):
            self.hooked = optimizer.register_step_post_hook(self.after_step)
            self.module = pl_module

    def after_step(self, optimizer, args, kwargs):
        # the gradient as the optimizer saw it, after clipping, and the weight before it moved
        gradient = self.module.sae.W_dec.grad
        self.inner.append(float((gradient * self.before).sum(1).abs().max()))
        norms = [p.grad.norm() for p in self.module.parameters()]
        self.norms.append(float(torch.stack(norms).norm()))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        lengths = pl_module.sae.W_dec.detach().norm(dim=1)
        self.lengths.append(float((lengths - 1).abs().max()))


def test_project_clip_step_renormalize(tmp_path: Path) -> None:
    watch = Watch()
    args = [*arguments("sae_mutual"), "--trainer.gradient_clip_val=0.02", *QUIET_LOG]
    fit([*args, f"--run_folder={tmp_path}"], [watch])
    assert len(watch.lengths) == 12
    assert max(watch.inner) < 1e-6
    assert max(watch.lengths) < 1e-6
    # what was clipped to is the norm without what was projected away
    assert watch.norms == pytest.approx([0.02] * 12, rel=1e-4)


def test_the_bias_starts_at_the_mean_and_the_sizes_are_noted(tmp_path: Path) -> None:
    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            self.bias = pl_module.sae.b_dec.detach().clone()
            self.scale = float(pl_module.sae.input_scale)

    look = Look()
    args = [*arguments("sae"), "--trainer.max_steps=1", *QUIET_LOG]
    fit([*args, f"--run_folder={tmp_path}"], [look])
    raw = torch.from_numpy(np.load("tests/shrink/activations.npy")).double()[:197]
    scale = 8**0.5 / raw.norm(dim=1).mean()
    assert look.scale == pytest.approx(float(scale))
    torch.testing.assert_close(look.bias.double(), raw.mean(0) * scale, rtol=1e-5, atol=1e-6)


CARRY = ["--model.selection=FeatureChoice", "--model.selection.k=1", "--data.batch_size=30"]


def test_two_ranks_carry_budgets_as_one_process(tmp_path, two_ranks) -> None:
    args = [*arguments("sae"), *CARRY, *FLOAT64]
    one, _ = compare(args, tmp_path, two_ranks)
    assert one.steps


def test_the_carry_resumes_bitwise(tmp_path) -> None:
    assert_same_bits(*kill_and_resume([*arguments("sae"), *CARRY], tmp_path, kill_at=7))


def test_micro_batches_are_counted_once(tmp_path: Path) -> None:
    args = [*arguments("sae"), "--data.drop_last=true", "--trainer.max_epochs=1", *QUIET_LOG]
    whole = fit([*args, f"--run_folder={tmp_path / 'whole'}"])
    cut = fit(
        [
            *args,
            "--data.batch_size=16",
            "--trainer.accumulate_grad_batches=4",
            f"--run_folder={tmp_path / 'cut'}",
        ]
    )
    for record in (whole, cut):
        assert int(record.parameters["sae.statistics.tokens"]) == 192
    # token choice of the first batch is the same however it is cut
    assert _first_loss(cut) > 0


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_half_precision_counts_as_full_precision_does(precision: str, tmp_path: Path) -> None:
    few = [*CARRY, "--model.density_tokens=1e5", "--trainer.max_epochs=30", "--data.batch_size=60"]
    few += ["--trainer.limit_val_batches=0", "--checkpoint.monitor=null"]
    few += ["--model.optimizer.eps=1e-4"]  # 1e-8 is 0 in float16
    args = [*arguments("sae"), *few, *QUIET_LOG, f"--trainer.default_root_dir={tmp_path}"]
    found = fit([*args, f"--trainer.precision={precision}"])
    counts = {n: v for n, v in found.parameters.items() if "statistics" in n}
    assert int(counts["sae.statistics.tokens"]) == 30 * 197
    # 0.5 % lower, as the past fades; bfloat16 would stop at 4,096
    assert float(counts["sae.statistics.seen"]) == pytest.approx(30 * 197 * 0.971, rel=0.01)
    density = counts["sae.statistics.fired"] / counts["sae.statistics.seen"]
    assert float(density.sum()) == pytest.approx(1.0, rel=0.1)
    types = {n: v.dtype for n, v in found.parameters.items()}
    assert types["sae.W_dec"] == {"b": torch.bfloat16, "1": torch.float16}[precision[0]]
    assert types["sae.selections.0.share"] == types["sae.selections.0.carry"] == torch.float64
    single = ("statistics.fired", "thresholds.mean", "input_scale")
    assert {types[f"sae.{name}"] for name in single} == {torch.float32}
    assert types["variance"] == torch.float32


def test_thresholds_move_in_half_precision(tmp_path: Path) -> None:
    jump = ["--model.selection=JumpReLU", "--model.selection.threshold=0.5"]
    free = ["--model.selection.bandwidth=0.5", "--model.auxiliary=null", "--model.denominator=none"]
    args = [*arguments("sae"), *jump, *free, *QUIET_LOG, f"--trainer.default_root_dir={tmp_path}"]
    found = fit([*args, "--trainer.precision=bf16-true"])
    log_threshold = found.parameters["sae.selections.0.log_threshold"]
    assert log_threshold.dtype == torch.float32
    assert len(log_threshold.unique()) > len(log_threshold) / 2


def test_an_optimizer_that_would_divide_by_0_is_refused(tmp_path: Path) -> None:
    args = [*arguments("sae"), *QUIET_LOG, f"--trainer.default_root_dir={tmp_path}"]
    with pytest.raises(IncompatibleError, match=r"eps=.*, which is 0 in torch\.float16: set "):
        fit([*args, "--trainer.precision=16-true"])


@pytest.mark.parametrize("config", ["sae", "sae_mutual"])
def test_trains_in_mixed_precision(config: str, tmp_path: Path) -> None:
    args = [*arguments(config), *QUIET_LOG, f"--trainer.default_root_dir={tmp_path}"]
    args += ["--trainer.max_epochs=1", "--trainer.limit_val_batches=0", "--checkpoint.monitor=null"]
    found = fit([*args, "--trainer.precision=bf16-mixed"])
    assert found.parameters["sae.W_dec"].isfinite().all()


class DeadAfter(Callback):
    """Keeps after how many tokens a feature is dead, and ends the run."""

    def on_train_start(self, trainer, pl_module):
        self.tokens = pl_module.dead_after
        trainer.should_stop = True


@pytest.mark.parametrize(
    ("flag", "tokens", "says"),
    [
        # three epochs of four batches of 64
        ("null", 192, None),
        ("100", 100, None),
        ("40", 40, "model.dead_tokens=40 is 5.2% of the 768 tokens of the run, so that features"),
        ("768", 768, "is no less than the 768 tokens of the run, so that the auxiliary loss never"),
    ],
)
def test_dead_features_are_told_by_the_length_of_the_run(
    flag: str, tokens: int, says: str | None, tmp_path: Path, caplog
) -> None:
    look = DeadAfter()
    args = [*arguments("sae"), *QUIET_LOG, f"--trainer.default_root_dir={tmp_path}"]
    fit([*args, f"--model.dead_tokens={flag}"], [look])
    assert look.tokens == tokens
    said = [r.getMessage() for r in caplog.records if "dead_tokens" in r.getMessage()]
    assert len(said) == (says is not None)
    assert says is None or says in said[0]


def test_dead_features_of_a_run_without_end_are_the_published_ones(tmp_path: Path) -> None:
    look = DeadAfter()
    endless = ["--trainer.max_epochs=-1", "--model.lr_scheduler=null"]
    args = [*arguments("sae"), *QUIET_LOG, f"--trainer.default_root_dir={tmp_path}"]
    fit([*args, *endless, "--model.dead_tokens=null"], [look])
    assert look.tokens == 10_000_000


def _first_loss(record: Record) -> float:
    return float.fromhex(record.steps[0]["terms"]["reconstruction"])


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (["--model.d_in=9"], "set model.d_in"),
        (["--model.d_out=8"], "has no targets"),
    ],
)
def test_data_of_another_size_is_refused(extra: list[str], says: str, tmp_path: Path) -> None:
    args = [*arguments("sae"), *extra, *QUIET_LOG, f"--run_folder={tmp_path}"]
    with pytest.raises(IncompatibleError, match=says):
        fit(args)


def test_a_penalty_that_grows_over_a_run_without_end_is_refused(tmp_path: Path) -> None:
    endless = ["--trainer.max_epochs=-1", "--model.selection=ReLUWithL1", "--model.auxiliary=null"]
    args = [*arguments("sae"), *endless, *QUIET_LOG, f"--run_folder={tmp_path}"]
    with pytest.raises(IncompatibleError, match="has no end"):
        fit([*args, "--model.denominator=none", "--model.lr_scheduler=null"])


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"denominator": "mean"}, "denominator must be one of"),
        ({"dead_tokens": 0}, "must be at least 1"),
        ({"selection": JumpReLU(), "auxiliary": DeadLatentAuxLoss()}, "JumpReLU selects nothing"),
        ({"selection": TokenChoice(25)}, "k=25 of 24 features"),
    ],
)
def test_refuses(kwargs, says) -> None:
    with pytest.raises(ValueError, match=says):
        build(**kwargs)
