"""Gaussian processes of ``framework.tuning.acquisition`` as BoTorch's models."""

import torch
from botorch.models import SingleTaskGP
from gpytorch.constraints import GreaterThan
from gpytorch.kernels import MaternKernel, RBFKernel, ScaleKernel
from gpytorch.likelihoods import GaussianLikelihood
from gpytorch.means import ConstantMean
from torch import Tensor

from framework.tuning.acquisition import rbf
from framework.tuning.acquisition.gaussian_process import Kernel


def botorch_model(
    inputs: Tensor,
    targets: Tensor,
    lengthscale: float | Tensor = 1.0,
    variance: float = 1.0,
    noise: float = 1e-8,
    mean: float = 0.0,
    kernel: Kernel = rbf,
) -> SingleTaskGP:
    """Return BoTorch's model of the same process; arguments as those of ``GaussianProcess``."""
    base = RBFKernel if kernel is rbf else MaternKernel
    covariance = ScaleKernel(base(ard_num_dims=inputs.shape[1]))
    model = SingleTaskGP(
        inputs,
        targets[:, None],
        likelihood=GaussianLikelihood(noise_constraint=GreaterThan(1e-10)),
        covar_module=covariance,
        mean_module=ConstantMean(),
        outcome_transform=None,
    ).to(inputs)
    # a plain number would be rounded to float32
    covariance.base_kernel.lengthscale = torch.as_tensor(lengthscale, dtype=inputs.dtype)
    covariance.outputscale = torch.tensor(variance, dtype=inputs.dtype)
    model.likelihood.noise = torch.tensor(noise, dtype=inputs.dtype)
    model.mean_module.initialize(constant=torch.tensor(mean, dtype=inputs.dtype))
    return model.eval()
