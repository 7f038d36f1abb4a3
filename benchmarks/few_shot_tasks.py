"""Few-shot solvers: episodes per second together and one by one, and accuracies of trained runs.

    python -m benchmarks.few_shot_tasks                 # time, on random features
    python -m benchmarks.few_shot_tasks RUN [RUN ...]   # tables of runs of one config

The second form takes runs of ``fewshot_slk`` or ``fewshot_slk_omniglot``, such as one for each
seed, and prints the accuracy of every solver by shots and by the shares of the classes among the
queries.
Lambda is chosen on the validation episodes of the same shape, unless the run's model has no
``lambdas``. All runs are evaluated on the same episodes.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

import trimtab
from benchmarks.timing import interleaved_medians
from framework.data.episodes import EpisodeSet
from framework.embedding.metrics.few_shot import few_shot_score
from framework.solvers import LaplacianClustering, centered_unit_norm, shift_queries
from framework.solvers.cluster_prototypes import PrototypeKind
from framework.solvers.few_shot_solvers import WITH_NEIGHBORS, SolverName, few_shot_solver

SOLVERS: tuple[SolverName, ...] = (
    "nearest_prototype",
    "kmeans",
    "kmodes",
    "laplacian_shot",
    "slk_means",
    "slk_ms",
    "slk_medoid",
)
CONCENTRATION = 2.0
LAM = 0.7


def random_tasks(
    number: int, *, ways: int = 5, shots: int = 1, queries: int = 15, width: int = 64
) -> tuple[Tensor, Tensor]:
    """Return features (T, N, d) of unit norm of T tasks, and support labels (S,)."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(ways)
    label = torch.cat([label.repeat_interleave(shots), label.repeat_interleave(queries)])
    centers = torch.randn(number, ways, width, generator=generator)
    noise = torch.randn(number, len(label), width, generator=generator)
    features = torch.nn.functional.normalize(centers[:, label] + 1.5 * noise, dim=-1)
    return features, label[: ways * shots]


def solve_together(solver: LaplacianClustering, tasks: Tensor, support: Tensor) -> Tensor:
    """Return the classes of all tasks' queries (T, Q), solved as one batch."""
    return solver.fit_predict(tasks, support, int(support.max()) + 1)


def solve_one_by_one(solver: LaplacianClustering, tasks: Tensor, support: Tensor) -> Tensor:
    """Return the classes of all tasks' queries (T, Q), solved in a loop over tasks."""
    ways = int(support.max()) + 1
    return torch.stack([solver.fit_predict(task, support, ways) for task in tasks])


def print_times(number: int = 1000, alone: int = 20, rounds: int = 5) -> None:
    """Print the tasks per second of both ways, for each kind of prototype."""
    tasks, support = random_tasks(number)
    for kind in get_args(PrototypeKind):
        solver = LaplacianClustering(kind)
        arms = {
            "together": partial(solve_together, solver, tasks, support),
            "one by one": partial(solve_one_by_one, solver, tasks[:alone], support),
        }
        medians = interleaved_medians(arms, rounds, warmup=1)
        batch, loop = number / medians["together"], alone / medians["one by one"]
        print(f"{kind}: {batch:.0f} together, {loop:.0f} one by one, {batch / loop:.1f} times")


def all_features(model: Any, dataset: EpisodeSet) -> Tensor:
    """Return the centered features of all images that episodes are drawn from."""
    rows = torch.arange(len(dataset.source)).split(500)
    with torch.no_grad():
        parts = [model.backbone(dataset.source.batch(part)["image"]) for part in rows]
    return centered_unit_norm(torch.cat(parts), model.state.mean)


def episodes_of(dataset: EpisodeSet, shots: int, dirichlet: float | None) -> EpisodeSet:
    """Return other episodes of the same images."""
    return EpisodeSet(
        dataset.source,
        dataset.source.label,
        len(dataset),
        ways=dataset.ways,
        shots=shots,
        queries=dataset.queries,
        seed=dataset.seed,
        dirichlet=dirichlet,
    )


def accuracies(solver: SolverName, lam: float, features: Tensor, episodes: EpisodeSet) -> Tensor:
    """Return the accuracy of each episode, (E,)."""
    rows = [episodes.rows(episodes.seed or 0, number) for number in range(len(episodes))]
    label = episodes.source.label[torch.stack(rows)]
    supports = episodes.ways * episodes.shots
    own = torch.arange(episodes.ways).repeat_interleave(episodes.shots)
    # the class in the episode, told by the class of the supports
    first = label[:, : supports : episodes.shots]
    true = (label[:, supports:, None] == first[:, None]).float().argmax(-1)
    tasks = features[torch.stack(rows)]
    if solver != "nearest_prototype":
        tasks = shift_queries(tasks, supports)
    found = few_shot_solver(solver, lam).fit_predict(tasks, own, episodes.ways)
    return (found == true).float().mean(1)


def print_tables(runs: list[str], shots: list[int]) -> None:
    """Print the accuracies of runs, the mean over them with the mean interval."""
    models: list[Any] = [trimtab.load(run).eval() for run in runs]
    known = []
    for model in models:
        data = model.datamodule
        data.setup("fit")
        known.append((data, all_features(model, data.val_set), all_features(model, data.test_set)))
    for number in shots:
        for dirichlet in (None, CONCENTRATION):
            shares = "balanced" if dirichlet is None else f"Dirichlet {dirichlet:g}"
            print(f"{number}-shot, {shares} queries", flush=True)
            for solver in SOLVERS:
                scores, chosen = [], []
                for model, (data, val, test) in zip(models, known, strict=True):
                    grid = model.lambdas if solver in WITH_NEIGHBORS else ()
                    lam = model.lambda_of(solver) if solver in model.weighted else LAM
                    if grid:
                        held_out = episodes_of(data.val_set, number, dirichlet)
                        rates = [accuracies(solver, v, val, held_out).mean() for v in grid]
                        lam = grid[int(torch.stack(rates).argmax())]
                    tested = episodes_of(data.test_set, number, dirichlet)
                    scores.append(few_shot_score(accuracies(solver, lam, test, tested)))
                    chosen.append(lam)
                shares_right = [100 * float(score.accuracy) for score in scores]
                ci = 100 * sum(float(score.ci95) for score in scores) / len(scores)
                each = ", ".join(f"{share:.1f}" for share in shares_right)
                mean = sum(shares_right) / len(shares_right)
                print(
                    f"  {solver:18} {mean:5.1f} +- {ci:.1f}  ({each}; lambda {chosen})", flush=True
                )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="*", help="run folders")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    arguments = parser.parse_args(sys.argv[1:])
    if arguments.runs:
        print_tables(arguments.runs, arguments.shots)
    else:
        print_times()


if __name__ == "__main__":
    main()
