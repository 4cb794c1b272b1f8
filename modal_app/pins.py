"""What containers are made from, pinned by digest. Pure: a preview reads it, and it is part of build and release keys.

A key must change with the image: a binary built against another CUDA toolkit is another binary, and a release on another
runtime is not the one that was proven.
"""

from __future__ import annotations

__all__ = ["CUDA_DEVEL", "CUDA_RUNTIME", "PYTHON", "builder_image", "runtime_image"]

PYTHON = "3.11"
"""Python in every container: this package's lowest version, and the one it is tested with."""

CUDA_DEVEL = (
    "nvidia/cuda:12.8.1-devel-ubuntu24.04@sha256:520292dbb4f755fd360766059e62956e9379485d9e073bbd2f6e3c20c270ed66"
)
CUDA_RUNTIME = (
    "nvidia/cuda:12.8.1-runtime-ubuntu24.04@sha256:ebef3c171eeef0298e4eb2e4be843105edf3b8b0ac45e0b43acee358e8046867"
)
DEBIAN_SLIM = f"modal debian_slim, Python {PYTHON}"
"""Modal's own image, without a digest of its own: it is pinned by the workspace's image builder version."""


def builder_image(backend: str) -> str:
    """The image that a backend is compiled in."""
    return CUDA_DEVEL if backend == "cuda" else DEBIAN_SLIM


def runtime_image(gpu: str | None) -> str:
    """The image that llama-server runs in."""
    return CUDA_RUNTIME if gpu else DEBIAN_SLIM
