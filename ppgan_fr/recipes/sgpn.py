"""Training of SGPN, our own: the authors published neither code nor weights of their losses.

Zhu et al., "Blind Face Restoration via Integrating Face Shape and Generative Priors", CVPR 2022, says that shape
and generative priors are trained together; how, is decided here:

- phase `shape`: the shape network looks at the *degraded* face and is asked to explain the *good* one. Landmarks,
colours over the
  drawn face and the sizes of the coefficients are weighed as in Deep3DFaceRecon (Deng et al., CVPR Workshops 2019);
  in addition the coefficients should be those it finds in the good face.
- phase `g`: the generator, from the degraded face, the drawing and the coefficients; smooth l1, the GAN term, and
if wanted
  VGG19 and identity. Numbers follow GPEN (Yang et al., CVPR 2021), which SGPN's decoder comes from. The drawing is
  an input: no gradient runs from here into the shape network.
- phase `d`: StyleGAN2's discriminator, logistic loss with lazy R1.

A phase whose weights are all 0 is left out: with `pixel: 0, gan: 0` the shape network learns alone, which gives the
`shape_weights` of a later training.

`use_shape: false` feeds the generator an empty drawing and zero coefficients: the same network without the shape,
to compare with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from pydantic import Field

from ppgan_fr import losses, weights
from ppgan_fr.archs import vgg19
from ppgan_fr.config import Arch, Frozen, find_file
from ppgan_fr.config import build as build_network
from ppgan_fr.recipes._adversary import discriminator_phase
from ppgan_fr.recipes._frozen import RecipeError, identity_judge, perceptual_judge
from ppgan_fr.render import Rendering, shape_guide, split_coefficients
from ppgan_fr.train.recipe import Batch, Optim, Phase, Recipe, Schedule, Terms

if TYPE_CHECKING:
    from ppgan_fr.config import Config as RunConfig

Weight = Annotated[float, Field(ge=0)]


class LossWeights(Frozen):
    """What multiplies each loss; one of 0 is not computed."""

    pixel: Weight = 1.0
    gan: Weight = 1.0
    perceptual: Weight = 0.0
    identity: Weight = 0.0
    r1: Weight = 10.0
    landmark: Weight = 1.6e-3
    colour: Weight = 1.92
    size: Weight = 3e-4
    """Of the squared coefficients: identity 1, expression 0.8, texture 0.017."""
    light: Weight = 10.0
    """Of the difference between the light of the three channels."""
    agreement: Weight = 1.0
    """Of the coefficients of the degraded and of the good face."""


class Config(Frozen):
    """Our own choices."""

    name: Literal["sgpn"] = "sgpn"
    use_shape: bool = True
    shape: Arch = Field(default_factory=lambda: {"arch": "d3dfr"})
    shape_weights: str | None = None
    """Where the shape network starts (`d3dfr_opensource.pth` converted); `None`: from the mean face."""
    train_shape: bool = True
    face_model: str | None = None
    """File of `tools/make_face_model.py`; `synthetic`: a small one of our own, made on the spot."""
    template: str = "ffhq_512"
    """How the training pictures are aligned."""
    discriminator: Arch = Field(default_factory=lambda: {"arch": "stylegan2_discriminator"})
    vgg: vgg19.Config = vgg19.Config()
    vgg_weights: str | None = None
    vgg_layers: dict[str, float] = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0}
    identity: Arch | None = None
    identity_weights: str | None = None
    loss_weights: LossWeights = LossWeights()
    r1_every: Annotated[int, Field(gt=0)] = 16
    ema_decay: Annotated[float, Field(gt=0, lt=1)] = 0.5 ** (32 / 10_000)
    optim_g: Optim = Optim(lr=2e-3, betas=(0.0, 0.99))
    optim_d: Optim = Optim(lr=2e-3, betas=(0.0, 0.99))
    """Betas before they are scaled for the lazy R1."""
    optim_shape: Optim = Optim(lr=1e-4, betas=(0.9, 0.999))
    schedule: Schedule = Schedule()

    def check(self, run: RunConfig) -> None:
        """Relations to other sections of the configuration.

        Raises:
            ValueError: what does not fit.
        """
        arch = getattr(run.generator, "arch", None)
        if arch != "sgpn":
            raise ValueError(f"recipe sgpn trains the generator sgpn, got {arch!r}")
        size = run.generator.size
        if getattr(self.discriminator, "out_size", size) != size:
            raise ValueError(f"recipe.discriminator.out_size: the generator makes {size} pixels")
        if run.data is not None and run.data.size != size:
            raise ValueError(f"data.size: the generator takes {size} pixels, got {run.data.size}")
        if self.use_shape and self.face_model is None:
            raise ValueError("recipe.face_model: missing; make one with tools/make_face_model.py, or use_shape=false")


@dataclass(frozen=True)
class Sample:
    """What the phases of a step share."""

    lq: Tensor
    """(N, 3, S, S) RGB in [-1, 1]."""
    gt: Tensor
    image: Tensor | None
    """The generator's answer before its step, with gradients; `None` when the generator does not learn."""
    rendered: Tensor
    """(N, 3, S, S), what the generator was shown; no gradient."""
    coefficients: Tensor
    """(N, 257), with gradients into the shape network."""
    drawn: Rendering | None


def build(config: Config, generator: nn.Layer) -> Recipe:
    """Networks, phases and schedule of the training.

    Args:
        config: what is minimised.
        generator: `archs.sgpn`.

    Raises:
        FaceModelError, WeightsError, RecipeError: a file is missing or does not fit.
    """
    w = config.loss_weights
    size = config.discriminator.out_size
    guide = shape_guide(find_file(config.face_model), config.template, size) if config.use_shape else None
    shape = _shape_network(config)
    discriminator = build_network(config.discriminator) if w.gan else None
    perceptual, identity = perceptual_judge(config), identity_judge(config)
    learns = any((w.pixel, w.gan, perceptual, identity))

    def sample(batch: Batch, _step: int) -> Sample:
        lq, gt = batch["lq"], batch["gt"]
        if guide is None:
            coefficients = paddle.zeros([lq.shape[0], 257])
            rendered, drawn = paddle.full_like(lq, -1.0), None
        else:
            coefficients = shape(guide.view(lq))
            drawn = guide.renderer(coefficients)
            rendered = guide.put_back(drawn).detach()
        image = generator(lq, rendered, coefficients.detach())[0] if learns else None
        return Sample(lq, gt, image, rendered, coefficients, drawn)

    def shape_terms(s: Sample) -> Terms:
        parts = split_coefficients(s.coefficients)
        terms: Terms = {}
        if w.landmark:
            terms["landmark"] = w.landmark * guide.landmark_distance(s.drawn)
        if w.colour:
            terms["colour"] = w.colour * guide.colour_distance(s.drawn, s.gt)
        if w.size:
            terms["size"] = w.size * coefficient_sizes(parts)
        if w.light:
            terms["light"] = w.light * light_difference(parts["light"])
        if w.agreement:
            with paddle.no_grad():
                wanted = shape(guide.view(s.gt))
            terms["agreement"] = w.agreement * F.smooth_l1_loss(s.coefficients, wanted.detach())
        return terms

    def generator_terms(s: Sample) -> Terms:
        terms: Terms = {}
        if w.pixel:
            terms["pixel"] = w.pixel * F.smooth_l1_loss(s.image, s.gt)
        if perceptual is not None:
            terms["perceptual"] = w.perceptual * perceptual(s.image, s.gt, style=False)[0]
        if identity is not None:
            terms["identity"] = w.identity * identity(s.image, s.gt)
        if w.gan:
            terms["gan"] = w.gan * losses.softplus_real(discriminator(s.image))
        return terms

    networks, phases = {"generator": generator}, []
    if shape is not None and config.train_shape:
        networks["shape"] = shape
        phases.append(Phase(name="shape", network=shape, losses=shape_terms, optim=config.optim_shape))
    if learns:
        phases.append(Phase(name="g", network=generator, losses=generator_terms, optim=config.optim_g))
    if discriminator is not None:
        networks["discriminator"] = discriminator
        phases.append(
            discriminator_phase(
                discriminator, lambda s: (s.image, s.gt), config.optim_d, r1=w.r1, every=config.r1_every
            )
        )
    if not phases:
        raise RecipeError("recipe.loss_weights: all are 0, nothing would learn")
    return Recipe(
        networks=networks,
        phases=phases,
        sample=sample,
        schedule=config.schedule,
        ema=config.ema_decay,
        pictures=lambda s: {
            "lq": s.lq,
            "rendered": s.rendered,
            **({} if s.image is None else {"output": s.image.detach()}),
            "gt": s.gt,
        },
    )


def coefficient_sizes(parts: dict[str, Tensor]) -> Tensor:
    """Squared coefficients, summed over each face: identity + 0.8 expression + 0.017 texture."""
    sums = {name: parts[name].square().sum() for name in ("identity", "expression", "texture")}
    return (sums["identity"] + 0.8 * sums["expression"] + 1.7e-2 * sums["texture"]) / parts["identity"].shape[0]


def light_difference(light: Tensor) -> Tensor:
    """Mean squared difference of the light (N, 27) of red, green and blue from their mean: daylight is nearly white."""
    channels = light.reshape([-1, 3, 9])
    return (channels - channels.mean(axis=1, keepdim=True)).square().mean()


def _shape_network(config: Config) -> nn.Layer | None:
    if not config.use_shape:
        return None
    network = build_network(config.shape)
    if config.shape_weights is not None:
        weights.load_into(network, find_file(config.shape_weights))
    if not config.train_shape:
        for parameter in network.parameters():
            parameter.stop_gradient = True
        network.eval()
    return network
