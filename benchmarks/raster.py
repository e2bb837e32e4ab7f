"""Times the rasteriser on a mesh of the Basel model's size. `python benchmarks/raster.py [--side 189] [--json OUT]`"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppgan_fr.face import shape3d
from ppgan_fr.face.raster import has_numba, rasterize
from ppgan_fr.face.synthetic_model import synthetic_model


def median_ms(call: Callable[[], object], repeats: int) -> dict[str, float]:
    """Medians of some calls in milliseconds, after one that does not count: by the clock, and of this process's CPU.

    On a busy machine the clock also counts the others' work; everything here runs in one thread, so CPU time is its
    own cost.
    """
    call()
    clock, cpu = [], []
    for _ in range(repeats):
        start, start_cpu = time.perf_counter(), time.process_time()
        call()
        clock.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
    return {
        "milliseconds": round(1000 * float(np.median(clock)), 2),
        "cpu_milliseconds": round(1000 * float(np.median(cpu)), 2),
    }


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=189, help="the mesh has side * side vertices")
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    model = synthetic_model(args.side)
    vector = np.zeros(shape3d.COEFFICIENTS, np.float32)
    vector[224:227] = 0.1, 0.3, -0.05
    mesh = shape3d.mesh(model, shape3d.split_coefficients(vector))
    depth = shape3d.CAMERA_DISTANCE - mesh.vertices[:, 2]
    points = np.array([-1, 1]) * mesh.vertices[:, :2] * (2 * shape3d.FOCAL / shape3d.IMAGE_SIZE) / depth[:, None]
    rows = []
    first = {}
    for engine in ("numpy", "numba") if has_numba() else ("numpy",):
        for size in (224, 512):
            draw = partial(rasterize, points, depth, model.triangles, size, size, engine)
            took = median_ms(draw, args.repeats)
            face = draw().face
            differ = int((face != first.setdefault(size, face)).sum())
            rows.append({"engine": engine, "size": size, **took, "pixels_unlike_numpy": differ})
    took = median_ms(lambda: shape3d.render(model, vector), args.repeats)
    rows.append({"engine": "whole rendering", "size": shape3d.IMAGE_SIZE, **took})
    print(f"{len(model.mean_shape)} vertices, {len(model.triangles)} triangles")
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
