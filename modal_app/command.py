"""llama-server's argument list: the one place that makes it, from options AND tag, because flags come and go with tags.

The contract of this module: **the weights are in anonymous memory**. A memory snapshot restores on another machine, where
the mapping of a file may not mean the same bytes; so no flag may let llama-server map the model (`check_contract()`).
The supervisor asserts the same on the running process (`/proc/PID/maps`).

Flags were read in `common/arg.cpp` of the tags named below, and tried with the server of b11434.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal

from pydantic import Field

from modal_app import paths
from modal_app.errors import Failure
from modal_app.release import BUILDS_MOUNT, MODELS_MOUNT, Frozen, ModelSpec, Release, tag_number

__all__ = ["SAMPLING_PRESETS", "Sampling", "ServerOptions", "argv", "check_contract", "launch"]

PORT = 8000
"""Always given: llama-server announces that its default of 8080 will change (start-up warning, b11434)."""

Eras = tuple[tuple[int, tuple[str, ...]], ...]
"""Spellings of one wish, each with the first tag number it is used for, oldest first."""

ANONYMOUS_WEIGHTS: Eras = (
    (0, ("--no-mmap",)),
    (10108, ("--load-mode", "none")),  # PR #20834; b10878 refuses --no-mmap
)
NO_LAZY_TENSORS: Eras = (
    (0, ()),
    (10698, ("--tensor-read-lazy", "off")),  # on-demand reading of big tensors needs a mapping; not there in b10524
    (10705, ("--lazy-mode", "off")),  # and makes one whatever --load-mode says
)
NO_WEB_PAGE: Eras = (
    (0, ("--no-webui",)),
    (9548, ("--no-ui",)),  # --no-webui is deprecated there, an alias later
)
CLOSED_CORS: Eras = (
    (0, ()),  # before, llama-server echoed every origin and had no flag against it
    (10103, ("--no-cors-credentials", "--cors-origins")),
)
MTP_SINCE = 9553
"""First tag with the architecture of Gemma 4's drafter (PR #23398)."""

MAPPING_FLAGS = frozenset(
    {"--mmap", "--mlock", "--direct-io", "-dio", "--models-dir", "--models-preset", "-lm", "-lzm", "--hf-repo", "-hf"}
)
"""Flags that map, lock or load weights in another way than this module chose."""


class Sampling(Frozen):
    """Sampling defaults of the server, for requests that do not say."""

    temp: Annotated[float, Field(ge=0)]
    top_p: Annotated[float, Field(gt=0, le=1)]
    top_k: Annotated[int, Field(ge=0)]
    min_p: Annotated[float, Field(ge=0, le=1)]


SAMPLING_PRESETS: dict[str, Sampling] = {
    "default": Sampling(temp=1.0, top_p=0.95, top_k=64, min_p=0.0),
    "creative": Sampling(temp=1.2, top_p=0.95, top_k=64, min_p=0.0),
    "balanced": Sampling(temp=0.7, top_p=0.9, top_k=40, min_p=0.0),
    "precise": Sampling(temp=0.3, top_p=0.8, top_k=20, min_p=0.05),
}
"""`default` is what Gemma 4's model card recommends; llama-server's own defaults (0.8, 0.95, 40, 0.05) are not."""


class ServerOptions(Frozen):
    """What a stack configures of llama-server."""

    parallel: Annotated[int, Field(ge=1)] = 4
    """Slots: requests served at once."""
    ctx_per_slot: Annotated[int, Field(ge=256)] = 65536
    """Context of one slot in tokens."""
    kv_cache_type: Literal["f16", "q8_0", "q4_0"] = "q8_0"
    """One type for keys and values: a mixed pair has no CUDA flash-attention kernel in a default build."""
    batch_size: Annotated[int, Field(ge=32)] = 2048
    ubatch_size: Annotated[int, Field(ge=32)] = 2048
    """At least 1120 with a projector: one image must fit a physical batch (PR #28335)."""
    cache_ram_mib: Annotated[int, Field(ge=0)] = 2048
    """Host memory of the prompt cache in MiB; part of every snapshot (llama-server's default is 8192)."""
    ctx_checkpoints: Annotated[int, Field(ge=0)] = 4
    """Context checkpoints per slot; each costs 159 to 600 MiB of host memory on Gemma 4 26B (issue #21690)."""
    served_name: Annotated[str, Field(pattern=r"^[^\s,]+$")] = "gemma-4-26b-a4b"
    chat_template: Literal["official", "interleaved", "gguf"] = "official"
    sampling: Sampling = SAMPLING_PRESETS["default"]
    reasoning_budget: Annotated[int, Field(ge=-1)] = -1
    """Thinking tokens of a request that does not say; -1 is unlimited."""
    reasoning_budget_message: str = ""
    mtp: bool = False
    """Multi-token prediction with the model's drafter."""
    gpu_layers: Annotated[int, Field(ge=0)] = 999
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 leaves the choice to llama-server."""
    cors_origins: str = ""
    """The origin that browsers may call from; empty lets none."""


def argv(options: ServerOptions, tag: str, build_key: str, model: ModelSpec) -> tuple[str, ...]:
    """llama-server's arguments for a build and a model at their mount paths, without the program and without any secret.

    Raises ValueError for what the tag or the model cannot do.
    """
    number = tag_number(tag)
    build, files = f"{BUILDS_MOUNT}/{build_key}", f"{MODELS_MOUNT}/{model.key}"
    args: list[str] = ["--model", f"{files}/{model.weights.path}"]
    if model.projector:
        args += ["--mmproj", f"{files}/{model.projector.path}"]
    args += _spelled(ANONYMOUS_WEIGHTS, number)
    args += _spelled(NO_LAZY_TENSORS, number)
    # the container's own network: Modal's edge connects from outside of it
    args += ["--host", "0.0.0.0", "--port", str(PORT)]
    args += _compute(options)
    if options.mtp:
        args += _drafter(model, files, number)
    args += _chat(options, build)
    args += ["--metrics", "--no-slots", *_spelled(NO_WEB_PAGE, number)]
    if cors := _spelled(CLOSED_CORS, number):
        args += [*cors, options.cors_origins]
    check_contract(args, tag)
    return tuple(args)


def _compute(options: ServerOptions) -> list[str]:
    args = ["--parallel", str(options.parallel), "--ctx-size", str(options.parallel * options.ctx_per_slot)]
    args += ["--batch-size", str(options.batch_size), "--ubatch-size", str(options.ubatch_size)]
    args += ["--cache-type-k", options.kv_cache_type, "--cache-type-v", options.kv_cache_type]
    args += ["--flash-attn", "on"]  # a bare --flash-attn takes the next argument as its value
    args += ["--n-gpu-layers", str(options.gpu_layers)]
    if options.threads:
        args += ["--threads", str(options.threads)]
    # what is not set must not depend on how much memory happens to be free
    args += ["--fit", "off"]
    args += ["--cache-ram", str(options.cache_ram_mib), "--ctx-checkpoints", str(options.ctx_checkpoints)]
    return args


def _drafter(model: ModelSpec, files: str, number: int) -> list[str]:
    if model.drafter is None:
        raise ValueError("mtp needs the model's drafter file: expected model.drafter: name it, or turn mtp off")
    if number < MTP_SINCE:
        raise ValueError(
            f"b{number} cannot load a drafter: expected b{MTP_SINCE} or newer: raise the tag or turn mtp off"
        )
    # more than 3 drafted tokens cost more than they win on this model (reports in PR #23398)
    args = ["--spec-type", "draft-mtp", "--spec-draft-model", f"{files}/{model.drafter.path}"]
    return [*args, "--spec-draft-n-max", "3", "--spec-draft-ngl", "all"]


def _chat(options: ServerOptions, build: str) -> list[str]:
    args = ["--jinja"]
    if options.chat_template == "official":
        args += ["--chat-template-file", f"{build}/chat-template.jinja"]
    elif options.chat_template == "interleaved":
        args += ["--chat-template-file", f"{build}/chat-template-interleaved.jinja"]
    # not "on": that sets a template argument which reasoning_effort "none" cannot undo (tried with b11434)
    args += ["--reasoning", "auto", "--reasoning-budget", str(options.reasoning_budget)]
    if options.reasoning_budget_message:
        args += ["--reasoning-budget-message", options.reasoning_budget_message]
    sampling = options.sampling
    args += ["--temp", f"{sampling.temp:g}", "--top-p", f"{sampling.top_p:g}"]
    args += ["--top-k", str(sampling.top_k), "--min-p", f"{sampling.min_p:g}"]
    return [*args, "--alias", options.served_name]


def _spelled(eras: Eras, number: int) -> tuple[str, ...]:
    return next(flags for since, flags in reversed(eras) if number >= since)


def check_contract(args: Sequence[str], tag: str) -> None:
    """Raise ValueError unless `args` keep the weights in anonymous memory, whatever else they say."""
    wanted = {_spelled(ANONYMOUS_WEIGHTS, tag_number(tag)), _spelled(NO_LAZY_TENSORS, tag_number(tag))} - {()}
    # llama-server takes --load_mode for --load-mode (common/arg.cpp, b9093 to b11434)
    flags = [a.replace("_", "-") if a.startswith("--") else a for a in args if a.startswith("-")]
    broken = [" ".join(w) for w in wanted if not _contains(args, w) or flags.count(w[0]) != 1]
    broken += sorted(MAPPING_FLAGS.intersection(flags))
    if broken:
        raise ValueError(
            f"the weights would not be in anonymous memory ({', '.join(broken)}): expected llama-server {tag} to be told "
            "once, and nothing against it: what is restored from a snapshot would answer from whatever the file is by then"
        )


def _contains(args: Sequence[str], part: Sequence[str]) -> bool:
    return any(tuple(args[i : i + len(part)]) == tuple(part) for i in range(len(args)))


def launch(release: Release) -> list[str]:
    """Program and arguments of a release in this container: Volumes and port as they are here, the release's alias added.

    Raises Failure when the arguments do not keep the contract.
    """
    try:
        check_contract(release.argv, release.tag)
    except ValueError as error:
        raise Failure(str(error)) from None
    args = [paths.mounted(a) for a in release.argv]
    _replace(args, "--alias", lambda name: f"{name},{release.alias}")
    _replace(args, "--port", lambda declared: str(paths.server_port(int(declared))))
    if paths.shares_the_network():
        _replace(args, "--host", lambda _: "127.0.0.1")
    return [paths.mounted(f"{release.build_dir}/llama-server"), *args]


def _replace(args: list[str], flag: str, value: Callable[[str], str]) -> None:
    index = args.index(flag) + 1
    args[index] = value(args[index])
