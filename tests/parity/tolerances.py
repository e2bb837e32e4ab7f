"""How close the port must be to the reference: one table, each number with its reason.

A value `got` passes against `want` when ``max|got - want| <= atol + rtol * max|want|``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Tolerance(NamedTuple):
    rtol: float
    atol: float


TOLERANCES = {
    # float32 sums in another order; measured up to 1e-6 of the maximum on these fixtures
    "image": Tolerance(1e-5, 1e-5),
    "feature": Tolerance(1e-5, 1e-5),
    # 86 million parameters and 18 style layers deep: rounding adds up; a stricter number would measure luck
    "image_512": Tolerance(1e-5, 1e-4),
    # one multiplication and one sum per value
    "operator": Tolerance(1e-5, 1e-5),
    # gradients sum over every pixel, so single values cancel; measured up to 2e-4 of the maximum
    "gradient": Tolerance(5e-4, 1e-7),
    # second derivatives (R1, path length) pass each rounding twice
    "second_derivative": Tolerance(1e-3, 1e-7),
    # a scalar loss
    "loss": Tolerance(1e-5, 1e-6),
    # converted weights: the reference multiplies in another order, one rounding apart
    "converted_weight": Tolerance(1e-6, 0.0),
}


def check(got, want, kind: str, name: str = "value") -> None:
    """Asserts that `got` equals `want` within the tolerance of its kind."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, f"{name}: shape {got.shape}, reference {want.shape}"
    assert np.isfinite(got).all(), f"{name}: not finite"
    if not want.size:
        return
    rtol, atol = TOLERANCES[kind]
    largest = float(np.abs(want).max())
    distance = float(np.abs(got - want).max())
    allowed = atol + rtol * largest
    assert distance <= allowed, f"{name}: off by {distance:.3g}, allowed {allowed:.3g} (largest value {largest:.3g})"
