"""How llama-server is compiled: CMake definitions per backend, and the CMake code that makes the CPU build quick.

Pure: `recipe()` runs in previews. Its definitions, with the hash of the CMake code among them, are part of every build key,
so they name nothing of the machine that compiles.
"""

from __future__ import annotations

import hashlib
from typing import Literal

from modal_app.pins import builder_image
from modal_app.release import Recipe

__all__ = ["QUICK_BUILD", "recipe"]

SERVER_ONLY = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    # the web page's assets would be downloaded during the build (tools/ui/CMakeLists.txt)
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    # no child processes: tools, router mode and MCP servers cannot start one, whatever a request or an argument says
    "-DLLAMA_SUBPROCESS=OFF",
    "-DLLAMA_ALL_WARNINGS=OFF",
    # one binary for every machine of the kind, and one key
    "-DGGML_NATIVE=OFF",
    "-DGGML_CCACHE=OFF",
)

QUICK_BUILD = """\
# Included after project() (CMAKE_PROJECT_INCLUDE), runs at the end of the top directory, when all targets are known.
#
# Unity batches: llama.cpp's time goes into the same headers and templates, parsed again for each of some 300 files.
# -O1 outside of ggml: the arithmetic is in ggml, which keeps -O3; parsers, HTTP and argument handling do not need more.
if(NOT DEFINED LLAMA_QUICK_BUILD_INCLUDED)
  set(LLAMA_QUICK_BUILD_INCLUDED 1)
  message(STATUS "quick build ${LLAMA_QUICK_BUILD}: unity batches of ${LLAMA_QUICK_BATCH}, -O1 outside of ggml")

  function(llama_quick_build)
    foreach(target llama llama-common mtmd cpp-httplib server-context llama-server-impl llama-server)
      if(TARGET ${target})
        target_compile_options(${target} PRIVATE -O1)
      endif()
    endforeach()
    foreach(target llama-common mtmd server-context llama-server-impl)
      if(TARGET ${target})
        # upstream's jinja files each define FILENAME
        set_target_properties(${target} PROPERTIES
          UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE ${LLAMA_QUICK_BATCH} UNITY_BUILD_CODE_AFTER_INCLUDE "#undef FILENAME")
      endif()
    endforeach()
    # json.cpp specialises a template that other files of its batch have used by then; mtmd-helper.cpp refuses to be
    # compiled beside mtmd's internal headers; clip.cpp and arg.cpp are long by themselves
    foreach(pair llama-common:common/json.cpp llama-common:common/arg.cpp mtmd:tools/mtmd/mtmd-helper.cpp
        mtmd:tools/mtmd/mtmd-helper-gen.cpp mtmd:tools/mtmd/clip.cpp)
      string(REPLACE ":" ";" pair ${pair})
      list(GET pair 0 target)
      list(GET pair 1 file)
      if(TARGET ${target})
        set_source_files_properties(${CMAKE_SOURCE_DIR}/${file} TARGET_DIRECTORY ${target}
          PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
      endif()
    endforeach()
  endfunction()

  cmake_language(DEFER DIRECTORY ${CMAKE_SOURCE_DIR} CALL llama_quick_build)
endif()
"""

CPU = (
    *SERVER_ONLY,
    "-DGGML_OPENMP=OFF",
    "-DLLAMA_OPENSSL=OFF",
    # runs wherever the C library is no older, without the compiler's own libraries
    "-DCMAKE_EXE_LINKER_FLAGS=-static-libstdc++ -static-libgcc",
    "-DLLAMA_QUICK_BATCH=10",
    f"-DLLAMA_QUICK_BUILD={hashlib.sha256(QUICK_BUILD.encode()).hexdigest()[:12]}",
)

CUDA = (
    *SERVER_ONLY,
    "-DGGML_CUDA=ON",
    # L40S, L4 and RTX 4090 only: the default list of ten architectures is about ten times the work
    "-DCMAKE_CUDA_ARCHITECTURES=89-real",
    # same type for keys and values; anything else has no kernel and falls back (docs/build.md, b10878)
    "-DGGML_CUDA_FA_QUANTS=q8_0-q8_0;q4_0-q4_0;f16-f16",
    "-DGGML_CUDA_NCCL=OFF",
    # https image URLs
    "-DLLAMA_OPENSSL=ON",
    # the builder has no driver: libcuda is a stub there (as in upstream's .devops/cuda.Dockerfile)
    "-DCMAKE_EXE_LINKER_FLAGS=-Wl,--allow-shlib-undefined",
)


def recipe(backend: Literal["cpu", "cuda"]) -> Recipe:
    """The recipe of a backend: `cuda` for compute capability 8.9, `cpu` for x86-64 with AVX2 or any arm64."""
    return Recipe(backend=backend, image=builder_image(backend), definitions=CPU if backend == "cpu" else CUDA)
