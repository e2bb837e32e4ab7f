"""A toy method: a tiny generator against a tiny discriminator, with batch norm, a lazy R1 and an average."""

from __future__ import annotations

import types
from typing import Literal

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional as F

from ppgan_fr import losses
from ppgan_fr.config import Config, Data, Frozen, Train
from ppgan_fr.train.recipe import Optim, Phase, Recipe, Schedule


class Net(nn.Layer):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.first = nn.Conv2D(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2D(width)
        self.last = nn.Conv2D(width, out, 3, padding=1)

    def forward(self, image):
        return self.last(F.leaky_relu(self.norm(self.first(image)), 0.2))


class Critic(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2D(3, 4, 3, padding=1)
        self.last = nn.Conv2D(4, 1, 3, padding=1)

    def forward(self, image):
        return self.last(F.softplus(self.first(image)))


def toy_recipe(generator=None, *, lr=1e-2, noise=False, kind="adam"):
    generator = Net(4, 3) if generator is None else generator
    critic = Critic()

    def sample(batch, step):
        fake = generator(batch["lq"])
        return types.SimpleNamespace(fake=fake + paddle.randn(fake.shape) * 0.1 if noise else fake, gt=batch["gt"])

    def g(s):
        return {"pixel": losses.l1(s.fake, s.gt), "gan": 0.1 * losses.softplus_real(critic(s.fake))}

    def d(s):
        real, fake = critic(s.gt), critic(s.fake.detach())
        return {
            "gan": losses.softplus_real(real) + losses.softplus_fake(fake),
            "real_score": real.detach().mean(),
        }

    def r1(s):
        real = s.gt.detach().clone()
        real.stop_gradient = False
        return {"r1": 5 * losses.r1_penalty(critic(real), real)}

    optim = Optim(kind=kind, lr=lr, betas=(0.5, 0.99))
    return Recipe(
        networks={"generator": generator, "critic": critic},
        phases=[
            Phase(name="g", network=generator, losses=g, optim=optim),
            Phase(name="d", network=critic, losses=d, lazy_losses=r1, lazy_every=2, optim=optim),
        ],
        sample=sample,
        schedule=Schedule(milestones=(3,), factor=0.5),
        ema=0.9,
        pictures=lambda s: {"output": s.fake.detach()},
    )


def toy_batch(seed, count=4, size=8):
    rng = np.random.default_rng(seed)
    return {key: paddle.to_tensor(rng.standard_normal((count, 3, size, size), np.float32)) for key in ("lq", "gt")}


class ToyGenerator(Frozen):
    arch: Literal["toy"] = "toy"


class ToyRecipe(Frozen):
    name: Literal["toy"] = "toy"
    lr: float = 1e-2
    noise: bool = True


def build(section, generator=None):
    """The loop finds it here, in the module that declares the sections."""
    if isinstance(section, ToyGenerator):
        return Net(4, 3)
    return toy_recipe(generator, lr=section.lr, noise=section.noise)


@pytest.fixture
def faces(tmp_path):
    """Twelve pictures of noise, 16 pixels."""
    import cv2

    folder = tmp_path / "faces"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        cv2.imwrite(str(folder / f"{number:02d}.png"), rng.integers(0, 255, (16, 16, 3), np.uint8))
    return folder


@pytest.fixture
def toy_config(tmp_path, faces):
    """(output folder, overrides of `train`) -> a configuration of the toy method."""

    def make(name="run", noise=True, lr=1e-2, batch_size=4, **train):
        settings = {"total_steps": 6, "log_every": 1, "save_every": 2, "progress": False, **train}
        return Config(
            name="toy",
            generator=ToyGenerator(),
            recipe=ToyRecipe(noise=noise, lr=lr),
            data=Data(root=str(faces), size=16, batch_size=batch_size),
            train=Train(**settings),
            output_dir=str(tmp_path / name),
            device="cpu",
        )

    return make
