"""What must be alike on all processes for one program to run on them: versions, the library's source, flags of XLA."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import pathlib
import sys

import jax

import vtjax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "libtpu")
_SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable")


def source_digest() -> str:
    """Twelve hexadecimal digits of the library's own Python files: two checkouts that differ have other ones."""
    root = pathlib.Path(vtjax.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def identity() -> dict[str, str]:
    """{what: its version or value} of this process."""
    found = {"python": ".".join(map(str, sys.version_info[:2])), "vtjax": vtjax.__version__}
    found["vtjax source"] = source_digest()
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    found |= {name: str(getattr(jax.config, name, None)) for name in _SETTINGS}
    found |= {name: os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_PLATFORMS")}
    return found
