"""``trimtab new`` writes methods that pass every test a method must pass."""

from __future__ import annotations

from pathlib import Path

import pytest

import trimtab
from framework.command import new
from tests.helpers.checkout import check_types, copy_checkout, lint, run_tests

METHODS = {kind: f"fresh_{kind}" for kind in new.KINDS}
WRITTEN = {
    "loss": [
        "framework/losses/fresh_loss.py",
        "tests/framework/losses/test_fresh_loss.py",
        "configs/with/fresh_loss.yaml",
    ],
    "optimizer": [
        "framework/optim/fresh_optimizer.py",
        "tests/framework/optim/test_fresh_optimizer.py",
        "configs/with/fresh_optimizer.yaml",
    ],
    "callback": [
        "callbacks/fresh_callback.py",
        "tests/callbacks/test_fresh_callback.py",
        "configs/with/fresh_callback.yaml",
    ],
    "metric": [
        "framework/metrics/fresh_metric.py",
        "tests/framework/metrics/test_fresh_metric.py",
    ],
    "domain": [
        "modules/fresh_domain.py",
        "datamodules/fresh_domain.py",
        "tests/modules/test_fresh_domain.py",
        "configs/fresh_domain.yaml",
        "tests/shrink/fresh_domain.yaml",
    ],
}
FILES = [path for paths in WRITTEN.values() for path in paths]
PYTHON = [path for path in FILES if path.endswith(".py")]
# they run beside those of the examples of CONTRIBUTING.md, in one copy of the checkout
TESTS_OF_METHODS = [path for path in PYTHON if path.startswith("tests/")]


def add_methods(root: Path) -> None:
    """Add one method of every kind to a checkout."""
    with pytest.MonkeyPatch.context() as patch:
        # any folder of the checkout will do
        patch.chdir(root / "configs")
        for kind, name in METHODS.items():
            trimtab.main(["new", kind, name])


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout to which one method of every kind was added."""
    root = copy_checkout(tmp_path_factory.mktemp("new"))
    add_methods(root)
    return root


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", METHODS)
def test_the_files_of_a_method_are_there(kind: str, copy: Path) -> None:
    assert [path for path in WRITTEN[kind] if not (copy / path).is_file()] == []
    for path in WRITTEN[kind]:
        text = (copy / path).read_text()
        assert "$" not in text
        assert "NAME" not in text


def test_the_readme_has_one_more_row_for_each(copy: Path) -> None:
    old, new_ = (root / "README.md" for root in (Path(trimtab.__file__).parent, copy))
    added = [line for line in new_.read_text().splitlines() if "`with/fresh_" in line]
    assert len(added) == 3
    assert len(new_.read_text().splitlines()) == len(old.read_text().splitlines()) + 4


def test_what_is_written_passes_the_linter(copy: Path) -> None:
    stubs = [f"{package}/__init__.pyi" for kind in new.KINDS.values() for package in kind.exports]
    lint(copy, *PYTHON, *stubs)


@pytest.mark.slow
def test_what_is_written_passes_the_type_checker(copy: Path) -> None:
    check_types(copy, *[path for path in PYTHON if not path.startswith("tests/")])


@pytest.mark.slow
def test_what_is_written_keeps_every_promise(copy: Path) -> None:
    promises = ["tests/test_parity.py", "tests/test_resume.py", "tests/test_overlays.py"]
    run_tests(copy, *promises, "-k", "fresh")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["los", "a"], "there is no kind 'los' among loss, optimizer, callback, metric, domain"),
        (["loss", "SignSGD"], "name must be a Python name in snake_case such as sign_sgd"),
        (["loss", "1st"], "name must be a Python name in snake_case"),
        (["loss", "lambda"], "name must be a Python name in snake_case"),
        (["loss", "../x"], "name must be a Python name in snake_case"),
        (["loss", "a" * 25], "a name may have at most 24 letters"),
        (["loss", "x", "--class_name", "x"], "class_name must be a Python name in CamelCase"),
        (["loss", "fresh_loss"], "configs/with/fresh_loss.yaml exists already"),
        (["callback", "x", "--class_name", "SAF"], "SAF is exported by callbacks already"),
        (["metric", "fresh_domain"], "FreshDomain is exported by modules already"),
    ],
)
def test_a_fault_is_a_one_line_message_and_writes_nothing(
    arguments: list[str],
    message: str,
    copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = contents(copy)
    monkeypatch.chdir(copy)
    with pytest.raises(SystemExit) as stop:
        trimtab.main(["new", *arguments])
    assert stop.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"trimtab: {message}")
    assert contents(copy) == before


def test_outside_a_checkout_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        trimtab.main(["new", "loss", "focal"])
    said = f"trimtab new writes into a checkout of Trimtab, which {tmp_path} is not in."
    assert capsys.readouterr().err == f"trimtab: {said}\n"
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_the_class_may_be_given() -> None:
    assert new.checked_class_name("optimizer", "sign_sgd", "SignSGD") == "SignSGD"
    assert new.checked_class_name("optimizer", "sign_sgd", None) == "SignSgd"
    assert new.checked_class_name("loss", "focal_loss", None) == "FocalLoss"
