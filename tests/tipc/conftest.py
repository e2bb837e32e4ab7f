"""A repository of stand-in programs, so that a TIPC chain takes seconds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]

TRAIN_FILE = """\
===train_params===
model_name:GFPGAN
python:python
gpu_list:-1
##
train.precision:null
train.total_steps:lite_train_lite_infer=4|whole_train_whole_infer=800000
output_dir:./output/
data.batch_size:lite_train_lite_infer=2|whole_train_whole_infer=3
weights:null
train_model_name:latest/generator.pdparams
train_infer_img_dir:pictures
null:null
##
trainer:norm_train
norm_train:stand_in.py train
pact_train:null
fpgm_train:null
distill_train:null
to_static_train:train.to_static=true
null:null
##
===eval_params===
eval:stand_in.py eval
null:null
##
===infer_params===
export.dir:./output/
weights:null
norm_export:stand_in.py export
quant_export:null
fpgm_export:null
distill_export:null
export1:null
export2:null
inference_dir:null
infer_model:inference
infer_export:null
infer_quant:False
inference:stand_in.py infer
--use_gpu:False
--use_mkldnn:True|False
--cpu_threads:1|2
--batch_size:1
--use_tensorrt:null
--precision:fp32
--model_dir:null
--image_dir:pictures
--save_log_path:null
--benchmark:True
--save_dir:null
"""


@dataclass
class Outcome:
    """What a driver said."""

    code: int
    text: str


@dataclass
class Chain:
    """A copy of test_tipc with stand-in programs and one parameter file."""

    root: Path
    file: Path

    def edit(self, old: str, new: str) -> None:
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new, 1))

    def run(self, mode: str = "lite_train_lite_infer", fault: str = "", script: str = "", **variables: str) -> Outcome:
        script = script or "test_train_inference_python.sh"
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", f"test_tipc/{script}", str(self.file.relative_to(self.root)), mode],
            cwd=self.root,
            env={**os.environ, "PATH": path, "FAULT": fault, "TIPC_HAS_GPU": "no", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        return Outcome(done.returncode, done.stdout)


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    folder = tmp_path / "test_tipc"
    folder.mkdir()
    for path in (ROOT / "test_tipc").iterdir():
        if path.suffix in (".sh", ".py"):
            shutil.copy(path, folder)
    (tmp_path / "ppgan_fr").symlink_to(ROOT / "ppgan_fr")
    shutil.copy(Path(__file__).parent / "stand_in.py", tmp_path)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        ramp = np.linspace(0, 200, 32)[None, :, None] + rng.integers(0, 40, (24, 32, 3))
        cv2.imwrite(str(pictures / f"{name}.png"), ramp.astype(np.uint8))
    file = folder / "configs" / "GFPGAN" / "train_infer_python.txt"
    file.parent.mkdir(parents=True)
    file.write_text(TRAIN_FILE)
    return Chain(tmp_path, file)
