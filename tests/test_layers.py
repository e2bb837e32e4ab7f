"""The import table of docs/architecture.md, checked in the source text."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# place -> what it may import from the package, what it may import besides the standard library. The most specific place
# that contains a file rules it. `a.b:C` allows only the name C of module a.b.
FACE = {"ppgan_fr.face", "numpy", "cv2"}
SCHEMA = {"ppgan_fr.config", "pydantic"}  # a section of the configuration is declared in the file it configures
# the programs may use everything below them
TOP = {"ppgan_fr", "pydantic", "paddle", "numpy", "cv2", "tqdm", "yaml", "scipy"}
TABLE: dict[str, set[str]] = {
    "ppgan_fr": TOP,
    "ppgan_fr/predict_video.py": TOP | {"av"},
    "ppgan_fr/face": FACE,
    "ppgan_fr/export_onnx.py": TOP | {"paddle2onnx", "onnxruntime"},
    "ppgan_fr/face/spec.py": FACE | {"yaml"},
    "ppgan_fr/face/image_io.py": FACE | {"PIL", "pillow_heif"},
    "ppgan_fr/face/raster.py": FACE | {"numba"},
    "ppgan_fr/face/xmp.py": FACE | {"ppgan_fr:__version__"},
    "ppgan_fr/config.py": {"yaml", "pydantic", "pydantic_core"},
    # `weights` is a leaf of its own; an architecture uses it for a prior that stands in its Config (`decoder_weights`)
    "ppgan_fr/archs": {"ppgan_fr.archs", "ppgan_fr.weights", "ppgan_fr.config:Frozen", "pydantic", "paddle", "numpy"},
    "ppgan_fr/weights.py": {"paddle", "numpy"},
    "ppgan_fr/losses.py": {"paddle", "numpy"},
    "ppgan_fr/metrics.py": {"paddle", "numpy", "scipy", "cv2"},
    "ppgan_fr/data": SCHEMA | FACE | {"ppgan_fr.data", "ppgan_fr.weights", "paddle", "tqdm", "lmdb"},
    "ppgan_fr/data/make_components.py": TOP,  # a command: it finds faces
    "ppgan_fr/train": SCHEMA | {"ppgan_fr.train", "ppgan_fr.weights", "paddle", "numpy", "tqdm", "visualdl"},
    "ppgan_fr/train/loop.py": TOP,
    "ppgan_fr/train/main.py": TOP,
    "ppgan_fr/recipes": SCHEMA
    | {
        "ppgan_fr.recipes",
        "ppgan_fr.archs",
        "ppgan_fr.losses",
        "ppgan_fr.render",
        "ppgan_fr.train.recipe",
        "ppgan_fr.weights",
        "paddle",
        "numpy",
    },
    # one predictor for `predict` and deploy/inference_python; it knows no network
    "ppgan_fr/inference.py": FACE | {"paddle"},
    "deploy": FACE | {"ppgan_fr.inference", "deploy", "paddle", "onnxruntime", "yaml", "tqdm"},
    # the same job as `predict`, spread over machines: it calls `predict` itself
    "deploy/ray_batch": TOP | {"deploy.ray_batch", "ray", "pyarrow"},
    "deploy/serving_python": FACE
    | {"ppgan_fr.inference", "deploy", "paddle", "paddle_serving_server", "yaml", "PIL", "grpc", "waitress", "google"},
    "deploy/serving_python/prepare_models.py": TOP,  # runs before the service, in the main environment
}
STANDARD = set(sys.stdlib_module_names) | {"__future__"}

PACKAGES = ("ppgan_fr", "deploy")
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if path.name != "__init__.py" or path.stat().st_size
)


def imports(source: str) -> list[tuple[int, str]]:
    """(line, `module` or `module:name`) of every import, also inside functions; a relative one starts with a dot."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found += [(node.lineno, f"{module}:{alias.name}") for alias in node.names]
    return found


def allowed_in(file: str) -> set[str]:
    places = [place for place in TABLE if file == place or file.startswith(place + "/")]
    return TABLE[max(places, key=len)]


def is_allowed(imported: str, allowed: set[str]) -> bool:
    module, _, name = imported.partition(":")
    if module.startswith("."):
        return False
    if module.split(".")[0] in STANDARD:
        return True
    full = f"{module}.{name}" if name else module
    return any(
        imported == entry if ":" in entry else full == entry or full.startswith(entry + ".") for entry in allowed
    )


def violations(file: str, source: str) -> list[str]:
    allowed = allowed_in(file)
    return [f"{file}:{line} imports {name}" for line, name in imports(source) if not is_allowed(name, allowed)]


@pytest.mark.parametrize("file", FILES)
def test_a_module_imports_only_what_its_layer_may(file):
    assert violations(file, (ROOT / file).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("ppgan_fr/face/align.py", "import paddle"),
        ("ppgan_fr/face/align.py", "from ppgan_fr import archs"),
        ("ppgan_fr/face/align.py", "def f():\n    from ppgan_fr.archs.gfpgan import build"),
        ("ppgan_fr/archs/gfpgan.py", "from ppgan_fr.config import load_config"),
        ("ppgan_fr/archs/gfpgan.py", "from . import _stylegan2"),
        ("ppgan_fr/losses.py", "from ppgan_fr.archs import vgg19"),
        ("deploy/inference_python/infer.py", "from ppgan_fr.export import export"),
    ],
)
def test_a_forbidden_import_is_named_with_its_file(file, line):
    (message,) = violations(file, line)
    assert message.startswith(f"{file}:")


def test_the_package_itself_imports_nothing():
    assert imports((ROOT / "ppgan_fr/__init__.py").read_text(encoding="utf-8")) == []
