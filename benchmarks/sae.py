"""What a training step of a sparse autoencoder costs, and its parts.

    python -m benchmarks.sae [--device cuda] [--rounds 12]

Steps on 512 activations of size 384, 3,072 features, k = 32, float32, the same data and Adam for
all: ours with clocks, projection, clipping and renormalized directions, a bare dense PyTorch step
without any of these, and those of ``sae-lens`` and ``dictionary-learning`` where these packages can
be imported. Goal: at most 1 / 1.5 of the time of the fastest of them. Then peak memory of a step,
the selection alone for 4,096 tokens and 24,576 features, and sparse against dense decode.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from benchmarks.memory import peak_bytes
from benchmarks.timing import interleaved_medians, machine, pin_allocator, print_ratios

TOKENS, D, FEATURES, K = 512, 384, 3072, 32
LR = 1e-4
OURS = ("TopK", "mutual choice", "feature choice")
GOAL = 1 / 1.5
Step = Callable[[], object]


def our_step(selection: Any, x: Any) -> Step:
    """Return a full training step, without Lightning."""
    import torch

    from modules.sae.network import SparseAutoencoder, active_per_feature

    torch.manual_seed(0)
    sae = SparseAutoencoder(D, FEATURES, selection).to(x.device)
    optimizer = torch.optim.Adam(sae.parameters(), lr=LR, fused=True)

    def step() -> None:
        code = sae.encode_batch(x).code
        error = x - sae.decode(code)
        loss = error.square().sum() / (x - x.mean(0)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        sae.statistics.update(active_per_feature(code), len(x))
        sae.project_gradient()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        sae.normalize_decoder()

    return step


def dense_step(x: Any) -> Step:
    """Return a bare step of TopK with dense products."""
    import torch
    from torch.nn.functional import normalize

    torch.manual_seed(0)
    decoder = torch.nn.Parameter(normalize(torch.randn(FEATURES, D, device=x.device), dim=1))
    encoder = torch.nn.Parameter(decoder.detach().clone())
    bias = torch.nn.Parameter(torch.zeros(FEATURES, device=x.device))
    center = torch.nn.Parameter(torch.zeros(D, device=x.device))
    optimizer = torch.optim.Adam([encoder, decoder, bias, center], lr=LR, fused=True)

    def step() -> None:
        pre_acts = (x - center) @ encoder.T + bias
        values, places = pre_acts.topk(K, dim=1)
        code = torch.zeros_like(pre_acts).scatter(1, places, values.relu())
        error = x - (code @ decoder + center)
        loss = error.square().sum() / (x - x.mean(0)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def saelens_step(x: Any, batch: bool, sparse: bool) -> Step:
    """Return a step of SAELens; only TopK has sparse activations there."""
    import torch
    from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    torch.manual_seed(0)
    sizes = {"d_in": D, "d_sae": FEATURES, "k": K, "device": str(x.device)}
    if batch:
        sae = BatchTopKTrainingSAE(
            BatchTopKTrainingSAEConfig(**sizes, rescale_acts_by_decoder_norm=False)
        )
    else:
        sae = TopKTrainingSAE(
            TopKTrainingSAEConfig(
                **sizes, use_sparse_activations=sparse, rescale_acts_by_decoder_norm=False
            )
        )
    optimizer = torch.optim.Adam(sae.parameters(), lr=LR, fused=True)
    given = TrainStepInput(
        sae_in=x,
        coefficients={},
        dead_neuron_mask=torch.zeros(FEATURES, dtype=torch.bool, device=x.device),
        n_training_steps=1,
        is_logging_step=False,
    )

    def step() -> None:
        loss = sae.training_forward_pass(step_input=given).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()

    return step


def dictionary_learning_step(x: Any, batch: bool) -> Step:
    """Return a step of dictionary-learning's trainer."""
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = (BatchTopKTrainer if batch else TopKTrainer)(
        steps=100_000,
        activation_dim=D,
        dict_size=FEATURES,
        k=K,
        layer=0,
        lm_name="none",
        lr=LR,
        seed=0,
        device=str(x.device),
    )
    return lambda: trainer.update(1, x)


def peer_steps(x: Any) -> dict[str, Step]:
    """Return the steps of the packages that can be imported, and say which cannot."""
    makers: dict[str, dict[str, Callable[[], Step]]] = {
        "sae-lens": {
            "sae-lens TopK": lambda: saelens_step(x, False, False),
            "sae-lens TopK, sparse": lambda: saelens_step(x, False, True),
            "sae-lens BatchTopK": lambda: saelens_step(x, True, False),
        },
        "dictionary-learning": {
            "dictionary-learning TopK": lambda: dictionary_learning_step(x, False),
            "dictionary-learning BatchTopK": lambda: dictionary_learning_step(x, True),
        },
    }
    steps = {}
    for package, arms in makers.items():
        try:
            steps |= {name: make() for name, make in arms.items()}
        except ImportError as error:
            print(f"{package} is left out: {error}.")
    return steps


def compare_steps(device: str, rounds: int) -> None:
    """Print time and memory of the steps."""
    import torch

    from framework.sparse_coding.selection import FeatureChoice, MutualChoice, TokenChoice

    x = torch.randn(TOKENS, D, generator=torch.Generator().manual_seed(0)).to(device)
    rules = (TokenChoice(K), MutualChoice(K), FeatureChoice(K, alpha=1.0, beta=30.0))
    steps = {name: our_step(rule, x) for name, rule in zip(OURS, rules, strict=True)}
    steps["dense PyTorch"] = dense_step(x)
    peers = peer_steps(x)
    steps |= peers
    medians = interleaved_medians(steps, rounds)
    fastest = min(peers, key=medians.__getitem__) if peers else "dense PyTorch"
    goals = dict.fromkeys(OURS, GOAL) if peers else None
    print_ratios(f"training step, beside {fastest}", medians, fastest, goals)
    print("\ntraining tokens per second, and peak memory of a step")
    for name, seconds in medians.items():
        size = peak_bytes(steps[name], device) / 2**20
        print(f"  {name:32s} {TOKENS / seconds:10.0f} {size:10.1f} MiB")


def compare_parts(device: str, rounds: int) -> None:
    """Print the time of the selection, and of a decode."""
    import torch

    from framework.sparse_coding.sparse_code import decode
    from framework.sparse_coding.topk import top_overall, top_per_column, top_per_row

    tokens, features = 4096, 24576
    scores = torch.randn(tokens, features, device=device)
    budgets = torch.full((features,), K * tokens // features, device=device)
    arms: dict[str, Step] = {
        "torch.topk, flattened": lambda: scores.flatten().topk(K * tokens, sorted=False),
        "mutual choice": lambda: top_overall(scores, K * tokens),
        "torch.topk, rows": lambda: scores.topk(K, dim=1, sorted=False),
        "token choice": lambda: top_per_row(scores, K),
        "feature choice": lambda: top_per_column(scores, budgets),
    }
    medians = interleaved_medians(arms, max(3, rounds // 4), warmup=1)
    print_ratios(
        f"selection alone, {tokens} tokens, {features} features",
        medians,
        "torch.topk, flattened",
        {"mutual choice": 1.0},
    )
    from framework.sparse_coding.selection import TokenChoice

    code = TokenChoice(K).select_sparse(torch.randn(TOKENS, FEATURES, device=device))
    dense, weight = code.dense(), torch.randn(FEATURES, D, device=device)
    decoders: dict[str, Step] = {
        "dense": lambda: dense @ weight,
        "sparse": lambda: decode(code, weight),
    }
    medians = interleaved_medians(decoders, 4 * rounds)
    print_ratios(f"decode, {TOKENS} tokens, {FEATURES} features", medians, "dense", {"sparse": 1.0})


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    print(machine(arguments.device))
    compare_steps(arguments.device, arguments.rounds)
    compare_parts(arguments.device, arguments.rounds)


if __name__ == "__main__":
    pin_allocator()
    main()
