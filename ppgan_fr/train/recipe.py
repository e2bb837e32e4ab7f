"""What a training method says to the loop, all of it data: a `Recipe`, its `Phase`s, their `Terms` and optimizers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from paddle import Tensor, nn
from pydantic import Field, model_validator

from ppgan_fr.config import Frozen

Batch = dict[str, Tensor]
"""What a data set gives: `lq`, `gt` (N, 3, S, S) RGB in [-1, 1], `boxes` (N, 3, 4), `latent` (N, D), ... by kind."""

Terms = dict[str, Tensor]
"""Named scalars with their weights applied. Their sum is minimised; a term with `stop_gradient` is only logged."""


class Optim(Frozen):
    """An optimizer of one phase. The formula is the one of `torch.optim` with the same name."""

    kind: Literal["adam", "adamw", "sgd"] = "adam"
    lr: Annotated[float, Field(gt=0)] = 2e-3
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.99)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the whole gradient; larger ones are scaled down."""


class Schedule(Frozen):
    """The factor of every learning rate as a function of the step; see `lr_factor`."""

    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps of a linear start."""
    milestones: tuple[int, ...] = ()
    factor: float = 0.5
    """Applied after each milestone."""
    decay_from: int | None = None
    decay_to: int | None = None
    """Between these steps the factor falls to `final`, along a line or half a cosine."""
    decay: Literal["linear", "cosine"] = "linear"
    final: Annotated[float, Field(ge=0)] = 0.0
    every: Annotated[int, Field(gt=0)] = 1
    """The decay moves only every so many steps (HiFaceGAN: once per epoch)."""

    @model_validator(mode="after")
    def _decay_has_two_ends(self) -> Schedule:
        if (self.decay_from is None) != (self.decay_to is None):
            raise ValueError("decay_from and decay_to belong together")
        if self.decay_from is not None and self.decay_to is not None and self.decay_from >= self.decay_to:
            raise ValueError(f"decay_from must be before decay_to, got {self.decay_from} and {self.decay_to}")
        return self


def lr_factor(schedule: Schedule, step: int) -> float:
    """The factor of the learning rate at `step` (the first step is 1).

    Milestones act after the step they name, as `MultiStepLR` does in BasicSR: with milestone 2 the third step is the
    first with the lower rate.
    """
    value = schedule.factor ** sum(step > milestone for milestone in schedule.milestones)
    if schedule.decay_from is not None and schedule.decay_to is not None:
        moved = (step - 1 - schedule.decay_from) // schedule.every * schedule.every
        part = min(max(moved / (schedule.decay_to - schedule.decay_from), 0.0), 1.0)
        if schedule.decay == "cosine":
            from math import cos, pi

            part = (1 - cos(pi * part)) / 2
        value *= 1 - (1 - schedule.final) * part
    if schedule.warmup:
        value *= min(step / schedule.warmup, 1.0)
    return value


def lr_at(optim: Optim, schedule: Schedule, step: int) -> float:
    """The learning rate of a phase at `step` (the first step is 1); a pure function, so nothing has to be saved."""
    return optim.lr * lr_factor(schedule, step)


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One optimizer step within a training step."""

    name: str
    """`g`, `d`, `d_left_eye`, ...; also the name of its optimizer and the prefix of its terms in the log."""
    network: nn.Layer
    """The only network that learns in this phase."""
    losses: Callable[[Any], Terms]
    lazy_losses: Callable[[Any], Terms] | None = None
    """Added to the gradient of the same step every `lazy_every` steps, times `lazy_every` (R1, path length)."""
    lazy_every: int = 1
    optim: Optim = Optim()


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything the loop has to know about a method."""

    networks: dict[str, nn.Layer]
    """What is trained or has state to keep, by the name of its checkpoint file; `generator` is among them."""
    phases: Sequence[Phase]
    """In the order in which they run."""
    sample: Callable[[Batch, int], Any] = lambda batch, step: batch
    """(batch, step) -> the forward pass that the phases of a step share; by default the batch itself."""
    schedule: Schedule = Schedule()
    ema: float | None = None
    """Decay of the moving average of the generator's weights; `None`: no average."""
    pictures: Callable[[Any], dict[str, Tensor]] | None = None
    """sample -> named (N, 3, H, W) pictures in [-1, 1] for the log."""
    batch_keys: tuple[str, ...] = field(default=("lq", "gt"))
    """What the data set has to give."""
