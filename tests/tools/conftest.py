"""The executables of tools/ import each other by bare name, as they do when they run."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))
