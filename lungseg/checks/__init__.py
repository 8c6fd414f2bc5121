"""Properties that any right implementation has, ours or a student's: `check_*(implementation)`."""

import tempfile
from pathlib import Path

from hypothesis.configuration import set_hypothesis_home_dir

# hypothesis keeps a small cache beside the code that calls it; a student's folder should stay clean
set_hypothesis_home_dir(str(Path(tempfile.gettempdir()) / "lungseg-hypothesis"))
