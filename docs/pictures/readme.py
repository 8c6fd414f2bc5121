"""Draw docs/img/readme.png: the predictions.png of `python examples/train_swin.py`; takes as long as that training."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "demo"
        subprocess.run([sys.executable, "examples/train_swin.py", "--out", str(run)], cwd=ROOT, check=True)
        shutil.copy(run / "predictions.png", ROOT / "docs/img/readme.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
