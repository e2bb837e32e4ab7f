"""Exported programs, rewritten so that engines have less to do and less to keep.

Paddle writes a network down as it was traced: weights are squeezed, turned, squared and summed in every run. Engines
that fold such constants do it at every start, beside the weights that they were made of; the others do it for every
picture. And a program for any batch keeps OpenVINO from planning its memory: each size of batch is met as it comes.
"""

from __future__ import annotations

import collections
import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ppgan_fr import winograd

GROWTH = 2
"""A constant is stored if it has at most so many times the numbers of what it is made of,"""
SMALL = 1 << 16
"""or at most so many."""
LARGE = 1 << 18
"""A matrix of at least so many numbers is worth turning."""
_SOURCES = ("assign_value", "fill_constant")


def simplify(stem: Path) -> None:
    """Rewrites `<stem>.pdmodel` and `<stem>.pdiparams` to answer the same with less work.

    What follows from parameters alone becomes a parameter, and large weights of linear layers are stored as (outputs,
    inputs): OpenVINO turns a copy of them otherwise (65 MB in bfloat16 for what makes GFP-GAN's style codes).

    Args:
        stem: a legacy program, without the suffix.
    """
    import paddle

    with _static_mode(), paddle.static.scope_guard(paddle.static.Scope()):
        executor = paddle.static.Executor(paddle.CPUPlace())
        program, feeds, fetches = paddle.static.load_inference_model(str(stem), executor)
        _fold_constants(program, executor)
        _turn_matrices(program.global_block())
        inputs = [program.global_block().var(name) for name in feeds]
        paddle.static.save_inference_model(str(stem), inputs, fetches, executor, program=program)


def for_one_picture(stem: Path, target: Path) -> None:
    """Writes a program and its parameters again, for OpenVINO: one picture at a time, with fewer products.

    Args:
        stem: a legacy program for any batch, without the suffix.
        target: where to write, without the suffix.
    """
    import paddle

    with _static_mode(), paddle.static.scope_guard(paddle.static.Scope()):
        executor = paddle.static.Executor(paddle.CPUPlace())
        program, feeds, fetches = paddle.static.load_inference_model(str(stem), executor)
        block = program.global_block()
        inputs = [block.var(name) for name in feeds]
        for variable in inputs:
            variable.desc.set_shape([1, *variable.shape[1:]])
        for op in block.ops:
            if op.type not in ("feed", "fetch"):
                op.desc.infer_shape(block.desc)
        winograd.rewrite(block, paddle.static.global_scope())
        _multiply_and_sum(block)
        paddle.static.save_inference_model(str(target), inputs, fetches, executor, program=program)


def _fold_constants(program: Any, executor: Any) -> None:
    block = program.global_block()
    folded = _constant_operators(block)
    wanted = {name for i, op in enumerate(block.ops) if i not in folded for name in op.input_arg_names}
    made = [name for i in sorted(folded) for name in block.ops[i].output_arg_names if name in wanted]
    constants = program.clone()
    _keep(constants.global_block(), folded)
    values = executor.run(constants, fetch_list=made) if made else []
    _keep(block, set(range(len(block.ops))) - folded)
    for name, value in zip(made, values):
        block.var(name).persistable = True
        _store(name, value)


def _constant_operators(block: Any) -> set[int]:
    """Places of the operators that need nothing but parameters and numbers written into the program."""
    constants = {name for name, var in block.vars.items() if var.persistable and name not in ("feed", "fetch")}
    parameters = frozenset(constants)
    folded = set()
    for i, op in enumerate(block.ops):
        given, made = op.input_arg_names, op.output_arg_names
        if op.type in ("feed", "fetch") or op.has_attr("sub_block") or parameters.intersection(made):
            continue
        if constants.issuperset(given) and _stays_small(block, given, made) if given else op.type in _SOURCES:
            folded.add(i)
            constants.update(made)
    return folded


def _stays_small(block: Any, given: list[str], made: list[str]) -> bool:
    before, after = ([math.prod(block.var(name).shape) for name in names] for names in (given, made))
    return min(after) >= 0 and sum(after) <= max(SMALL, GROWTH * sum(before))


def _turn_matrices(block: Any) -> None:
    import paddle

    users = collections.Counter(name for op in block.ops for name in op.input_arg_names)
    for op in block.ops:
        if op.type != "matmul_v2" or op.attr("trans_y"):
            continue
        name = op.input("Y")[0]
        weight = block.var(name)
        if weight.persistable and len(weight.shape) == 2 and users[name] == 1 and math.prod(weight.shape) >= LARGE:
            _store(name, np.array(paddle.static.global_scope().var(name).get_tensor()).T)
            weight.desc.set_shape(list(reversed(weight.shape)))
            op._set_attr("trans_y", True)


def _multiply_and_sum(block: Any) -> None:
    """Writes the product of one row with a large matrix as what it is.

    Each number is read once, so nothing is gained by packing the matrix for the processor, which costs a second one in
    memory.
    """
    for place, op in reversed(list(enumerate(block.ops))):
        if op.type != "matmul_v2" or not op.attr("trans_y") or op.attr("trans_x"):
            continue
        row, matrix, answer = (block.var(name) for name in (op.input("X")[0], op.input("Y")[0], op.output("Out")[0]))
        outputs = matrix.shape[0]
        # -1: reshaped by a size that the program computes. Were it more than one row, the comparison after export, of
        # every engine with the eager network, would refuse this one.
        one_row = len(row.shape) == 2 and row.shape[0] in (1, -1)
        if not one_row or not matrix.persistable or len(matrix.shape) != 2 or math.prod(matrix.shape) < LARGE:
            continue
        stem = answer.name
        block._remove_op(place, sync=False)
        products = block.create_var(name=f"{stem}.products", shape=matrix.shape, dtype=answer.dtype)
        sums = block.create_var(name=f"{stem}.sums", shape=(outputs,), dtype=answer.dtype)
        unused = block.create_var(name=f"{stem}.shape", shape=(0, outputs), dtype=answer.dtype)
        for i, (kind, given, made, attributes) in enumerate(
            (
                ("elementwise_mul", {"X": [matrix], "Y": [row]}, {"Out": [products]}, {"axis": -1}),
                ("reduce_sum", {"X": [products]}, {"Out": [sums]}, {"dim": [1]}),
                ("reshape2", {"X": [sums]}, {"Out": [answer], "XShape": [unused]}, {"shape": [1, outputs]}),
            )
        ):
            block._insert_op_without_sync(place + i, type=kind, inputs=given, outputs=made, attrs=attributes)
    block._sync_with_cpp()


def _store(name: str, value: np.ndarray) -> None:
    import paddle

    tensor = paddle.static.global_scope().var(name).get_tensor()
    tensor.set(np.ascontiguousarray(value), paddle.CPUPlace())


def _keep(block: Any, places: set[int]) -> None:
    for i in reversed(range(len(block.ops))):
        if i not in places:
            block._remove_op(i, sync=False)
    block._sync_with_cpp()


@contextlib.contextmanager
def _static_mode() -> Iterator[None]:
    """Paddle's older program format, and its static mode for as long as this lasts."""
    import paddle

    was_dynamic = paddle.in_dynamic_mode()
    with paddle.pir_utils.OldIrGuard():
        paddle.enable_static()
        try:
            yield
        finally:
            if was_dynamic:
                paddle.disable_static()
