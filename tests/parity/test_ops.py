"""The operators of StyleGAN2 against the original: FIR resampling, leaky ReLU, modulated convolutions, resizing."""

from __future__ import annotations

import re

import paddle
import pytest

from ppgan_fr.archs import _stylegan2 as ops
from tests.parity.reference import Fixture, names, once_per
from tests.parity.tolerances import check

pytestmark = pytest.mark.parity

AREA = "gfpgan"
FAMILIES = {"orig": "original", "bilinear": "bilinear", "clean": "clean"}


def cases(pattern: str):
    """One test per case of the fixture `ops` whose name matches; ids begin with the fixture's name."""
    found = []
    for name in names(AREA, lambda name, entry: name.startswith("ops")):
        matches = [re.match(pattern, key) for key in Fixture(AREA, name).arrays.files]
        found += [pytest.param(name, case, id=f"{name}-{case}") for case in sorted({m[0] for m in matches if m})]
    return once_per(("name", "case"), found)


def tensor(fx: Fixture, key: str, trainable: bool = False) -> paddle.Tensor:
    return paddle.to_tensor(fx[key], stop_gradient=not trainable)


@cases(r"upfirdn_\d+(?=_y$)")
def test_upfirdn2d_and_its_gradient(name, case):
    fx = Fixture(AREA, name)
    call = fx.meta["cases"][case]
    x, kernel = tensor(fx, f"{case}_x", trainable=True), tensor(fx, f"{case}_kernel")
    options = {"up": call["up"], "down": call["down"], "pad": tuple(call["pad"])}
    out = ops.upfirdn2d(x, kernel, **options)
    check(out, fx[f"{case}_y"], "operator", case)
    (out * tensor(fx, f"{case}_gy")).sum().backward()
    check(x.grad, fx[f"{case}_gx"], "operator", f"{case}_gx")
    with paddle.no_grad():  # inference takes another operator
        check(ops.upfirdn2d(x, kernel, **options), fx[f"{case}_y"], "operator", case)


@cases(r"fused_lrelu(?=_y$)")
def test_fused_leaky_relu_and_its_gradients(name, case):
    fx = Fixture(AREA, name)
    layer = ops.FusedLeakyReLU(fx[f"{case}_b"].shape[0])
    layer.bias.set_value(fx[f"{case}_b"])
    x = tensor(fx, f"{case}_x", trainable=True)
    out = layer(x)
    check(out, fx[f"{case}_y"], "operator", case)
    (out * tensor(fx, f"{case}_g")).sum().backward()
    check(x.grad, fx[f"{case}_gx"], "operator", f"{case}_gx")
    check(layer.bias.grad, fx[f"{case}_gb"], "operator", f"{case}_gb")


@cases(r"fused_lrelu2d(?=_y$)")
def test_fused_leaky_relu_on_vectors(name, case):
    fx = Fixture(AREA, name)
    layer = ops.FusedLeakyReLU(fx[f"{case}_x"].shape[1])
    layer.bias.set_value(fx[f"{case.removesuffix('2d')}_b"])
    check(layer(tensor(fx, f"{case}_x")), fx[f"{case}_y"], "operator", case)


@cases(r"modconv_\w+_k\d+(?=_y$)")
def test_modulated_convolution_and_its_gradients(name, case):
    fx = Fixture(AREA, name)
    _, family, mode, demodulation, _ = case.split("_")
    weight, modulation = fx[f"{case}_w"], fx[f"{case}_mw"]
    _, out_channels, in_channels, kernel_size, _ = weight.shape
    layer = ops.ModulatedConv2d(
        in_channels,
        out_channels,
        kernel_size,
        modulation.shape[1],
        family=FAMILIES[family],
        demodulate=demodulation == "demod",
        sample_mode=None if mode == "None" else mode,
    )
    layer.weight.set_value(weight)
    layer.modulation.weight.set_value(modulation.T if family == "clean" else modulation)
    layer.modulation.bias.set_value(fx[f"{case}_mb"])
    x, style = tensor(fx, f"{case}_x", trainable=True), tensor(fx, f"{case}_s", trainable=True)
    out = layer(x, style)
    check(out, fx[f"{case}_y"], "operator", case)
    (out * tensor(fx, f"{case}_g")).sum().backward()
    check(x.grad, fx[f"{case}_gx"], "gradient", f"{case}_gx")
    check(style.grad, fx[f"{case}_gs"], "gradient", f"{case}_gs")
    check(layer.weight.grad, fx[f"{case}_gw"], "gradient", f"{case}_gw")
    with paddle.no_grad():  # inference takes other operators
        check(layer(x, style), fx[f"{case}_y"], "operator", case)


@cases(r"interp_\d+(?=_y$)")
def test_resizing_by_two(name, case):
    fx = Fixture(AREA, name)
    resize = ops.upsample2x if fx.meta["cases"][case] == 2 else ops.downsample2x
    x = tensor(fx, f"{case}_x", trainable=True)
    check(resize(x), fx[f"{case}_y"], "operator", case)
    with paddle.no_grad():
        check(resize(x), fx[f"{case}_y"], "operator", case)
