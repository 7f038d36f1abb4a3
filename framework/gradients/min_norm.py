"""The shortest vector among the weighted means of several gradients."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def min_norm_weights(gram: Array) -> Array:
    r"""Return the weights w, not negative and of sum 1, for which :math:`w^T C w` is least.

    That is the squared length of the weighted mean of the gradients whose inner products are C. At
    the minimum :math:`(C w)_j \ge w^T C w` for every j: no term rises along it, to first order.

    With u not negative, :math:`u^T C u + (1^T u - 1)^2` is least at a multiple of w, which is a
    problem of non-negative least squares. It is solved exactly, by scipy's active-set method.

    Terms whose gradient is 0 share the weight equally, since nothing is shorter.

    Paper: Désidéri, *Multiple-gradient descent algorithm (MGDA) for multiobjective optimization*,
    Comptes Rendus Mathématique, 2012.

    Args:
        gram: Inner products C (m, m), finite; m at least 1.

    Returns:
        Weights (m,).

    Raises:
        ValueError: Another shape.

    Example:
        >>> import numpy as np
        >>> from framework.gradients.min_norm import min_norm_weights
        >>> gradients = np.array([[1.0, 0.0], [0.0, 2.0]])
        >>> min_norm_weights(gradients @ gradients.T)
        array([0.8, 0.2])
    """
    from scipy.optimize import nnls

    gram = np.asarray(gram)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or not len(gram):
        raise ValueError(f"gram must be (m, m) with m of at least 1, got the shape {gram.shape}.")
    norms = np.sqrt(np.diag(gram).clip(min=0))
    zero = norms == 0
    if zero.any():
        return zero / zero.sum()
    # from cosines: the square root of the products themselves would lose the short gradients
    eigenvalues, vectors = np.linalg.eigh(gram / np.outer(norms, norms))
    root = np.sqrt(eigenvalues.clip(min=0))[:, None] * vectors.T * (norms / norms.min())
    system = np.concatenate([root, np.ones((1, len(norms)))])
    target = np.zeros(len(system))
    target[-1] = 1
    u = nnls(system, target)[0]
    return u / u.sum()
