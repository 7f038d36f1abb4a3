"""Norms of all gradients as one vector, and the file that they are kept in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from framework.schedules import (
    GradientNorms,
    gradient_norms,
    read_gradient_norms,
    save_gradient_norms,
)

HEADER = "# Trimtab gradient norms, version 1\n# optimizer: SGD\n# total_steps: 3\nstep,l2,l1\n"


def with_gradients(*gradients: Tensor | None) -> list[nn.Parameter]:
    parameters = []
    for gradient in gradients:
        like = torch.zeros(2) if gradient is None else torch.zeros_like(gradient)
        parameters.append(nn.Parameter(like))
        parameters[-1].grad = gradient
    return parameters


def test_norms_are_over_all_parameters() -> None:
    parameters = with_gradients(
        torch.tensor([[3.0, -4.0]]), None, torch.tensor(12.0), torch.zeros(0)
    )
    norms = gradient_norms(parameters)
    assert {name: float(value) for name, value in norms.items()} == {"l2": 13.0, "l1": 19.0}
    assert gradient_norms(with_gradients(None))["l2"] == 0
    assert [*gradient_norms(parameters, ["l1"])] == ["l1"]
    with pytest.raises(ValueError, match="norms must be one of l2, l1, got 'max'"):
        gradient_norms(parameters, ["max"])


def test_dtypes_and_layouts_are_joined_in_float32() -> None:
    # 4096 ones and a half: bfloat16 would lose most of the sum
    low = torch.full((4096,), 0.5, dtype=torch.bfloat16)
    sparse = torch.sparse_coo_tensor(
        torch.tensor([[0, 0]]), torch.tensor([1.0, 2.0]), (4,), check_invariants=True
    )
    parameters = with_gradients(low, torch.tensor([1.0, 1.0], dtype=torch.float64))
    parameters.append(nn.Parameter(torch.zeros(4)))
    parameters[-1].grad = sparse
    norms = gradient_norms(parameters)
    assert norms["l1"].dtype == torch.float32
    assert norms["l1"] == 2048 + 2 + 3
    assert norms["l2"] == pytest.approx((4096 * 0.25 + 2 + 9) ** 0.5, rel=1e-6)


def test_a_file_keeps_every_bit(tmp_path: Path) -> None:
    bits = torch.randint(0x7F7FFFFF, (200,), generator=torch.Generator().manual_seed(0))
    norms = torch.cat([bits.to(torch.int32).view(torch.float32), torch.tensor([0.0, 1e-45])])
    record = GradientNorms({"l2": norms, "l1": norms.flip(0)}, "SGD", 7)
    save_gradient_norms(tmp_path / "gradient_norms.csv", record)
    read = read_gradient_norms(tmp_path)
    assert (read.optimizer, read.total_steps) == ("SGD", 7)
    for name, values in record.norms.items():
        assert torch.equal(read.norms[name].float(), values)


def test_an_unknown_run_has_norms_all_the_same(tmp_path: Path) -> None:
    save_gradient_norms(tmp_path / "a.csv", GradientNorms({"l1": torch.tensor([1.0])}))
    read = read_gradient_norms(tmp_path / "a.csv")
    assert (read.optimizer, read.total_steps, [*read.norms]) == ("", None, ["l1"])


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "gradient_norms.csv"
    path.write_text(f"{HEADER}0,1,2\n1,nan,inf\n2,3")
    read = read_gradient_norms(path)
    assert read.norms["l2"].tolist() == pytest.approx([1, float("nan")], nan_ok=True)
    assert read.norms["l1"].tolist() == [2, float("inf")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no gradient norms"),
        ("epoch,step\n0,1\n", "holds no gradient norms: it does not begin with '# Trimtab"),
        (HEADER.replace("version 1", "version 2"), "of version '2' of its format, and this"),
        (HEADER, "holds no step yet"),
        (HEADER.replace("SGD", "rm -rf /"), "no header of norms"),
        (HEADER.replace("l1", "l2"), "no header of norms"),
        (HEADER.replace("l1", "weights"), "no header of norms"),
        ("# Trimtab gradient norms, version 1\n", "no header of norms"),
        (f"{HEADER}0,1,2\n2,1,2\n", "line 6 is '2,1,2' where step 1 and 2 norms are expected"),
        (f"{HEADER}0,1\n", "line 5 is '0,1' where"),
        (f"{HEADER}0,1,two\n", "line 5 is '0,1,two' where"),
        (f"{HEADER}0,-1,2\n", "line 5 is '0,-1,2' where"),
        (f"{HEADER}0,nan,-2\n", "line 5 is '0,nan,-2' where"),
    ],
)
def test_a_damaged_file_is_refused_in_words(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "gradient_norms.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_gradient_norms(tmp_path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gradient_norms.csv is not there: give the file"):
        read_gradient_norms(tmp_path)
    path = tmp_path / "binary.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not a text file in UTF-8"):
        read_gradient_norms(path)
