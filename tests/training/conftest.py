"""What the disk can do to a run."""

import os
import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def read_only_folder():
    """An empty folder that this process may read and not write; root may write anywhere, so it steps down."""
    with tempfile.TemporaryDirectory() as name:
        folder, user = Path(name), os.geteuid()
        folder.chmod(0o555)
        if user == 0:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if user == 0:
                os.seteuid(0)
            folder.chmod(0o755)
