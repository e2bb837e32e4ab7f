"""Stage 0: teach `to_bands` to give, from the prior's 256 level, the picture that its 512 level gives."""

from __future__ import annotations

import argparse
import os
import time

import numpy as np
import torch
from twin import GFPGANMobile, Mapping, Synthesis, haar, initialise


@torch.no_grad()
def sample(synthesis, mapping, mean, batch: int = 2):
    """Features of the 256 level and the Haar coefficients of the 512 picture, for random truncated latents."""
    alpha = torch.empty(batch, 1).uniform_(0.3, 0.9)
    styles = (mean + alpha * (mapping(torch.randn(batch, 512)) - mean))[:, None].expand(-1, 23, -1)
    kept = {}
    x = synthesis.features(styles, lambda i, x: kept.setdefault(i, x))
    return kept[5], styles[:, 19], haar(synthesis.layers[6].to_img(x, styles[:, 22])[:, :3] * 0.5)


@torch.no_grad()
def solve_skip(head, samples) -> None:
    """Start from the least-squares solution of the linear part, the rest at zero, features scaled to one."""
    normal, right, count = torch.zeros(129, 129, dtype=torch.float64), torch.zeros(129, 12, dtype=torch.float64), 0
    for features, style, target in samples:
        x = head.modulate(features, style).permute(0, 2, 3, 1).reshape(-1, 128).double()
        x = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
        normal += x.T @ x
        right += x.T @ target.permute(0, 2, 3, 1).reshape(-1, 12).double()
        count += len(x)
    solution = torch.linalg.solve(normal / count + 1e-6 * torch.eye(129, dtype=torch.float64), right / count)
    head.skip.weight.copy_(solution[:128].T[:, :, None, None])
    head.skip.bias.copy_(solution[128])
    head.pw2.weight.zero_()
    head.dw1.weight.div_((normal.diagonal()[:128] / count).sqrt().float()[:, None, None, None])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prior", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
    prior = np.load(arguments.prior)
    synthesis = Synthesis(512)
    synthesis.load_state_dict({k[10:]: torch.from_numpy(prior[k].copy()) for k in prior if k.startswith("synthesis.")})
    mapping = Mapping()
    mapping.load_state_dict({k[8:]: torch.from_numpy(prior[k].copy()) for k in prior if k.startswith("mapping.")})
    model = GFPGANMobile()
    initialise(model)
    head = model.to_bands
    with torch.no_grad():
        mean = mapping(torch.randn(4096, 512)).mean(0)
    head.modulation.load_state_dict(synthesis.layers[6].up.modulation.state_dict())
    solve_skip(head, (sample(synthesis, mapping, mean) for _ in range(12)))
    # The prior's features are large: a step of a weight that meets them directly must be small.
    direct = [p for name, p in head.named_parameters() if name.startswith(("skip", "modulation"))]
    rest = [p for name, p in head.named_parameters() if not name.startswith(("skip", "modulation"))]
    optimizer = torch.optim.Adam([{"params": direct, "base": 1e-5}, {"params": rest, "base": 1e-3}], betas=(0.9, 0.99))
    start, average = time.time(), None
    for step in range(arguments.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * (0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * step / arguments.steps)))
        features, style, target = sample(synthesis, mapping, mean)
        error = (head(features, style) - target).abs()
        loss = error[:, :3].mean() + 4 * error[:, 3:].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average = loss.item() if average is None else 0.95 * average + 0.05 * loss.item()
        if step % 20 == 0 or step == arguments.steps - 1:
            print(
                f"{step} loss {average:.4f} low {error[:, :3].mean():.4f} high {error[:, 3:].mean():.4f} "
                f"|high| {target[:, 3:].abs().mean():.4f} {time.time() - start:.0f}s",
                flush=True,
            )
    torch.save({"to_bands": head.state_dict(), "mean_latent": mean}, arguments.output)


if __name__ == "__main__":
    main()
