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
    # long sums behind instance norms of 2 x 2 maps: float32 itself is up to 1.5e-5 from float64
    "hifacegan_forward": Tolerance(0.0, 1e-4),
    "hifacegan_feature": Tolerance(1e-4, 1e-5),
    # what a forward pass leaves behind: unit vectors and running means of one rounding each
    "hifacegan_state": Tolerance(1e-5, 1e-6),
    # sums over every pixel and, through spectral norms, over every weight
    "hifacegan_gradient": Tolerance(2e-3, 0.0),
    # biases in front of a normalisation have no gradient but rounding; as a part of the largest gradient of all
    "hifacegan_zero_gradient": Tolerance(1e-6, 0.0),
    # a scalar; the absolute part for GAN terms that are close to zero
    "hifacegan_loss": Tolerance(1e-4, 1e-6),
    # the discriminator's terms of an iteration come after a step of Adam with beta1 = 0, +-lr where a gradient is ~0
    "hifacegan_iteration_1": Tolerance(5e-3, 1e-4),
    "hifacegan_iteration_2": Tolerance(5e-3, 5e-3),
    "hifacegan_state_after_step": Tolerance(5e-3, 1e-4),
    # rounding of 2 * lr in float32
    "hifacegan_step": Tolerance(0.0, 1e-7),
    # computed in float64 by two formulas
    "hifacegan_rate": Tolerance(1e-9, 1e-12),
    # equal pixels, divided and shifted in float32
    "normalised_pixel": Tolerance(0.0, 1e-6),
    # computed in float64; 1e-5 is asked for
    "hifacegan_suppression": Tolerance(0.0, 1e-10),
    # the number; float32 itself is 2.6e-6 from float64
    "sgpn_image": Tolerance(0.0, 1e-4),
    "sgpn_feature": Tolerance(1e-5, 1e-5),
    "sgpn_coefficients": Tolerance(0.0, 1e-4),
    # sums over every pixel or vertex in float32; measured up to 3e-5 of the largest
    "sgpn_gradient": Tolerance(1e-4, 1e-9),
    # boxes reach thousands of pixels through 60 layers with random weights; measured 1.7e-5 of the largest
    "sgpn_detector": Tolerance(1e-4, 1e-4),
    # float32 pixels of a picture of 640
    "sgpn_points": Tolerance(1e-6, 1e-6),
    "sgpn_geometry": Tolerance(1e-5, 0.0),
    # float64 here, float32 in the original
    "sgpn_depth": Tolerance(0.0, 1e-4),
    "sgpn_weights": Tolerance(0.0, 1e-4),
    # of 255
    "sgpn_picture": Tolerance(0.0, 0.01),
    "sgpn_rendered_crop": Tolerance(0.0, 2e-3),
    # the same formulas in float64
    "sgpn_alignment": Tolerance(1e-12, 1e-9),
    # mean difference in levels of 255; OpenCV's cubic warp changes between versions
    "sgpn_photo": Tolerance(0.0, 0.2),
    # blur kernels: the same float64 formula, summed in another order
    "kernel": Tolerance(1e-6, 1e-9),
    # float32 pixels of [0, 1] (or twice that): one rounding
    "pixel": Tolerance(0.0, 1e-6),
    # integer operations on grey levels
    "equal": Tolerance(0.0, 0.0),
    # grey levels that went through a JPEG codec: other builds of libjpeg round differently
    "jpeg": Tolerance(0.0, 2.0),
    # roi_align at fractional coordinates of up to 512 pixels: 1e-5 of a pixel is float32's resolution there
    "crop": Tolerance(0.0, 1e-4),
    # float32 in the reference, float64 here
    "metric": Tolerance(2e-5, 1e-5),
    # NIQE picks its shapes from a table in steps of 0.001: a last bit elsewhere can move one by a step; measured 8e-5
    "niqe": Tolerance(2e-4, 0.0),
    # norms that the reference summed in float32 over up to 17 million entries: off by 1.7e-3 there, in float64 here
    "gradient_norm": Tolerance(2e-3, 1e-7),
    # softmax of logits in the hundreds: their rounding is the error of the probability
    "probability": Tolerance(0.0, 1e-4),
    # a least-median fit of five points in float64
    "matrix": Tolerance(1e-6, 1e-6),
}

TOLERANCES["averaged_picture"] = Tolerance(1e-4, 0.0)  # a few hundredths of each step's difference reach the average


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


# a loss of any step when both sides compute in float64 (logged in float32); measured up to 8e-8
TOLERANCES["training_float64"] = Tolerance(1e-6, 0.0)

# Relative error of a logged loss after n steps of Adam with beta1 = 0, whose first steps are sign-like: where a
# gradient is rounding, the weight moves by +-lr. 1e-3 is asked for and held in the first two steps; after the third the
# reference's own float32 and float64 runs are 6e-3 apart, and ours in float32 is nearer to its float64 one (3.4e-4)
# than to its float32 one. "training_float64" holds every step to far less than 1e-3.
TRAINING = {1: 1e-4, 2: 1e-3, 3: 1e-2}


def check_training(got: float, want: float, step: int, name: str) -> None:
    """Asserts that a loss of training step `step` equals the reference's."""
    rtol = TRAINING[min(step, max(TRAINING))]
    assert abs(got - want) <= rtol * abs(want) + 1e-6, f"step {step}, {name}: {got:.7g}, reference {want:.7g}"
