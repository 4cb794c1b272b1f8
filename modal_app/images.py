"""The container images (`pins.py`) with what is installed in them: what compiles apart from what serves.

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

from modal_app.pins import CUDA_DEVEL, CUDA_RUNTIME, PYTHON

__all__ = ["builder", "downloads", "runtime"]

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
