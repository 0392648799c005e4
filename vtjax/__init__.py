"""vtjax aligns video and human motion with language in JAX."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
_LAZY = {"load": "vtjax.runs", "fit": "vtjax.runs", "Run": "vtjax.runs", "Experiment": "vtjax.config"}


def __getattr__(name: str) -> Any:
    """Loads `load`, `fit`, `Run` and `Experiment` on first use, so that `import vtjax` and --help stay quick."""
    if name not in _LAZY:
        raise AttributeError(f"module 'vtjax' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
