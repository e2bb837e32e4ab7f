"""One training step of any recipe: forward, and for every phase losses, backward, averaging, update."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import paddle
from paddle import Tensor, nn

from ppgan_fr.train.distributed import average_gradients, rank
from ppgan_fr.train.ema import Ema
from ppgan_fr.train.recipe import Batch, Optim, Phase, Recipe, Terms, lr_at


class DivergedError(ValueError):
    """A loss or a weight became NaN or infinite; the message names it."""


@contextmanager
def only_trainable(network: nn.Layer, among: Iterable[nn.Layer]) -> Iterator[None]:
    """Freezes the other networks; gradients still flow through them. What was frozen before stays frozen."""
    others = [p for other in among if other is not network for p in other.parameters() if not p.stop_gradient]
    own = {id(parameter) for parameter in network.parameters()}
    others = [parameter for parameter in others if id(parameter) not in own]
    for parameter in others:
        parameter.stop_gradient = True
    try:
        yield
    finally:
        for parameter in others:
            parameter.stop_gradient = False


def make_optimizer(optim: Optim, network: nn.Layer) -> paddle.optimizer.Optimizer:
    """The optimizer of the network's trainable parameters."""
    parameters = [parameter for parameter in network.parameters() if not parameter.stop_gradient]
    clip = None if optim.clip_norm is None else nn.ClipGradByGlobalNorm(optim.clip_norm)
    decay = optim.weight_decay
    if optim.kind == "sgd":
        return paddle.optimizer.SGD(optim.lr, parameters, weight_decay=decay or None, grad_clip=clip)
    kind = paddle.optimizer.AdamW if optim.kind == "adamw" else paddle.optimizer.Adam
    beta1, beta2 = optim.betas
    weight_decay = decay if optim.kind == "adamw" else decay or None
    return kind(optim.lr, beta1, beta2, optim.eps, parameters, weight_decay=weight_decay, grad_clip=clip)


class Stepper:
    """Holds what a recipe needs between steps: optimizers, loss scalers, the moving average."""

    def __init__(self, recipe: Recipe, *, precision: str = "float32", seed: int = 0) -> None:
        self.recipe = recipe
        self.precision = precision
        self.seed = seed
        self.optimizers = {phase.name: make_optimizer(phase.optim, phase.network) for phase in recipe.phases}
        scaled = precision == "float16"
        self.scalers = {phase.name: paddle.amp.GradScaler(enable=scaled) for phase in recipe.phases}
        self.minimised: set[str] = set()
        """`phase/term` of everything that a gradient was taken of; the other terms are only logged."""
        self.ema = None if recipe.ema is None else Ema(recipe.networks["generator"], recipe.ema)

    def step(self, batches: Sequence[Batch], step: int) -> Terms:
        """Runs all phases once.

        Args:
            batches: one batch, or several whose gradients are averaged.
            step: number of the step; the first is 1.

        Returns:
            `phase/term` -> detached scalar, the mean over the batches.

        Raises:
            DivergedError: the sum of a phase is NaN or infinite; its network is left as it was.
        """
        # Random numbers are a function of (seed, step, process), so that resuming needs no generator state.
        paddle.seed(int(np.random.SeedSequence([self.seed, step, rank()]).generate_state(1)[0] >> 1))
        said: Terms = {}
        samples: list = []
        for number, phase in enumerate(self.recipe.phases):
            loss = paddle.zeros([])
            for position, batch in enumerate(batches):
                if number == 0:  # later phases reuse it; its graph is gone after the first backward
                    with self._casting():
                        samples.append(self.recipe.sample(batch, step))
                with only_trainable(phase.network, among=self.recipe.networks.values()):
                    loss = loss + self._backward(phase, samples[position], step, len(batches), said)
            self._update(phase, loss, step, said)
        if self.ema is not None:
            self.ema.update()
        return said

    def _casting(self, enable: bool = True):  # noqa: ANN202 - a context manager of Paddle
        cast = enable and self.precision != "float32"
        return paddle.amp.auto_cast(enable=cast, dtype=self.precision if cast else "float16", level="O1")

    def _backward(self, phase: Phase, sample: object, step: int, parts: int, said: Terms) -> Tensor:
        with self._casting():
            terms = phase.losses(sample)
        loss = self._accumulate(phase, terms, parts, said)
        if phase.lazy_losses is not None and step % phase.lazy_every == 0:
            with self._casting(enable=False):  # second derivatives do not survive half precision
                lazy = {name: value * phase.lazy_every for name, value in phase.lazy_losses(sample).items()}
            loss = loss + self._accumulate(phase, lazy, parts, said)
        return loss

    def _accumulate(self, phase: Phase, terms: Terms, parts: int, said: Terms) -> Tensor:
        learned = [term.astype("float32") for term in terms.values() if not term.stop_gradient]
        for name, term in terms.items():
            key = f"{phase.name}/{name}"
            if not term.stop_gradient:
                self.minimised.add(key)
            value = term.detach().astype("float32").mean() / parts
            said[key] = said[key] + value if key in said else value
        if not learned:
            return paddle.zeros([])
        loss = sum(learned[1:], learned[0]).mean() / parts
        self.scalers[phase.name].scale(loss).backward()
        return loss.detach()

    def _update(self, phase: Phase, loss: Tensor, step: int, said: Terms) -> None:
        optimizer, scaler = self.optimizers[phase.name], self.scalers[phase.name]
        loss = average_gradients(phase.network, loss)
        if not np.isfinite(loss.item()):
            optimizer.clear_grad(set_to_zero=False)
            raise DivergedError(f"step {step}: {_blame(phase, said)}")
        optimizer.set_lr(lr_at(phase.optim, self.recipe.schedule, step))
        if scaler.is_enable():
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
        # None, not zeros: a parameter without a gradient must not be moved by its old momentum.
        optimizer.clear_grad(set_to_zero=False)


def _blame(phase: Phase, said: Terms) -> str:
    values = {name: value.item() for name, value in said.items() if name.startswith(f"{phase.name}/")}
    bad = [f"{name} became {value}" for name, value in values.items() if not np.isfinite(value)]
    return ", ".join(bad) if bad else f"a loss of phase {phase.name!r} became NaN or infinite on another process"


def check_finite(networks: dict[str, nn.Layer], step: int) -> None:
    """Refuses weights that are not numbers.

    Raises:
        DivergedError: naming the first bad one.
    """
    for name, network in networks.items():
        for path, value in network.state_dict().items():
            if value.is_floating_point() and not bool(paddle.isfinite(value).all()):
                raise DivergedError(f"step {step}: the weights {path} of {name} became NaN or infinite")
