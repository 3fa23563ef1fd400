"""OpenCV, which only curation needs."""

import types

from vdm_jax.errors import RunError


def import_opencv() -> types.ModuleType:
    """The module `cv2`, set to one thread: curation runs one process a core.

    Raises:
      RunError: it is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise RunError("scores of clips need OpenCV: pip install 'vdm_jax[curate]'") from None
    cv2.setNumThreads(1)
    return cv2
