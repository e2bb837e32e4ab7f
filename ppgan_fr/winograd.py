"""Convolutions of exported programs by Winograd's minimal filtering, F(2 x 2, 3 x 3).

Two outputs of a filter with three taps need four products instead of six, and two by two outputs of 3 x 3 taps sixteen
instead of 36 (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, section 4.1)::

    Y = A^T [(G g G^T) * (B^T d B)] A

with ``d`` the 4 x 4 pixels under two by two outputs. No engine for CPUs does that by itself today. Written as operators
that each of them has it pays wherever there are many channels, because its cost beside the products grows with the
channels only:

- ``B^T d B``: sixteen depthwise convolutions of stride 2, each of the four taps that are not zero;
- the products: sixteen 1 x 1 convolutions on a quarter of the pixels, with ``G g G^T`` stored;
- ``A``: sums, and the four outputs laid side by side.

Exact up to rounding: 1e-6 of the values in float32; in bfloat16 a layer's rounding error doubles.
"""

from __future__ import annotations

from typing import Any

import numpy as np

LARGE = 500_000_000
"""Products of a convolution; below, its share of the time is not worth sixty operators."""
SMALLEST = 64
"""Pixels a side; below, the larger weights (16 numbers instead of 9) cost more memory than the products cost time."""
WORTH, WORTH_OUTSIDE_CACHE = 64, 96
"""Products saved over numbers moved, ``C O / (C + O)``, from which it was faster; see `docs/performance.md`."""
IN_CACHE = 1 << 22
"""So many numbers in input and output together are still in the cache (32 MB, two cores) when they are read again."""

_G = np.float64([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, -1]])
"""The last row has the sign of the last column of ``A``, which then adds only: engines add within a convolution."""
_B = (((1, 0, -1), (1, 0)), ((1, 1), (0, 0)), ((-1, 1), (0, 0)), ((1, 0, -1), (0, 1)))
"""Rows of ``B^T`` without the zeros around them, and the padding before and after that puts them in place."""


def rewrite(block: Any, scope: Any) -> int:
    """Replaces what is worth replacing in a block of a legacy program for single pictures of a fixed size.

    Args:
        block: its ``conv2d`` operators of stride 1 that keep the size are looked at.
        scope: holds the parameters; the new ones are put there.

    Returns:
        How many were replaced.
    """
    writer = _Writer(block, scope)
    replaced, place = 0, 0
    while place < len(block.ops):
        if _is_worth_it(block, block.ops[place]):
            place = writer.replace(place)
            replaced += 1
        else:
            place += 1
    block._sync_with_cpp()
    return replaced


def transformed(weight: np.ndarray) -> np.ndarray:
    """``G g G^T``: (O, C, 3, 3) -> (4, 4, O, C), computed in float64; see `_G` for the signs."""
    return np.einsum("ik,ockl,jl->ijoc", _G, weight.astype(np.float64), _G).astype(weight.dtype)


def _is_worth_it(block: Any, op: Any) -> bool:
    if op.type != "conv2d" or op.attr("groups") != 1 or op.attr("data_format") == "NHWC":
        return False
    if any(op.input(name) for name in op.input_names if name not in ("Input", "Filter")):
        return False
    keeps_size = op.attr("padding_algorithm") == "EXPLICIT" and set(op.attr("paddings")) == {1}
    if not keeps_size or set(op.attr("strides")) != {1} or set(op.attr("dilations")) != {1}:
        return False
    weight, image = block.var(op.input("Filter")[0]), block.var(op.input("Input")[0])
    if not weight.persistable or tuple(weight.shape[2:]) != (3, 3) or image.shape[0] > 1:  # parts in the batch's place
        return False
    (outputs, inputs), (height, width) = weight.shape[:2], image.shape[2:]
    if min(height, width) < SMALLEST or height % 2 or width % 2 or 9 * inputs * outputs * height * width < LARGE:
        return False
    worth = WORTH if (inputs + outputs) * height * width <= IN_CACHE else WORTH_OUTSIDE_CACHE
    return inputs * outputs >= worth * (inputs + outputs)


class _Writer:
    """Writes the operators that take the place of convolutions.

    Args:
        block: of a legacy program.
        scope: where its parameters are.
    """

    def __init__(self, block: Any, scope: Any):
        self.block, self.scope = block, scope
        self.place, self.stem, self.count = 0, "", 0
        self.spreads: dict[tuple[str, int, int], Any] = {}  # convolutions of one picture share them

    def replace(self, place: int) -> int:
        """Writes what answers like the convolution at `place` in its stead; returns the place after it."""
        op = self.block.ops[place]
        filters, image, answer = op.input("Filter")[0], op.input("Input")[0], op.output("Output")[0]
        self.block._remove_op(place, sync=False)
        weight = transformed(np.array(self.scope.var(filters).get_tensor()))
        outputs = weight.shape[2]
        height, width = (side // 2 for side in self.block.var(image).shape[2:])
        self.place, self.stem, self.count = place, answer, 0
        columns = []
        for j in range(4):
            products = []
            for i in range(4):
                name = f"{filters}.winograd_{i}{j}"
                products.append(self._convolution(self._spread(image, i, j), name, weight[i, j][:, :, None, None]))
            columns.append(self._fold(products))
        phases = [phase for row in range(2) for phase in self._fold([column[row] for column in columns])]
        x = self._add("concat", {"X": phases}, (1, 4 * outputs, height, width), {"axis": 1})
        shape = (1, 2, 2, outputs, height, width)
        x = self._add("reshape2", {"X": [x]}, shape, {"shape": shape})
        turn = (0, 3, 4, 1, 5, 2)
        x = self._add("transpose2", {"X": [x]}, tuple(shape[k] for k in turn), {"axis": turn})
        whole = (1, outputs, 2 * height, 2 * width)
        self._insert("reshape2", {"X": [x]}, self.block.var(answer), {"shape": whole})
        return self.place

    def _spread(self, image: str, i: int, j: int) -> Any:
        """Element (i, j) of ``B^T d B`` for every window: a depthwise convolution of stride 2."""
        if (image, i, j) not in self.spreads:
            (rows, above_and_below), (columns, left_and_right) = _B[i], _B[j]
            x = self.block.var(image)
            taps = np.tile(np.float32(np.outer(rows, columns)), (x.shape[1], 1, 1, 1))
            padding = (*above_and_below, *left_and_right)
            self.spreads[image, i, j] = self._convolution(x, f"winograd_{x.shape[1]}_{i}{j}", taps, 2, padding)
        return self.spreads[image, i, j]

    def _fold(self, parts: list[Any]) -> tuple[Any, Any]:
        """``A^T`` along one axis, its last column without the sign: a + (b + c) and d + (b - c)."""
        a, b, c, d = parts

        def combined(kind: str, x: Any, y: Any) -> Any:
            return self._add(kind, {"X": [x], "Y": [y]}, x.shape, {"axis": -1})

        both, change = combined("elementwise_add", b, c), combined("elementwise_sub", b, c)
        return combined("elementwise_add", a, both), combined("elementwise_add", d, change)

    def _convolution(self, x: Any, name: str, value: np.ndarray, stride: int = 1, padding: Any = (0, 0, 0, 0)) -> Any:
        """Of `x` with a parameter that is made when it is not there; depthwise if each filter sees one channel."""
        channels, height, width = value.shape[0], x.shape[2] // stride, x.shape[3] // stride
        depthwise = stride == 2
        attributes = {
            "strides": (stride, stride),
            "paddings": padding,
            "dilations": (1, 1),
            "groups": x.shape[1] if depthwise else 1,
            "padding_algorithm": "EXPLICIT",
            "data_format": "NCHW",
        }
        given = {"Input": [x], "Filter": [self._parameter(name, value)]}
        kind = "depthwise_conv2d" if depthwise else "conv2d"
        return self._add(kind, given, (1, channels, height, width), attributes, "Output")

    def _parameter(self, name: str, value: np.ndarray) -> Any:
        import paddle

        if not self.block.has_var(name):
            self.block.create_var(name=name, shape=value.shape, dtype="float32", persistable=True)
            self.scope.var(name).get_tensor().set(np.ascontiguousarray(value), paddle.CPUPlace())
        return self.block.var(name)

    def _add(self, kind: str, given: Any, shape: tuple[int, ...], attributes: dict[str, Any], out: str = "Out") -> Any:
        made = self._variable(shape)
        self._insert(kind, given, made, attributes, out)
        return made

    def _insert(self, kind: str, given: Any, made: Any, attributes: dict[str, Any], out: str = "Out") -> None:
        answers = {out: [made]}
        if kind in ("reshape2", "transpose2"):
            answers["XShape"] = [self._variable((0, *given["X"][0].shape))]
        attributes = {key: list(value) if isinstance(value, tuple) else value for key, value in attributes.items()}
        self.block._insert_op_without_sync(self.place, type=kind, inputs=given, outputs=answers, attrs=attributes)
        self.place += 1

    def _variable(self, shape: tuple[int, ...]) -> Any:
        self.count += 1
        return self.block.create_var(name=f"{self.stem}.winograd_{self.count}", shape=shape, dtype="float32")
