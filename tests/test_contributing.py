"""The examples of CONTRIBUTING.md run as they stand there, in the tree and outside of it."""

from __future__ import annotations

import doctest
import importlib
import math
import pydoc
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import trimtab
from framework.command.new import with_export
from framework.optim import LionK
from tests.helpers.checkout import check_types, copy_checkout, lint, run_tests
from tests.helpers.configs import arguments
from tests.helpers.runs import QUIET, ROOT, Record, fit, fit_on_two_ranks, in_child, terms
from tests.test_new_method import TESTS_OF_METHODS, add_methods
from tests.test_parity import FLOAT64, assert_parity
from tests.test_resume import assert_same_bits, kill_and_resume

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
BLOCK = re.compile(r"^`([\w/]+\.(?:py|yaml))`:\n\n```(?:python|yaml)\n(.*?)^```$", re.M | re.S)
EXAMPLES = dict(BLOCK.findall(TEXT))
EXPORT = re.compile(r"`([\w/]+\.pyi)`:\s`from \.(\w+) import (\w+) as \3`")
EXPORTS = EXPORT.findall(TEXT)
PACKAGE = "contributed"
MODULES = {
    Path(path).stem: f"{PACKAGE}.{path[:-3].replace('/', '.')}"
    for path in EXAMPLES
    if path.endswith(".py")
}
OVERLAYS = [path for path in EXAMPLES if path.startswith("configs/with/")]
TWO_STEPS = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the package of all examples."""
    folder = tmp_path_factory.mktemp("contributing")
    for path, text in EXAMPLES.items():
        file = folder / PACKAGE / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def inside(folder: Path, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function where the examples are imported, as the folders' ``__init__`` would do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("TRIMTAB_ALLOW", PACKAGE)
        for module in MODULES.values():
            importlib.import_module(module)
        return function(*args, **kwargs)


def check(folder: Path, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    """Call a function likewise, in a child: no other test shall know the examples' classes."""
    assert in_child(lambda: inside(folder, function, *args, **kwargs)) == 0


def example(name: str) -> Any:
    """Return an imported example."""
    return sys.modules[MODULES[name]]


def sine(folder: Path) -> list[str]:
    """Return the command line of the shrunk domain."""
    files = ("configs/sine.yaml", "tests/shrink/sine.yaml")
    return [f"--config={folder / PACKAGE / file}" for file in files]


def overlaid(folder: Path, overlay: str) -> list[str]:
    """Return the command line of the shrunk classifier with an example's overlay."""
    return [*arguments("classifier"), f"--config={folder / PACKAGE / overlay}"]


# ---- the text ---------------------------------------------------------------------------------


def test_every_example_names_its_file():
    assert len(re.findall(r"^```(?:python|yaml)$", TEXT, re.M)) == len(EXAMPLES)
    assert len(MODULES) == 5
    assert len(OVERLAYS) == 3
    assert sorted(name for _, name, _ in EXPORTS) == sorted(MODULES)


def test_what_the_text_names_exists():
    words = set(re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", TEXT, flags=re.M | re.S)))
    paths = {word for word in words if re.fullmatch(r"\w+/[\w/]*(\.py)?", word)} - set(EXAMPLES)
    paths -= {"tests/framework/losses/test_focal.py"}
    names = {word for word in words if re.fullmatch(r"(framework|torch)(\.\w+)+", word)}
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert len(names) > 2
    assert [name for name in names if pydoc.locate(name) is None] == []
    targets = re.findall(r"^make ([\w-]+)", TEXT, re.M)
    assert set(targets) <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_docstrings_run(name, folder):
    def run() -> None:
        result = doctest.testmod(example(name))
        assert result.attempted > 0
        assert result.failed == 0

    check(folder, run)


# ---- in the tree ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which every step of the guide was done, and a method of every kind begun."""
    root = copy_checkout(tmp_path_factory.mktemp("contributing"))
    add_methods(root)
    for path, text in EXAMPLES.items():
        (root / path).write_text(text)
    for stub, name, class_name in EXPORTS:
        (root / stub).write_text(with_export((root / stub).read_text(), name, class_name))
    return root


def test_the_examples_pass_the_linter(tree):
    lint(tree, *[path for path in EXAMPLES if path.endswith(".py")], *[e[0] for e in EXPORTS])


@pytest.mark.slow
def test_the_examples_pass_the_type_checker(tree):
    check_types(tree, *[path for path in EXAMPLES if path.endswith(".py")])


@pytest.mark.combination
def test_the_tests_of_the_tree_pass_with_the_examples_and_with_what_new_writes(tree):
    files = ["docs", "config_smoke", "overlays", "losses"]
    every = [f"tests/test_{name}.py" for name in files]
    every += ["tests/framework/losses/test_contract.py", *TESTS_OF_METHODS]
    names = ["FocalLoss", "classifier-with/focal", "sine and not with", "table_of_losses"]
    names += ["(fresh and not overlays)", "FreshLoss"]
    run_tests(tree, *every, "-k", " or ".join(names), "-m", "not slow and not combination")


# ---- the loss ---------------------------------------------------------------------------------


def test_the_loss_equals_its_paper(folder):
    def run() -> None:
        focal = example("focal").FocalLoss
        logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
        labels = torch.tensor([0, 1, 2, 3, 0, 1])
        torch.testing.assert_close(
            focal(gamma=0.0)(logits, labels), F.cross_entropy(logits, labels)
        )
        p = torch.tensor(0.9, dtype=torch.float64)
        sure = torch.stack([p.log(), (1 - p).log()])[None]
        # section 3.2: at p = 0.9 and gamma = 2 the loss is 100 times lower than cross-entropy
        value = focal(gamma=2.0)(sure, torch.tensor([0]))
        assert float(value) == pytest.approx(-math.log(0.9) / 100)
        for gamma in (0.0, 0.5, 2.0):
            loss = focal(gamma=gamma)
            assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, labels), logits)
            certain = torch.tensor([[1e4, 0.0]], requires_grad=True)
            loss(certain, torch.tensor([0])).backward()
            assert certain.grad is not None
            assert not certain.grad.any()
        with pytest.raises(ValueError, match="gamma must be at least 0"):
            focal(gamma=-1.0)

    check(folder, run)


def test_the_loss_is_named_from_a_package_of_ones_own(folder, tmp_path, monkeypatch):
    # not imported before: the command finds it by its path
    monkeypatch.syspath_prepend(folder)
    path = f"{MODULES['focal']}.FocalLoss"
    args = ["fit", *arguments("classifier"), *TWO_STEPS, *QUIET]
    args += [f"--model.criterion={path}", "--model.criterion.gamma=1"]
    args += [f"--run_folder={tmp_path}", "--allow", PACKAGE]
    assert in_child(lambda: trimtab.main(args)) == 0
    assert path in (tmp_path / "config.yaml").read_text()
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
    assert in_child(lambda: trimtab.main(args[:-2])) == 2


# ---- two steps with each overlay and with the domain ------------------------------------------


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_overlays_train(overlay, folder, tmp_path):
    def run() -> None:
        root = f"--run_folder={tmp_path}"
        record = fit([*overlaid(folder, overlay), *TWO_STEPS, root])
        assert len(record.steps) == 2
        assert all(math.isfinite(value) for step in record.steps for value in terms(step).values())
        if overlay.endswith("trimming.yaml"):
            # of 64 rows floor(0.2 * 64) = 12 are dropped
            assert terms(record.steps[0])["kept"] == pytest.approx(52 / 64)

    check(folder, run)
    name = {"focal": "FocalLoss", "sign_sgd": "SignSGD", "trimming": "Trimming"}[Path(overlay).stem]
    assert f".{name}\n" in (tmp_path / "config.yaml").read_text()


def test_the_optimizer_is_lion_without_momentum(folder):
    def run() -> None:
        start = torch.randn(5, 3)
        weights = [torch.nn.Parameter(start.clone()) for _ in range(2)]
        own = example("sign_sgd").SignSGD([weights[0]], lr=0.05)
        lion = LionK([weights[1]], lr=0.05, betas=(0.0, 0.0))
        for optimizer, weight in zip((own, lion), weights, strict=True):
            for _ in range(30):
                optimizer.zero_grad()
                weight.square().sum().backward()
                optimizer.step()
        assert not torch.equal(weights[0], start)
        assert torch.equal(weights[0], weights[1])

    check(folder, run)


def test_the_domain_runs_every_command(folder, tmp_path):
    def run() -> None:
        root = f"--run_folder={tmp_path}"
        trimtab.main(["fit", *sine(folder), *TWO_STEPS, *QUIET, root])
        best = f"--ckpt_path={tmp_path / 'checkpoints' / 'best.ckpt'}"
        for command in ("validate", "test", "predict"):
            trimtab.main([command, *sine(folder), *QUIET, root, best])

    check(folder, run)
    assert (tmp_path / "metrics.csv").is_file()
    rows = (tmp_path / "predictions.csv").read_text().splitlines()
    assert rows[0] == "index,prediction"
    assert len(rows) == 1 + 197 // 4


def test_the_domain_learns_what_its_header_says(folder, tmp_path):
    header = float(re.search(r"val/mae below ([\d.]+)", EXAMPLES["configs/sine.yaml"])[1])

    def run() -> None:
        record = fit([sine(folder)[0], f"--run_folder={tmp_path}"])
        assert record.metrics["val/mae"] < header

    check(folder, run)


# ---- the promises -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sine", "configs/with/trimming.yaml"])
def test_two_ranks_equal_one_process(name, folder, tmp_path, two_ranks):
    args = [*(sine(folder) if name == "sine" else overlaid(folder, name)), *FLOAT64]

    def run() -> None:
        record = fit([*args, f"--run_folder={tmp_path / 'one'}"], gradients=True)
        torch.save(vars(record), tmp_path / "one.pt")

    check(folder, run)
    one = Record(**torch.load(tmp_path / "one.pt", weights_only=True))
    root = f"--run_folder={tmp_path / 'two'}"
    two = two_ranks(inside, folder, fit_on_two_ranks, [*args, root], gradients=True)[0]
    assert_parity(one, two)


def test_the_domain_resumes_bitwise(folder, tmp_path):
    def run() -> None:
        assert_same_bits(*kill_and_resume(sine(folder), tmp_path, kill_at=7))

    check(folder, run)
