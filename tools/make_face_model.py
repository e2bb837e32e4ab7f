"""Makes the 3D face model of SGPN. `python tools/make_face_model.py --synthetic --output face_model.npz`"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ppgan_fr.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("make-face-model", sys.argv[1:]))
