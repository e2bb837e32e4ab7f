"""Writes an inference model. `python tools/export_model.py -c configs/gfpgan.yaml -o weights=W export.dir=DIR`"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppgan_fr.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("export", sys.argv[1:]))
