"""The container images, pinned: what compiles apart from what serves.

| image | base | holds |
|---|---|---|
| builder, CUDA | nvidia/cuda 12.8.1 devel, Ubuntu 24.04 | compilers, CUDA toolkit, CMake and Ninja |
| builder, CPU | Debian slim of Modal's builder version | compilers, CMake and Ninja |
| runtime, GPU | nvidia/cuda 12.8.1 runtime, Ubuntu 24.04 | CUDA's shared libraries, this package |
| runtime, CPU | Debian slim, as its builder | this package |

A binary needs the C library that it was built against, or a newer one: each runtime has its builder's distribution.
"""

from __future__ import annotations

from typing import Literal

import modal

__all__ = ["PYTHON", "builder", "downloads", "runtime"]

PYTHON = "3.11"
"""Python in every container: this package's lowest version, and the one it is tested with."""

CUDA_DEVEL = (
    "nvidia/cuda:12.8.1-devel-ubuntu24.04@sha256:520292dbb4f755fd360766059e62956e9379485d9e073bbd2f6e3c20c270ed66"
)
CUDA_RUNTIME = (
    "nvidia/cuda:12.8.1-runtime-ubuntu24.04@sha256:ebef3c171eeef0298e4eb2e4be843105edf3b8b0ac45e0b43acee358e8046867"
)

PYDANTIC = "pydantic>=2.11,<3"
HTTPX = "httpx==0.28.*"
COMPILERS = ("git", "g++")
TLS = ("libssl-dev", "libssl3t64")


def builder(backend: Literal["cpu", "cuda"]) -> modal.Image:
    """What llama-server is compiled in."""
    if backend == "cuda":
        base = modal.Image.from_registry(CUDA_DEVEL, add_python=PYTHON).apt_install(*COMPILERS, TLS[0])
    else:
        base = modal.Image.debian_slim(python_version=PYTHON).apt_install(*COMPILERS)
    return base.pip_install(PYDANTIC, "cmake>=3.28,<5", "ninja>=1.11")


def downloads() -> modal.Image:
    """What models are fetched and checked in. huggingface-hub brings hf-xet."""
    return modal.Image.debian_slim(python_version=PYTHON).pip_install(
        PYDANTIC, "huggingface-hub==2.4.*", "gguf==0.19.*", "numpy>=2"
    )


def runtime(gpu: str | None) -> modal.Image:
    """What llama-server and its supervisor run in."""
    if gpu:
        base = modal.Image.from_registry(CUDA_RUNTIME, add_python=PYTHON).apt_install(TLS[1])
    else:
        base = modal.Image.debian_slim(python_version=PYTHON)
    return base.pip_install(PYDANTIC, HTTPX)
