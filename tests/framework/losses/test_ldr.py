import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from framework.losses import ALDRLoss, LDRLoss
from framework.losses.ldr import adapt_temperature, tempered_scores, worst_case

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.3, 0.1, -0.2]], dtype=torch.float64)
LABELS = torch.tensor([0, 2])
CPU = torch.device("cpu")


def random_logits(seed: int, rows: int = 16, classes: int = 5, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64)


def normalize_logits(logits: Tensor, how: str | None) -> Tensor:
    return tempered_scores(logits, torch.zeros(len(logits)).long(), 1.0, normalize=how)


def margin_violations(logits: Tensor, labels: Tensor, margin: float) -> Tensor:
    wrong = 1 - F.one_hot(labels, logits.shape[1]).to(logits)
    return logits - logits.gather(1, labels[:, None]) + margin * wrong


def ldr(logits: Tensor, labels: Tensor, lam: float, margin: float = 0.1) -> Tensor:
    return LDRLoss(lam, margin, normalize=None, reduction="none")(logits, labels)


# ---- LDR --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lam", "margin", "values"),
    [
        (1.0, 0.0, [-0.857301, 0.287327]),
        (1.0, 0.1, [-0.835003, 0.363240]),
        (0.1, 0.1, [-0.109861, 0.503050]),
        (10.0, 0.1, [-1.363461, 0.336434]),
        (1e-3, 1.0, [-0.001099, 1.498901]),
        (1e4, 0.1, [-1.433263, 0.333336]),
    ],
)
def test_ldr_values_of_the_worked_example(lam: float, margin: float, values: list) -> None:
    assert ldr(LOGITS, LABELS, lam, margin).tolist() == pytest.approx(values, abs=6e-7)


def test_ldr_gradient_of_the_worked_example() -> None:
    logits = LOGITS.clone().requires_grad_()
    value = ldr(logits, LABELS, 0.5)[0]
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.item() == pytest.approx(-0.518365, abs=6e-7)
    assert gradient[0].tolist() == pytest.approx([-0.060007, 0.002846, 0.057161], abs=6e-7)
    q = ((logits[0].detach() + torch.tensor([0.0, 0.1, 0.1])) / 0.5).softmax(0)
    torch.testing.assert_close(gradient[0], q - F.one_hot(torch.tensor(0), 3))


def test_ldr_without_margin_is_cross_entropy_minus_log_k() -> None:
    logits, labels = random_logits(0), torch.arange(16) % 5
    expected = F.cross_entropy(logits, labels, reduction="none") - math.log(5)
    torch.testing.assert_close(ldr(logits, labels, 1.0, margin=0.0), expected)


def test_ldr_lies_between_the_crammer_singer_hinge_and_the_mean() -> None:
    assert margin_violations(LOGITS, LABELS, 1.0).amax(1).tolist() == pytest.approx([0.0, 1.5])
    mean = margin_violations(LOGITS, LABELS, 0.1).mean(1)
    assert mean.tolist() == pytest.approx([-1.433333, 0.333333], abs=6e-7)
    logits, labels = random_logits(1), torch.arange(16) % 5
    violations = margin_violations(logits, labels, 0.1)
    torch.testing.assert_close(ldr(logits, labels, 1e-4), violations.amax(1), atol=2e-4, rtol=0)
    torch.testing.assert_close(ldr(logits, labels, 1e6), violations.mean(1), atol=2e-5, rtol=0)


@given(seed=st.integers(0, 1000), lam=st.floats(0.05, 20), margin=st.floats(0, 2))
@settings(max_examples=30, deadline=None)
def test_ldr_is_the_maximum_over_label_distributions(seed: int, lam: float, margin: float) -> None:
    logits, labels = random_logits(seed), torch.arange(16) % 5
    wrong = (1 - F.one_hot(labels, 5)).double()
    violations = margin_violations(logits, labels, margin)

    def objective(q: Tensor) -> Tensor:
        return (q * violations).sum(1) - lam * torch.xlogy(q, 5 * q).sum(1)

    value = ldr(logits, labels, lam, margin)
    torch.testing.assert_close(objective(((logits + margin * wrong) / lam).softmax(1)), value)
    assert (objective(random_logits(seed + 1).softmax(1)) <= value + 1e-9).all()
    # and its bounds
    top = violations.amax(1)
    assert (value <= top + 1e-9).all()
    assert (value >= top - lam * math.log(5) - 1e-9).all()


@given(seed=st.integers(0, 1000), lam=st.floats(0.05, 20), factor=st.floats(1.1, 10))
@settings(max_examples=30, deadline=None)
def test_ldr_decreases_in_the_temperature(seed: int, lam: float, factor: float) -> None:
    logits, labels = random_logits(seed), torch.arange(16) % 5
    assert (ldr(logits, labels, lam * factor) <= ldr(logits, labels, lam)).all()
    assert (ldr(logits, labels, lam * factor) < ldr(logits, labels, lam)).any()


@given(seed=st.integers(0, 1000), lam=st.floats(0.05, 20), share=st.floats(0.05, 0.95))
@settings(max_examples=30, deadline=None)
def test_ldr_is_convex(seed: int, lam: float, share: float) -> None:
    one, two, labels = random_logits(seed), random_logits(seed + 1), torch.arange(16) % 5
    between = ldr(share * one + (1 - share) * two, labels, lam)
    chord = share * ldr(one, labels, lam) + (1 - share) * ldr(two, labels, lam)
    assert (between <= chord + 1e-9).all()
    assert (between < chord - 1e-9).any()


def test_a_constant_added_to_the_logits_changes_nothing_unless_they_are_normalized() -> None:
    logits, labels = random_logits(2), torch.arange(16) % 5
    for loss in (LDRLoss(normalize=None), ALDRLoss(normalize=None).eval()):
        shifted, plain = (loss(f, labels, index=labels) for f in (logits + 12.5, logits))
        torch.testing.assert_close(shifted, plain)
    for loss in (LDRLoss(), ALDRLoss().eval()):
        shifted, plain = (loss(f, labels, index=labels) for f in (logits + 12.5, logits))
        assert (shifted - plain).abs() > 1e-3


def test_normalization() -> None:
    expected = [[1.714286, -0.857143, 0.428571], [1.5, 0.5, -1.0]]
    actual = normalize_logits(LOGITS, "l1")
    torch.testing.assert_close(actual, torch.tensor(expected).double(), atol=6e-7, rtol=1e-7)
    logits = random_logits(3)
    positive = (1 + logits.exp()).log()
    torch.testing.assert_close(
        normalize_logits(logits, "softplus_mean"),
        positive / positive.mean(1, keepdim=True),
        atol=1e-6,
        rtol=1e-6,
    )
    torch.testing.assert_close(normalize_logits(logits, None), logits, atol=0, rtol=0)
    torch.testing.assert_close(
        normalize_logits(1000 * logits, "l1"), normalize_logits(logits, "l1"), atol=1e-6, rtol=0
    )
    assert normalize_logits(torch.zeros(1, 3), "l1").tolist() == [[0.0, 0.0, 0.0]]


def test_softplus_mean_is_the_default_of_ldr_and_l1_that_of_aldr() -> None:
    logits, labels = random_logits(4), torch.arange(16) % 5
    plain = LDRLoss(normalize=None)(normalize_logits(logits, "softplus_mean"), labels)
    torch.testing.assert_close(LDRLoss()(logits, labels), plain)
    assert ALDRLoss().normalize == "l1"


@pytest.mark.parametrize("normalize", ["softplus_mean", "l1", None])
@pytest.mark.parametrize("lam", [0.5, 10.0])
def test_ldr_gradcheck(normalize: str | None, lam: float) -> None:
    logits = random_logits(5, rows=3, classes=4, scale=1.0).requires_grad_()
    loss = LDRLoss(lam, normalize=normalize)
    assert torch.autograd.gradcheck(loss, (logits, torch.tensor([0, 3, 1])))


# ---- ALDR -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("normalize", "margin_in_q", "kl", "temperature", "values"),
    [
        (None, False, [0.477028, 0.020112], [0.782895, 0.990847], [-0.774461, 0.363411]),
        (None, True, [0.447176, 0.028513], [0.796482, 0.987023], [-0.776202, 0.363430]),
        ("l1", False, [0.388385, 0.331828], [0.823238, 0.848979], [-0.731326, 1.899978]),
    ],
)
def test_aldr_values_of_the_worked_example(
    normalize: str | None, margin_in_q: bool, kl: list, temperature: list, values: list
) -> None:
    loss = ALDRLoss(normalize=normalize, margin_in_q=margin_in_q, reduction="none")
    loss.setup(10, 3, CPU)
    index = torch.tensor([7, 2])
    assert loss(LOGITS, LABELS, index=index).tolist() == pytest.approx(values, abs=6e-7)
    stored = loss.temperature.read(index).double()
    assert stored.tolist() == pytest.approx(temperature, abs=6e-7)
    assert ((1 - stored) * 2 * math.log(3)).tolist() == pytest.approx(kl, abs=6e-7)


def test_temperature_follows_from_the_kl_divergence() -> None:
    scores, old = random_logits(6), torch.linspace(0.5, 3.0, 16).double()
    q = (scores / old[:, None]).softmax(1)
    kl = (q * (5 * q).log()).sum(1)
    expected = 3.0 * (1 - kl / (1.5 * math.log(5)))
    torch.testing.assert_close(adapt_temperature(scores / old[:, None], 3.0, 1.5), expected)


@given(seed=st.integers(0, 1000), scale=st.floats(0, 1e4), alpha=st.floats(1.01, 10))
@settings(max_examples=30, deadline=None)
def test_temperature_is_bounded(seed: int, scale: float, alpha: float) -> None:
    scores = random_logits(seed, scale=scale).float()
    new = adapt_temperature(scores, 1.0, alpha)
    assert (new >= 1 - 1 / alpha - 1e-6).all()
    assert (new <= 1).all()


def test_rounding_does_not_carry_the_temperature_over_its_bound() -> None:
    """The KL divergence of even scores is 0; in float32 it comes out negative for some K."""
    for classes in range(2, 60):
        assert adapt_temperature(torch.zeros(1, classes), 1.0, 1.01) <= 1


@pytest.mark.parametrize("lam0", [1.0, 10.0])
def test_alternation_ends_at_a_stationary_point_of_the_joint_maximum(lam0: float) -> None:
    logits = normalize_logits(random_logits(7), "l1")
    labels = torch.arange(16) % 5
    violations = margin_violations(logits, labels, 0.1)
    lam = torch.full((16,), lam0, dtype=torch.float64)
    for _ in range(50):
        previous, lam = lam, adapt_temperature(violations / lam[:, None], lam0, 2.0)
    assert (lam - previous).abs().max() < 1e-8

    lam.requires_grad_()
    pull = 2 * math.log(5) / lam0
    joint = worst_case(violations / lam[:, None], labels, lam) - pull / 2 * (lam - lam0) ** 2
    (slope,) = torch.autograd.grad(joint.sum(), lam)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-7, rtol=0)

    loss = ALDRLoss(lam0, margin_in_q=True, reduction="none")
    loss.setup(16, 5, CPU)
    loss.temperature.write(torch.arange(16), lam.detach().float())
    values = loss(logits, labels, index=torch.arange(16))
    torch.testing.assert_close(values, joint.detach(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("normalize", ["softplus_mean", "l1", None])
def test_the_margin_in_q_lowers_the_temperature_of_wrong_labels(normalize: str | None) -> None:
    """Without it, which is the default, the temperature knows the predictions alone."""
    logits = random_logits(11)
    right = logits.argmax(1)
    wrong = (right + 1) % 5
    for margin_in_q in (True, False):
        found = []
        for labels in (right, wrong):
            loss = ALDRLoss(10.0, normalize=normalize, margin_in_q=margin_in_q)
            loss.setup(16, 5, CPU)
            loss(logits, labels, index=torch.arange(16))
            found.append(loss.temperature.read(torch.arange(16)))
        if margin_in_q:
            assert (found[1] < found[0]).all()
        else:
            assert torch.equal(found[1], found[0])
    assert not ALDRLoss().margin_in_q


def test_a_large_alpha_gives_ldr() -> None:
    logits, labels, index = random_logits(8), torch.arange(16) % 5, torch.arange(16)
    for normalize in ("softplus_mean", "l1", None):
        loss = ALDRLoss(2.0, alpha=1e9, normalize=normalize, reduction="none")
        loss.setup(16, 5, CPU)
        expected = LDRLoss(2.0, normalize=normalize, reduction="none")(logits, labels)
        torch.testing.assert_close(loss(logits, labels, index=index), expected)


def test_the_temperature_is_constant_for_the_gradient() -> None:
    logits, labels, index = (
        random_logits(9).requires_grad_(),
        torch.arange(16) % 5,
        torch.arange(16),
    )
    loss = ALDRLoss(normalize=None, reduction="sum")
    loss.setup(16, 5, CPU)
    (gradient,) = torch.autograd.grad(loss(logits, labels, index=index), logits)
    lam = loss.temperature.read(index).double()[:, None]
    onehot = F.one_hot(labels, 5).double()
    q = ((logits.detach() + 0.1 * (1 - onehot)) / lam).softmax(1)
    torch.testing.assert_close(gradient, q - onehot, atol=1e-6, rtol=0)


@pytest.mark.parametrize("normalize", ["softplus_mean", "l1", None])
def test_aldr_gradcheck(normalize: str | None) -> None:
    """With a huge alpha the temperature does not move, and neither does its missing gradient."""
    logits = random_logits(10, rows=3, classes=4, scale=1.0).requires_grad_()
    loss = ALDRLoss(2.0, alpha=1e15, normalize=normalize).eval()

    def function(logits: Tensor) -> Tensor:
        return loss(logits, torch.tensor([0, 3, 1]), index=torch.arange(3))

    assert torch.autograd.gradcheck(function, (logits,))


# ---- ALDR's memory ----------------------------------------------------------------------------


def trained(steps: int, loss: ALDRLoss | None = None, first: int = 0) -> tuple[ALDRLoss, list]:
    if loss is None:
        loss = ALDRLoss()
        loss.setup(20, 5, CPU)
    values = []
    for step in range(first, first + steps):
        index = torch.randperm(20, generator=torch.Generator().manual_seed(step))[:16]
        values.append(loss(random_logits(step), torch.arange(16) % 5, index=index))
    return loss, values


def test_training_starts_from_the_stored_temperatures_and_moves_only_those_it_saw() -> None:
    loss = ALDRLoss(lam0=3.0, normalize=None, margin_in_q=False)
    loss.setup(5, 3, CPU)
    for _ in range(2):
        loss(LOGITS, LABELS, index=torch.tensor([3, 1]))
    once = adapt_temperature(LOGITS / 3.0, 3.0, 2.0)
    twice = adapt_temperature(LOGITS / once[:, None], 3.0, 2.0)
    expected = [3.0, twice[1].item(), 3.0, twice[0].item(), 3.0]
    stored = loss.temperature.read(torch.arange(5))
    assert stored.tolist() == pytest.approx(expected, abs=1e-6)
    assert (once - twice).abs().max() > 1e-3


def test_evaluation_neither_reads_nor_writes() -> None:
    loss, _ = trained(2)
    index = torch.arange(16)
    before = loss.temperature.read(torch.arange(20))
    fresh = ALDRLoss().eval()  # no setup: no memory at all
    expected = fresh(random_logits(3), torch.arange(16) % 5, index=index)
    actual = loss.eval()(random_logits(3), torch.arange(16) % 5, index=index)
    assert torch.equal(actual, expected)
    assert torch.equal(loss.temperature.read(torch.arange(20)), before)
    in_training = loss.train()(random_logits(3), torch.arange(16) % 5, index=index)
    assert not torch.equal(in_training, expected)


def test_a_restored_run_has_the_bits_of_an_uninterrupted_one() -> None:
    _, uninterrupted = trained(4)
    first, _ = trained(2)
    second = ALDRLoss()
    second.setup(20, 5, CPU)
    second.temperature.load_state_dict(first.temperature.state_dict())
    _, resumed = trained(2, second, first=2)
    assert torch.equal(torch.stack(uninterrupted[2:]), torch.stack(resumed))
    forgetful = ALDRLoss()
    forgetful.setup(20, 5, CPU)
    assert not torch.equal(torch.stack(trained(2, forgetful, first=2)[1]), torch.stack(resumed))


def test_the_memory_is_neither_buffer_nor_parameter() -> None:
    loss, _ = trained(1)
    assert not list(loss.buffers())
    assert not list(loss.parameters())
    assert not loss.state_dict()


def test_an_empty_batch_leaves_the_memory_alone() -> None:
    loss, _ = trained(1)
    before = loss.temperature.read(torch.arange(20))
    empty = torch.empty(0, dtype=torch.int64)
    assert loss(torch.empty(0, 5), empty, index=empty) == 0
    assert torch.equal(loss.temperature.read(torch.arange(20)), before)


# ---- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: LDRLoss(lam=0.0), "lam must be"),
        (lambda: LDRLoss(lam=math.nan), "lam must be"),
        (lambda: LDRLoss(margin=-0.1), "margin must be"),
        (lambda: LDRLoss(normalize="l2"), "normalize must be one of"),
        (lambda: ALDRLoss(lam0=-1.0), "lam0 must be"),
        (lambda: ALDRLoss(alpha=1.0), r"alpha must lie in \(1, inf\)"),
        (lambda: ALDRLoss(alpha=math.inf), r"alpha must lie in \(1, inf\)"),
        (lambda: ALDRLoss(margin=math.nan), "margin must be"),
        (lambda: ALDRLoss(normalize=""), "normalize must be"),
    ],
)
def test_refuses_bad_arguments(build: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()


def test_training_before_setup_is_refused() -> None:
    with pytest.raises(RuntimeError, match="call setup"):
        ALDRLoss()(LOGITS, LABELS, index=torch.arange(2))


def test_an_index_that_does_not_fit_is_refused() -> None:
    loss = ALDRLoss()
    loss.setup(5, 3, CPU)
    with pytest.raises(TypeError, match="needs index"):
        loss(LOGITS, LABELS)
    for index in (None, torch.arange(3), torch.zeros(2, 1, dtype=torch.int64)):
        with pytest.raises(ValueError, match="index of each of the 2 samples"):
            loss(LOGITS, LABELS, index=index)
