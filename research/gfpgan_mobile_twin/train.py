"""Train the twin: stage 1 (latent and pyramid), stage 2 (through the frozen prior), with exact commands in README.md.

    python train.py --stage 1 --faces FACES --real LIST --prior mobile_stylegan.npz --head head.pt --output runs/stage1
    python train.py --stage 2 --resume runs/stage1/last.pt --vgg vgg19.npz ... --output runs/stage2

FACES is a folder made by `tools/make_faces.py` and `latents.py`, LIST a text file of further aligned 512 px portraits,
one path a line.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from adversary import Adversary
from texture import Texture
from torch.utils.data import DataLoader, Dataset
from twin import GFPGANMobile, haar, initialise, load_prior

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from ppgan_fr.data.degrade import Pair, film_grain, gfpgan_pair, jpeg, motion_blur, scratches, sepia  # noqa: E402

OPTIONS = {
    "blur_sigma": (0.1, 10.0),
    "downsample_range": (0.8, 8.0),
    "noise_range": (0.0, 20.0),
    "jpeg_range": (50.0, 100.0),
    "color_jitter_prob": 0.3,
    "color_jitter_shift": 10.0,
    "color_jitter_pt_prob": None,
    "gray_prob": 0.08,
    "gt_gray": True,
}
VGG_LAYERS = {2: 0.1, 7: 0.1, 16: 1.0, 25: 1.0, 34: 0.5}
VGG_POOLS = (4, 9, 18, 27)
VGG_CONVS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)


def degrade(image, rng, harder: bool):
    """GFP-GAN's degradation; `harder` mixes in what old prints and messengers add (a third of the pairs).

    Sepia is a colour to keep, so the target gets it too. The low resolutions are faces of 32 to 64 pixels.
    """
    chosen = rng.random()
    if not harder or chosen > 0.36:
        return gfpgan_pair(image, OPTIONS, rng)
    if chosen < 0.10:
        return gfpgan_pair(image, OPTIONS | {"downsample_range": (8.0, 16.0), "blur_sigma": (0.1, 4.0)}, rng)
    if chosen < 0.18:
        return gfpgan_pair(image, OPTIONS | {"jpeg_range": (15.0, 50.0), "blur_sigma": (0.1, 3.0)}, rng)
    options = OPTIONS | {
        "blur_sigma": (0.1, 4.0),
        "downsample_range": (0.8, 4.0),
        "noise_range": (0.0, 8.0),
        "gray_prob": 0.4,
    }
    lq, gt = gfpgan_pair(image, options, rng)
    if rng.random() < 0.3:
        lq = motion_blur(lq, int(rng.integers(3, 10)), rng.uniform(0, 360), rng.uniform(-1, 1))
    if rng.random() < 0.3:
        amount = rng.uniform(0.4, 1.0)
        gt, lq = sepia(gt, amount), sepia(lq, amount)
    if rng.random() < 0.8:
        lq = film_grain(lq, rng.uniform(2, 12), rng, rng.uniform(0.5, 1.6))
    if rng.random() < 0.5:
        lq = scratches(lq, int(rng.integers(1, 6)), rng)
    if rng.random() < 0.5:
        lq = jpeg(lq, rng.uniform(60, 95))
    return Pair(lq, gt)


class Faces(Dataset):
    """Degraded faces: {lq, gt (3, 512, 512) in [-1, 1] RGB, latent (512,), has_latent}."""

    def __init__(self, faces: str, real: str | None, real_share: float, seed: int, length: int, harder=False):
        self.latents = np.load(Path(faces) / "latents.npy")
        self.synthetic = sorted(p for p in Path(faces).glob("[0-9]*.png") if "tmp" not in p.name)[: len(self.latents)]
        self.real = [line for line in Path(real).read_text().split("\n") if line] if real else []
        self.harder = harder
        self.real_share, self.seed, self.length = real_share if self.real else 0.0, seed, length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        cv2.setNumThreads(1)
        rng = np.random.default_rng([self.seed, index])
        is_real = rng.random() < self.real_share
        mirrored = rng.random() < (0.5 if is_real else 0.25)
        if is_real:
            path, latent = self.real[rng.integers(len(self.real))], np.zeros(512, np.float32)
        else:
            which = rng.integers(len(self.synthetic))
            path, latent = str(self.synthetic[which]), self.latents[which]
        image = cv2.imread(path)[:, :, ::-1].astype(np.float32) / 255
        if mirrored:
            image = image[:, ::-1]
        if is_real:  # the few portraits share one studio: vary their light a little
            image = np.clip(image ** rng.uniform(0.75, 1.35) * rng.uniform(0.85, 1.1), 0, 1)
        pair = degrade(np.ascontiguousarray(image[:, :, ::-1]), rng, self.harder)
        gt, lq = pair.gt, pair.lq
        to = lambda x: torch.from_numpy(np.ascontiguousarray(x[:, :, ::-1].transpose(2, 0, 1))).float() * 2 - 1  # noqa: E731
        return {
            "lq": to(lq),
            "gt": to(gt),
            "latent": torch.from_numpy(np.float32(latent)),
            "has_latent": torch.tensor(float(not is_real and not mirrored)),
        }


class Vgg(torch.nn.Module):
    """VGG19 features before ReLU; input RGB in [-1, 1], weights for BGR minus mean."""

    def __init__(self, path: str, last: int):
        super().__init__()
        state = np.load(path)
        self.last = last
        self.convs = torch.nn.ModuleDict()
        for i in VGG_CONVS:
            if i > last:
                break
            weight = torch.from_numpy(state[f"features.{i}.weight"])
            conv = torch.nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            conv.weight.data, conv.bias.data = weight, torch.from_numpy(state[f"features.{i}.bias"])
            self.convs[str(i)] = conv
        self.requires_grad_(False)

    def forward(self, image, last=None):
        x = (image.flip(1) + 1) * 127.5 - torch.tensor([103.939, 116.779, 123.68]).reshape(1, 3, 1, 1)
        found = {}
        for i in VGG_CONVS:
            if i > (last or self.last):
                break
            x = self.convs[str(i)](x)
            if i in VGG_LAYERS:
                found[i] = x
            x = F.relu(x)
            if i + 2 in VGG_POOLS:
                x = F.max_pool2d(x, 2)
        return found


FFHQ_512 = np.float64(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
ARC_112 = np.float64(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


class Sface(torch.nn.Module):
    """SFace identity features of faces aligned to the FFHQ template, (N, 3, 512, 512) in [-1, 1]."""

    UNITS = {
        2: (64, 1),
        3: (128, 2),
        4: (128, 1),
        5: (256, 2),
        6: (256, 1),
        7: (512, 2),
        8: (512, 1),
        9: (512, 1),
        10: (512, 1),
        11: (512, 1),
        12: (512, 1),
        13: (1024, 2),
        14: (1024, 1),
    }

    def __init__(self, path: str):
        super().__init__()
        state = np.load(path)
        self.state = {k: torch.from_numpy(state[k]) for k in state}
        a, b = ARC_112 - ARC_112.mean(0), FFHQ_512 - FFHQ_512.mean(0)
        u = a[:, 0] + 1j * a[:, 1]
        v = b[:, 0] + 1j * b[:, 1]
        k = (np.conj(u) * v).sum() / (
            np.abs(u) ** 2
        ).sum()  # the least-squares similarity from the small template to 512
        ys, xs = np.mgrid[0:112, 0:112]
        z = k * ((xs - ARC_112[:, 0].mean()) + 1j * (ys - ARC_112[:, 1].mean()))
        grid = np.stack([z.real + FFHQ_512[:, 0].mean(), z.imag + FFHQ_512[:, 1].mean()], -1)
        self.grid = torch.from_numpy(((grid + 0.5) / 256 - 1).astype(np.float32))[None]

    def norm(self, x, name, eps):
        s = self.state
        return F.batch_norm(
            x, s[f"{name}.running_mean"], s[f"{name}.running_var"], s[f"{name}.weight"], s[f"{name}.bias"], eps=eps
        )

    def unit(self, x, name, stride, groups):
        s = self.state
        x = F.conv2d(
            x, s[f"{name}.conv.weight"], stride=stride, padding=s[f"{name}.conv.weight"].shape[-1] // 2, groups=groups
        )
        return F.prelu(self.norm(x, f"{name}.norm", 1e-3), s[f"{name}.act.weight"].reshape(-1))

    def forward(self, image):
        x = F.avg_pool2d(image, 2)
        x = F.grid_sample(x, self.grid.expand(len(x), -1, -1, -1), align_corners=False)
        x = self.unit(x * 127.5 * 0.0078125, "conv_1", 1, 1)
        for i, (_, stride) in self.UNITS.items():
            x = self.unit(x, f"conv_{i}_dw", stride, x.shape[1])
            x = self.unit(x, f"conv_{i}", 1, 1)
        x = self.norm(x, "bn1", 2e-5).flatten(1)
        x = F.linear(x, self.state["pre_fc1.weight"], self.state["pre_fc1.bias"])
        return F.normalize(self.norm(x, "fc1", 2e-5))


def perceptual(vgg, fake, real, style_weight):
    a = vgg(fake)
    with torch.no_grad():
        b = vgg(real)
    content, style = 0.0, 0.0
    for i, x in a.items():
        x, y = x.float(), b[i].float()
        scale = y.abs().mean((1, 2, 3), keepdim=True)
        content = content + VGG_LAYERS[i] * ((x - y).abs() / scale).mean()
        if style_weight:
            gx, gy = gram(F.relu(x) / scale), gram(F.relu(y) / scale)
            style = style + VGG_LAYERS[i] * (gx - gy).abs().mean() / gy.abs().mean()
    return content, style


def gram(x):
    n, c, h, w = x.shape
    x = x.reshape(n, c, h * w)
    return x @ x.transpose(1, 2) / (h * w)


def crops(fake, real, size, rng):
    """The same window of every picture: 2 times of 5 the whole face at half size, else detail at full size."""
    if rng.random() < 0.4:
        return F.avg_pool2d(fake, 2), F.avg_pool2d(real, 2)
    y, x = int(rng.integers(96, 416 - size + 65)), int(rng.integers(64, 448 - size + 1))
    return fake[:, :, y : y + size, x : x + size], real[:, :, y : y + size, x : x + size]


def pyramid(rgbs, gt):
    total = (rgbs[-1].float() - gt).abs().mean()
    target = gt
    for rgb in reversed(rgbs[:-1]):
        target = F.interpolate(target, size=rgb.shape[2:], mode="area")
        total = total + (rgb.float() - target).abs().mean() * 0.5
    return total


def sheet(model, batch, path):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        image, rgbs, _, bands = model(batch["lq"], 1.0)
        prior = model(batch["lq"], 0.0)[0]
    rows = [batch["lq"], rgbs[-1].float(), prior.float(), image.float(), batch["gt"]]
    grid = torch.cat([torch.cat(list(F.avg_pool2d(r, 2)), 2) for r in rows], 1)
    picture = ((grid.clamp(-1, 1) + 1) * 127.5).round().byte().numpy().transpose(1, 2, 0)[:, :, ::-1]
    cv2.imwrite(str(path), np.ascontiguousarray(picture))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--faces", "--prior", "--output"):
        parser.add_argument(name, required=True)
    parser.add_argument("--real")
    parser.add_argument("--head")
    parser.add_argument("--vgg")
    parser.add_argument("--init", help="continue from the weights of another stage, with a fresh optimiser")
    parser.add_argument("--sface")
    parser.add_argument("--identity", type=float, default=0.3)
    parser.add_argument("--stage", type=int, choices=(1, 2, 3), required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--steps", type=int, default=100000)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument(
        "--gan", type=float, default=0.3, help="stage 3: the adversaries' gradient over the other terms'"
    )
    parser.add_argument("--texture", type=float, default=0.0, help="stage 3: the same of the texture term")
    parser.add_argument(
        "--only", help="stage 3: a regular expression; parameters whose names do not begin so stay as they are"
    )
    parser.add_argument("--real-share", type=float, default=0.3)
    parser.add_argument("--harder", action="store_true", help="mix in old prints, heavy JPEG and very low resolution")
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--style", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    rng = np.random.default_rng(arguments.seed)
    model = GFPGANMobile()
    initialise(model)
    load_prior(model, np.load(arguments.prior))
    model.mean_latent.copy_(torch.from_numpy(np.load(Path(arguments.faces) / "mean_latent.npy")))
    if arguments.init:
        begun = torch.load(arguments.init, weights_only=False)
        model.load_state_dict(begun["params"])
    if arguments.head:
        model.to_bands.load_state_dict(torch.load(arguments.head)["to_bands"])
    model = model.to(memory_format=torch.channels_last)
    for name, parameter in model.named_parameters():
        if arguments.stage == 1 and name.startswith(("transform", "fusion", "to_bands")):
            parameter.requires_grad_(False)
        if arguments.only and not re.match(arguments.only, name):
            parameter.requires_grad_(False)
    learnable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learnable, arguments.lr, betas=(0.9, 0.99))
    state = {"step": 0, "seconds": 0.0}
    ema = {k: v.detach().clone() for k, v in model.named_parameters() if v.requires_grad}
    last = output / "last.pt"
    if last.exists():
        saved = torch.load(last, weights_only=False)
        model.load_state_dict(saved["raw"])
        optimizer.load_state_dict(saved["optimizer"])
        ema, state = saved["ema"], saved["state"]
    adversary = Adversary() if arguments.stage == 3 and arguments.gan else None
    known = saved if last.exists() else begun if arguments.init else {}
    if adversary and "adversary" in known:
        adversary.load_state_dict(known["adversary"])
    sface = Sface(arguments.sface) if arguments.sface else None
    vgg = Vgg(arguments.vgg, 34).to(memory_format=torch.channels_last) if arguments.vgg else None
    texture = Texture(vgg) if arguments.stage == 3 and arguments.texture else None
    dataset = Faces(
        arguments.faces,
        arguments.real,
        arguments.real_share,
        arguments.seed + 1000 * arguments.stage,
        10**7,
        arguments.harder,
    )
    start_index = state["step"] * arguments.batch
    loader = DataLoader(
        torch.utils.data.Subset(dataset, range(start_index, 10**6)), arguments.batch, num_workers=1, prefetch_factor=3
    )
    fixed = [Faces(arguments.faces, arguments.real, 0.7, 77, 6)[i] for i in range(6)]
    fixed = {k: torch.stack([f[k] for f in fixed]) for k in fixed[0]}
    log = (output / "log.jsonl").open("a")
    began, before = time.time(), state["seconds"]
    saved_at, sheet_at = time.time(), time.time()
    means: dict[str, float] = {}

    def save():
        params = dict(model.state_dict())
        averaged = dict(params)
        averaged.update(ema)
        beside = output / "last.pt.part"
        kept = {"params": averaged, "raw": params, "optimizer": optimizer.state_dict(), "ema": ema, "state": state}
        if adversary:
            kept["adversary"] = adversary.state_dict()
        torch.save(kept, beside)
        beside.replace(last)

    for batch in loader:
        elapsed = (before + time.time() - began) / 60
        progress = max(elapsed / arguments.minutes, state["step"] / arguments.steps)
        if progress >= 1:
            break
        warm = min(1, (state["step"] + 1) / 50)
        for group in optimizer.param_groups:
            group["lr"] = float(arguments.lr * warm * (0.03 + 0.97 * 0.5 * (1 + np.cos(np.pi * progress))))
        lq = batch["lq"].contiguous(memory_format=torch.channels_last)
        gt = batch["gt"]
        terms = {}
        with torch.autocast("cpu", torch.bfloat16):
            if arguments.stage == 1:
                style, styles, _, rgbs, coarse = model.encode(lq)
            else:
                fidelity = 1.0 if rng.random() < 0.75 else float(rng.uniform(0, 1))
                image, rgbs, style, bands = model(lq, fidelity)
        terms["pyramid"] = pyramid(rgbs, gt)
        has = batch["has_latent"][:, None]
        terms["latent"] = 0.3 * ((style.float() - batch["latent"]).abs() * has).mean()
        if arguments.stage > 1:
            # The terms on the picture see a leaf: their gradients meet there and go back through the network once.
            drawn, image = image, image.detach().float().requires_grad_()
            terms["pixel"] = (image - gt).abs().mean()
            terms["detail"] = 2 * (haar(image)[:, 3:] - haar(gt)[:, 3:]).abs().mean()
            with torch.autocast("cpu", torch.bfloat16):
                a, b = crops(image, gt, arguments.crop, rng)
                content, style_term = perceptual(
                    vgg, a.contiguous(memory_format=torch.channels_last), b, arguments.style
                )
            terms["perceptual"] = 0.15 * content
            if sface is not None:
                with torch.no_grad():
                    wanted = sface(gt)
                terms["identity"] = arguments.identity * (1 - (sface(image) * wanted).sum(1)).mean()
            if arguments.style:
                terms["style"] = arguments.style * style_term
        loss = sum(terms.values())
        if not torch.isfinite(loss):
            sys.exit(f"step {state['step']}: a loss is not finite: { {k: float(v) for k, v in terms.items()} }")
        optimizer.zero_grad()
        if arguments.stage == 1:
            loss.backward()
        else:
            coarse_terms = terms["pyramid"] + terms["latent"]
            (pull,) = torch.autograd.grad(loss - coarse_terms, image)
            length = pull.norm()
            if adversary:
                centre = adversary.centre(rng)
                pull = pull + adversary.push(image, lq, centre, arguments.gan * length)
            if texture:
                push, terms["texture"] = texture.push(image, gt, rng, arguments.texture * length)
                pull = pull + push
            torch.autograd.backward([coarse_terms, drawn], [None, pull.to(drawn.dtype)])
        torch.nn.utils.clip_grad_norm_(learnable, 5.0)
        optimizer.step()
        if adversary:
            terms |= adversary.learn(image, gt, lq, centre)
        state["step"] += 1
        decay = min(0.998, state["step"] / (state["step"] + 10))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in ema:
                    ema[name].lerp_(parameter, 1 - decay)
        state["seconds"] = before + time.time() - began
        for k, v in terms.items():
            means[k] = float(v) if k not in means else 0.97 * means[k] + 0.03 * float(v)
        if state["step"] % 20 == 0:
            line = {
                "step": state["step"],
                "seconds": round(state["seconds"], 1),
                "lr": optimizer.param_groups[0]["lr"],
                **{k: round(v, 5) for k, v in means.items()},
            }
            log.write(json.dumps(line) + "\n")
            log.flush()
            print(json.dumps(line), flush=True)
        if time.time() - saved_at > 150:
            save()
            saved_at = time.time()
        if time.time() - sheet_at > 300 or state["step"] == 20:
            model.eval()
            sheet(model, fixed, output / f"sheet_{state['step']:06d}.png")
            sheet_at = time.time()
    save()
    sheet(model, fixed, output / "sheet_last.png")


if __name__ == "__main__":
    main()
