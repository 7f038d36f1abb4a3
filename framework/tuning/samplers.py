"""Methods by name: what proposes the next trial of a study, and what ends one early."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

from framework.utilities.checks import check_at_least, check_one_of
from framework.utilities.nearest_names import nearest
from framework.utilities.packages import require_package

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

OPTUNA = ("gp", "tpe", "qmc", "random")
BOTORCH = ("kg", "noisy_ei", "mes", "mf_kg")
SAMPLERS = (*OPTUNA, *BOTORCH)
"""Names of the samplers: those that come with Optuna, then those that need BoTorch."""
PRUNERS = ("none", "median", "hyperband")
"""Names of the pruners."""


def make_sampler(
    name: str,
    seed: int,
    number: int = 0,
    deterministic: bool = False,
    startup_trials: int = 10,
    jobs: int = 1,
    fidelity: str | None = None,
) -> BaseSampler:
    """Return an Optuna sampler that proposes one trial of a study.

    Make a new one for every trial. What it proposes is then a function of the study's seed, the
    number of the trial and the trials known so far, so that a resumed study goes on as if it had
    not been interrupted.

    | name | proposes | needs |
    | --- | --- | --- |
    | ``gp`` | the largest expected improvement under a Gaussian process | Optuna |
    | ``tpe`` | what is likely among the best trials and unlikely among the others | Optuna |
    | ``qmc`` | the next point of a scrambled Sobol sequence | Optuna |
    | ``random`` | any point | Optuna |
    | ``kg`` | the largest knowledge gradient | BoTorch |
    | ``noisy_ei`` | the largest knowledge gradient among tried settings and the new one | BoTorch |
    | ``mes`` | what tells most about the best value (max-value entropy search) | BoTorch |
    | ``mf_kg`` | the setting and fidelity with the largest knowledge gradient per cost | BoTorch |

    Papers: Frazier, *A Tutorial on Bayesian Optimization*, arXiv:1807.02811, for all but ``tpe``:
    Bergstra et al., *Algorithms for Hyper-Parameter Optimization*, NeurIPS 2011.

    Args:
        name: Name of the sampler.
        seed: Seed of the study, the same for all of its trials.
        number: Number of the trial in the study, from 0.
        deterministic: Whether a setting that is tried twice gives the same value, which ``gp`` and
            BoTorch's samplers then take for exact.
        startup_trials: Finished trials before which settings are drawn at random.
        jobs: Trials that run at the same time.
        fidelity: Name of the parameter that ``mf_kg`` takes for the fidelity.

    Raises:
        ModuleNotFoundError: Optuna or BoTorch is not installed.
        ValueError: An unknown name, or ``mf_kg`` without a fidelity.

    Example:
        >>> type(make_sampler("tpe", seed=1)).__name__
        'TPESampler'
    """
    if name not in SAMPLERS:
        raise ValueError(
            f"No sampler is called {name!r}: the names are {', '.join(SAMPLERS)}"
            f"{nearest(name, SAMPLERS)}."
        )
    check_at_least(0, number=number)
    check_at_least(1, startup_trials=startup_trials, jobs=jobs)
    if name == "mf_kg" and fidelity is None:
        raise ValueError(
            "The sampler mf_kg needs a fidelity: mark a number of the space, such as the epochs, "
            "with `fidelity: true`."
        )
    purpose = f"The sampler {name}"
    # torch, which settings are read without
    from framework.utilities.randomness import stable_seed

    if name in BOTORCH:
        require_package("botorch", extra="botorch", purpose=purpose)
        require_package("optuna", extra="botorch", purpose=purpose)
        from framework.tuning.botorch_sampler import BoTorchSampler

        return BoTorchSampler(
            name,
            seed=stable_seed(seed, number),
            startup_trials=startup_trials,
            deterministic=deterministic,
            fidelity=fidelity,
        )
    require_package("optuna", extra="tune", purpose=purpose)
    return _optuna_sampler(name, seed, number, deterministic, startup_trials, jobs)


def _optuna_sampler(
    name: str, seed: int, number: int, deterministic: bool, startup_trials: int, jobs: int
) -> BaseSampler:
    from optuna import samplers
    from optuna.exceptions import ExperimentalWarning

    from framework.utilities.randomness import stable_seed

    # NumPy's generators take 32 bits
    trial_seed = stable_seed(seed, number) % 2**32
    options: dict[str, Any] = {"seed": trial_seed, "n_startup_trials": startup_trials}
    with warnings.catch_warnings():
        # a deterministic objective may one day be told otherwise
        warnings.simplefilter("ignore", ExperimentalWarning)
        if name == "gp":
            # it says at length that a package is missing that would save milliseconds
            logging.getLogger("optuna._gp.batched_lbfgsb").setLevel(logging.ERROR)
            return samplers.GPSampler(deterministic_objective=deterministic, **options)
        if name == "tpe":
            # running trials count as bad ones, or jobs would try the same setting
            return samplers.TPESampler(multivariate=True, constant_liar=jobs > 1, **options)
    if name == "qmc":
        from framework.tuning.sobol_sampler import SobolSampler

        return SobolSampler(seed=stable_seed(seed) % 2**32, number=number)
    return samplers.RandomSampler(seed=trial_seed)


def default_sampler(parameters: int, trials: int) -> str:
    """Return the name of the sampler that suits a study: ``gp``, or ``tpe`` for large ones.

    A Gaussian process finds more in few trials. Its cost grows with the cube of their number, and
    in many dimensions it learns little.

    Args:
        parameters: Number of parameters.
        trials: Number of trials of the study.

    Example:
        >>> default_sampler(3, trials=50), default_sampler(3, trials=1000)
        ('gp', 'tpe')
    """
    return "gp" if parameters <= 20 and trials <= 200 else "tpe"


def make_pruner(
    name: str,
    startup_trials: int = 5,
    warmup_steps: int = 0,
    max_steps: int | None = None,
) -> BasePruner:
    """Return an Optuna pruner, which decides from a trial's reported values whether it goes on.

    Whether a smaller or a larger value is better is the study's direction.

    | name | ends a trial |
    | --- | --- |
    | ``none`` | never |
    | ``median`` | whose best value so far is worse than the median of the others at that step |
    | ``hyperband`` | that is not among the best third at one of its bracket's steps |

    Paper: Li et al., *Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization*,
    arXiv:1603.06560.

    Args:
        name: Name of the pruner.
        startup_trials: Finished trials before which ``median`` ends none.
        warmup_steps: Steps before which no trial is ended.
        max_steps: Last step that a whole trial reports; None for that of the first finished one.

    Raises:
        ModuleNotFoundError: Optuna is not installed.
        ValueError: An unknown name or a negative number.

    Example:
        >>> type(make_pruner("median")).__name__
        'MedianPruner'
    """
    check_one_of(PRUNERS, pruner=name)
    check_at_least(0, startup_trials=startup_trials, warmup_steps=warmup_steps)
    check_at_least(1, max_steps=max_steps)
    require_package("optuna", extra="tune", purpose=f"The pruner {name}")
    from optuna import pruners

    if name == "median":
        return pruners.MedianPruner(n_startup_trials=startup_trials, n_warmup_steps=warmup_steps)
    if name == "hyperband":
        return pruners.HyperbandPruner(
            min_resource=max(1, warmup_steps), max_resource=max_steps or "auto"
        )
    return pruners.NopPruner()
