"""The one door to torchvision: it makes `import torchvision` work beside a CPU-only torch.

torchvision's wheel from the package index is built against CUDA. Beside a CPU build of torch its compiled extension does not
load, and the Python part then fails on import with "operator torchvision::nms does not exist". Declaring the two operator
schemas that the Python part registers fake kernels for is enough for models and transforms, which never call them. Where the
extension does load, nothing is declared. Every import of torchvision goes through this module.
"""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

_MISSING = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_KEPT_ALIVE: list[Any] = []  # torch drops the schemas of a Library when it is garbage collected


def _extension_loads() -> bool:
    """Whether torchvision's compiled operators can be loaded into this torch; loads them when they can."""
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("torchvision is not installed; `pip install torchvision` (see constraints.txt for the version)")
    for library in sorted(Path(found.origin).parent.glob("_C*.so")) + sorted(Path(found.origin).parent.glob("_C*.pyd")):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            continue
        return True
    return False


def torchvision_models() -> ModuleType:
    """The module `torchvision.models`, imported so that it works beside a CPU-only torch.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
    """
    if not _KEPT_ALIVE and not hasattr(torch.ops.torchvision, "nms") and not _extension_loads():
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name, schema in _MISSING.items():
            if not hasattr(torch.ops.torchvision, name):
                library.define(schema)
        _KEPT_ALIVE.append(library)
    import torchvision.models

    return torchvision.models  # type: ignore[no-any-return]
