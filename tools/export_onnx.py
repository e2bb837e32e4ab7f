"""Converts an export folder to ONNX. `python tools/export_onnx.py --model_dir DIR`"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppgan_fr.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("export-onnx", sys.argv[1:]))
