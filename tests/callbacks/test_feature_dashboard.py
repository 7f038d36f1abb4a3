"""The page of features that a run leaves, and the table on W&B."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from callbacks.feature_dashboard import FeatureDashboard
from framework.objectives.errors import IncompatibleError
from framework.runs.wandb_logger import RunWandbLogger
from framework.sparse_coding.sparse_code import SparseCode, SparsePattern
from tests.helpers.language import LetterActivations as Data
from tests.helpers.language import Rebuild, tiny_causal
from tests.helpers.tiny import TinyData, tiny_trainer

TEXT = "the quick brown fox jumps over the lazy dog. " * 8


class Code(nn.Module):
    """Feature f is active where coordinate f is above its threshold; the last feature never is."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        self.sparse = sparse
        self.d_sae = 9

    def encode(self, x: torch.Tensor) -> torch.Tensor | SparseCode:
        dense = torch.cat([x - 0.5, -torch.ones_like(x[:, :1])], dim=1).relu()
        if not self.sparse:
            return dense
        rows, features = dense.nonzero(as_tuple=True)
        shape = (dense.shape[0], dense.shape[1])
        return SparseCode(dense[rows, features], SparsePattern(rows, features, shape))


class Coded(Rebuild):
    def __init__(self, sparse: bool = True) -> None:
        super().__init__()
        self.sae = Code(sparse)


class Untrained(Coded):
    def training_step(self, *args: Any) -> None:
        raise AssertionError("nothing must be trained before a refusal")


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return str(tmp_path / "text.txt")


def written(folder: Path) -> list[list[str]]:
    """Return the numbers and texts of every section."""
    html = (folder / "features.html").read_text()
    sections = html.split("<section")[1:]
    rows = []
    for section in sections:
        number = re.search(r"Feature (\d+)", section)
        assert number
        texts = re.findall(r'<li><span class="value">([\d.]+)</span>(.*?)</li>', section)
        plain = [f"{v} {unescape(re.sub('<.*?>', '', t))}" for v, t in texts]
        rows.append([number.group(1), *plain])
    return rows


@pytest.mark.parametrize("sparse", [True, False])
def test_the_page_shows_the_contexts_with_the_largest_activations(text, tmp_path, sparse):
    data = Data(tiny_causal(), text=text, batch_size=12)
    trainer = tiny_trainer(tmp_path, [FeatureDashboard(features=[2, 5], num_contexts=3)], False)
    trainer.validate(Coded(sparse), data, verbose=False)
    found = written(tmp_path)
    assert [row[0] for row in found] == ["2", "5"]
    x = torch.cat([batch["activation"] for batch in data.val_dataloader()]).view(10, 8, 8)
    for number, *passages in found:
        largest = (x[:, :, int(number)].amax(1) - 0.5).relu()
        order = largest.sort(descending=True, stable=True)
        shown = [c for c, v in zip(order.indices, order.values, strict=True) if v > 0][:3]
        assert len(passages) == len(shown)
        for passage, context in zip(passages, shown, strict=True):
            value, text_shown = passage.split(" ", 1)
            assert float(value) == pytest.approx(float(largest[context]), abs=6e-3)
            letters = data.contexts[data.val_set.indices[8 * context] // 8, 1:].tolist()
            expected = data.language_model.tokenizer.decode(letters)
            assert text_shown.replace("↵", "\n").split() == expected.split()


def test_the_features_shown_are_active_and_spread_over_the_ranks(text, tmp_path):
    data = Data(tiny_causal(), text=text)
    trainer = tiny_trainer(tmp_path, [FeatureDashboard(num_features=3)], False)
    trainer.test(Coded(), data, verbose=False)
    x = torch.cat([batch["activation"] for batch in data.test_dataloader()])
    density = (x > 0.5).float().mean(0)
    shown = [int(row[0]) for row in written(tmp_path)]
    assert len(shown) == 3
    assert 8 not in shown
    assert [float(density[f]) for f in shown] == sorted((density[f] for f in shown), reverse=True)
    assert shown[0] == int(density.argmax())


def test_fit_writes_and_wandb_gets_a_table(text, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = RunWandbLogger(offline=True, folder=str(tmp_path))
    page = FeatureDashboard(num_features=2, num_contexts=2, every_n_epochs=2)
    trainer = tiny_trainer(tmp_path, [page], [logger])
    trainer.fit(Coded(), Data(tiny_causal(), text=text))
    assert len(written(tmp_path)) == 2
    (logged,) = tmp_path.glob("wandb/offline-run-*/files/media/table/features_*.json")
    table = json.loads(logged.read_text())
    assert table["columns"] == ["feature", "density", "activation", "context"]
    assert len(table["data"]) == 4
    assert all("[[" in line[3] for line in table["data"])


def on_this_rank(text: str, folder: Path) -> Any:
    trainer = tiny_trainer(
        folder, [FeatureDashboard(num_contexts=2)], False, devices=2, strategy="ddp"
    )
    trainer.validate(Coded(), Data(tiny_causal(), text=text, shards=2), verbose=False)


def test_two_ranks_write_what_one_writes(text, tmp_path, two_ranks):
    trainer = tiny_trainer(tmp_path / "one", [FeatureDashboard(num_contexts=2)], False)
    trainer.validate(Coded(), Data(tiny_causal(), text=text, shards=2), verbose=False)
    two_ranks(on_this_rank, text, tmp_path / "two")
    assert written(tmp_path / "one") == written(tmp_path / "two")


def test_what_is_missing_is_said(text, tmp_path):
    data = Data(tiny_causal(), text=text)
    with pytest.raises(IncompatibleError, match="sparse autoencoder, which Rebuild does not have"):
        tiny_trainer(tmp_path, [FeatureDashboard()], False).validate(Rebuild(), data, verbose=False)
    with pytest.raises(IncompatibleError, match="which TinyData does not have"):
        tiny_trainer(tmp_path, [FeatureDashboard()], False).validate(
            Coded(), TinyData(), verbose=False
        )
    for wrong in (9, -1):
        page = FeatureDashboard(features=[0, wrong])
        with pytest.raises(
            IncompatibleError, match=f"cannot show feature {wrong}: they are 0 to 8"
        ):
            tiny_trainer(tmp_path, [page], False).fit(Untrained(), data)
    with pytest.raises(ValueError, match="num_contexts must be at least 1, got 0"):
        FeatureDashboard(num_contexts=0)
