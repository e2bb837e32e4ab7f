"""Stage 3's adversaries: three small patch discriminators on windows that the FFHQ alignment fixes.

GFP-GAN (section 3.4 of its paper) judges the whole face and, apart from it, the eyes and the mouth. On two cores the
whole face costs too much, so a window of it at a random place stands in; eyes share one discriminator, the right one
mirrored. Each sees the degraded window as well: judged alone, eyes with the rims of glasses are as good as any, and a
restorer learned to draw them on people who wear none. For the same reason they may move only the three finest levels of
detail: what a face wears is left to the other terms. Loss: StyleGAN2's non-saturating logistic loss with lazy R1. The
discriminators are not part of the result.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

EYE, MOUTH, SKIN = (96, 112), (96, 144), (176, 176)  # window sizes, (height, width)
FINE = 8  # the three finest levels of the Haar transform lie within blocks of 8 x 8 pixels
LEFT_EYE, RIGHT_EYE, MOUTH_CENTRE = (240, 193), (240, 319), (371, 257)  # (y, x) in the 512 px FFHQ alignment


class PatchDiscriminator(nn.Module):
    """Picture and degraded picture, (N, 6, H, W) in [-1, 1], to logits (N, 1, H / 8, W / 8) of patches of 46 pixels."""

    def __init__(self, width: int = 48):
        super().__init__()
        widths = (6, width, 2 * width, 4 * width)
        self.steps = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in zip(widths, widths[1:], strict=False))
        self.body = nn.Conv2d(widths[-1], widths[-1], 3, padding=1)
        self.judge = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, image):
        for step in self.steps:
            image = F.leaky_relu(step(image), 0.2)
        return self.judge(F.leaky_relu(self.body(image), 0.2))


def window(image, centre, size):
    """The window of a size around a centre, both (y, x)."""
    top, left = centre[0] - size[0] // 2, centre[1] - size[1] // 2
    return image[:, :, top : top + size[0], left : left + size[1]]


class Adversary:
    """The three discriminators with their optimiser.

    Args:
        lr: of Adam(0, 0.99).
        r1: weight of R1, applied to every `r1_every`-th step and multiplied by that number.
    """

    def __init__(self, lr: float = 4e-4, r1: float = 0.2, r1_every: int = 8):
        self.networks = nn.ModuleDict({name: PatchDiscriminator() for name in ("skin", "eye", "mouth")})
        self.networks = self.networks.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.networks.parameters(), lr, betas=(0.0, 0.99))
        self.r1, self.r1_every, self.steps = r1, r1_every, 0

    def state_dict(self):
        """What a run needs to go on."""
        return {"networks": self.networks.state_dict(), "optimizer": self.optimizer.state_dict(), "steps": self.steps}

    def load_state_dict(self, state):
        """Takes up a run."""
        self.networks.load_state_dict(state["networks"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.steps = state["steps"]

    def windows(self, image, degraded, centre):
        """What each discriminator looks at; `centre` is that of the skin window."""
        image = torch.cat([image, degraded], 1)
        eyes = torch.cat([window(image, LEFT_EYE, EYE), window(image, RIGHT_EYE, EYE).flip(3)])
        return {"skin": window(image, centre, SKIN), "eye": eyes, "mouth": window(image, MOUTH_CENTRE, MOUTH)}

    def centre(self, rng):
        """A place for the skin window: anywhere in the face and the hair beside it."""
        return int(rng.integers(130, 400)), int(rng.integers(120, 392))

    def push(self, fake, degraded, centre, length):
        """The gradient of softplus(-D(fake)), summed over the discriminators, for the picture.

        It is scaled to a length, then loses its mean over every block of `FINE` pixels. Zero for the first 40 steps,
        while the discriminators know nothing, then growing for 60.
        """
        self.networks.requires_grad_(False)
        fake = fake.detach().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            logits = [self.networks[name](part) for name, part in self.windows(fake, degraded, centre).items()]
        (slope,) = torch.autograd.grad(sum(F.softplus(-x.float()).mean() for x in logits), fake)
        trust = min(1.0, max(0.0, (self.steps - 40) / 60))
        slope = slope * (trust * length / slope.norm().clamp_min(1e-12))
        return slope - F.interpolate(F.avg_pool2d(slope, FINE), scale_factor=FINE)

    def learn(self, fake, real, degraded, centre) -> dict[str, float]:
        """One step of the discriminators; the terms by name."""
        self.networks.requires_grad_(True)
        fakes, reals = (self.windows(image, degraded, centre) for image in (fake.detach(), real))
        loss, said = 0.0, {}
        with torch.autocast("cpu", torch.bfloat16):
            for name, network in self.networks.items():
                yes, no = network(reals[name]).float(), network(fakes[name]).float()
                term = F.softplus(-yes).mean() + F.softplus(no).mean()
                said[f"d_{name}"] = float(term)
                loss = loss + term
        if self.steps % self.r1_every == 0:
            for name, network in self.networks.items():
                seen = reals[name].detach().requires_grad_()
                (slope,) = torch.autograd.grad(network(seen).mean((1, 2, 3)).sum(), seen, create_graph=True)
                penalty = slope.square().sum((1, 2, 3)).mean()
                loss = loss + self.r1 * self.r1_every / 2 * penalty * seen[0, 0].numel() / 64
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.steps += 1
        return said
