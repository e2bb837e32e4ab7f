"""Several processes: who am I, the same start, one flat all-reduce per phase."""

from __future__ import annotations

import os

import paddle
from paddle import Tensor, nn


class ProcessLostError(ValueError):
    """Another process of the run ended or cannot be reached."""


def world_size() -> int:
    """Number of processes of this run (1 unless started by `paddle.distributed.launch`)."""
    return int(os.environ.get("PADDLE_TRAINERS_NUM", "1"))


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("PADDLE_TRAINER_ID", "0"))


def start() -> None:
    """Connects the processes; nothing to do for one."""
    if world_size() > 1 and not paddle.distributed.is_initialized():
        paddle.distributed.init_parallel_env()


def same_start(network: nn.Layer) -> None:
    """Gives every process the weights of process 0 (identical seeds make them equal already; files may differ)."""
    if world_size() == 1:
        return
    for value in network.state_dict().values():
        _reach_the_others(lambda value=value: paddle.distributed.broadcast(value, src=0))


@paddle.no_grad()
def average_gradients(network: nn.Layer, loss: Tensor) -> Tensor:
    """Replaces every gradient by its mean over the processes, in one flat all-reduce, and averages the loss along.

    A parameter that got no gradient on some process counts as zero there. The loss travels with the gradients so that
    every process knows at the same step when one of them diverged.

    Args:
        network: its trainable parameters are averaged.
        loss: this process's loss, a scalar.

    Returns:
        The mean loss of all processes.

    Raises:
        ProcessLostError: another process ended.
    """
    if world_size() == 1:
        return loss
    parameters = [parameter for parameter in network.parameters() if not parameter.stop_gradient]
    if len({parameter.dtype for parameter in parameters}) > 1:
        raise AssertionError("parameters of one network have one type")
    flat = [paddle.zeros([p.size], p.dtype) if p.grad is None else p.grad.reshape([-1]) for p in parameters]
    everything = paddle.concat([*flat, loss.detach().astype(flat[0].dtype).reshape([1])])
    _reach_the_others(lambda: paddle.distributed.all_reduce(everything))
    everything = everything / world_size()
    position = 0
    for parameter in parameters:
        gradient = everything[position : position + parameter.size].reshape(parameter.shape)
        if parameter.grad is None:
            if bool((gradient != 0).any()):  # it took part on another process only
                parameter.grad = gradient
        else:
            parameter.grad.copy_(gradient, True)
        position += parameter.size
    return everything[-1]


def average(values: Tensor) -> Tensor:
    """The mean of a tensor over the processes."""
    if world_size() == 1:
        return values
    values = values.clone()
    _reach_the_others(lambda: paddle.distributed.all_reduce(values))
    return values / world_size()


def _reach_the_others(talk) -> None:  # noqa: ANN001
    try:
        talk()
    except Exception as error:  # noqa: BLE001 - gloo and NCCL raise many kinds
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise ProcessLostError(
            f"process {rank()} of {world_size()}: another process cannot be reached ({reason})"
        ) from error
