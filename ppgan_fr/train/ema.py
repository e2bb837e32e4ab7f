"""The moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import paddle
from paddle import Tensor, nn


class Ema:
    """Averages what the network learns, `average = decay * average + (1 - decay) * weight`, and copies the rest.

    The rest (frozen parameters, batch-norm statistics - which Paddle keeps as parameters with `stop_gradient` - and
    buffers) is taken from the network as it is. Created before training starts, while every parameter that learns is
    trainable.
    """

    def __init__(self, network: nn.Layer, decay: float) -> None:
        self.network = network
        self.decay = decay
        self.learned = {name for name, parameter in network.named_parameters() if not parameter.stop_gradient}
        self.average = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @paddle.no_grad()
    def update(self) -> None:
        """Takes in the network's weights after a step."""
        for name, value in self.network.state_dict().items():
            average = self.average[name]
            if name in self.learned:
                average.scale_(self.decay)
                average.add_(value * (1.0 - self.decay))
            else:
                average.copy_(value, True)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged weights under the network's own names."""
        return self.average

    @paddle.no_grad()
    def load(self, state: dict) -> None:
        """Takes the averaged weights of a checkpoint (name -> array)."""
        for name, average in self.average.items():
            average.set_value(state[name])

    @contextmanager
    def applied(self) -> Iterator[nn.Layer]:
        """Within this context the network has the averaged weights and is in evaluation mode."""
        kept = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        training = self.network.training
        self._put(self.average)
        self.network.eval()
        try:
            yield self.network
        finally:
            self._put(kept)
            if training:
                self.network.train()

    @paddle.no_grad()
    def _put(self, state: dict[str, Tensor]) -> None:
        for name, value in self.network.state_dict().items():
            value.copy_(state[name], True)
