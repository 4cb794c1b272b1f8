"""The stack's configuration: every key typed, checked and explained, all problems reported at once.

`Pulumi.yaml` declares the keys with type, default and description; `Settings` gives them their Python types and limits and
the checks that concern several keys. `read_stack()` is how the program gets them. What it returns is frozen.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from modal_app.command import SAMPLING_PRESETS, ServerOptions
from modal_app.recipe import recipe
from modal_app.release import BuildSpec, ModelSpec, PatchRef, Scaling, Tag, tag_number

__all__ = ["Problems", "Settings", "read", "read_stack"]

PROJECT = "llama-on-modal"
MINIMUM_KEY_LENGTH = 16

OLDEST_TAG = 11334
"""Floor of the tags offered: images are capped to the batch, `tool_choice: required` is forced, /v1/models asks for the key."""

MINIMUM_UBATCH = 1120
"""One image of Gemma 4 is up to 1120 tokens (llama.cpp PR #28335) and must fit the physical batch."""

RoutingRegion = Literal["us-east", "us-west", "eu-west", "ap-south"]
Name = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9._-]{1,64}$")]


class Problems(Exception):  # noqa: N818 - it carries problems, one line each; it is not one error
    """The configuration cannot be used. `lines` has one line per problem, each naming its key."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        super().__init__("\n".join(lines))


class Settings(BaseModel):
    """One stack's configuration. Field names are the camelCase keys of `Pulumi.yaml` in snake_case."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=to_camel, validate_default=False, hide_input_in_errors=True
    )

    llama_cpp_tag: Tag
    build_generation: Annotated[int, Field(ge=0)]

    gpu: Annotated[str, StringConstraints(pattern=r"^(none|[A-Z][A-Z0-9-]*)$")]
    gpu_layers: Annotated[int, Field(ge=0)]
    threads: Annotated[int, Field(ge=0, le=256)]
    cpu: Annotated[int, Field(ge=1, le=64)]
    memory: Annotated[int, Field(ge=128, le=344064)]
    min_headroom_mib: Annotated[int, Field(ge=0, alias="minHeadroomMiB")]

    parallel: Annotated[int, Field(ge=1, le=64)]
    ctx_per_slot: Annotated[int, Field(ge=256, le=262144)]
    kv_cache_type: Literal["f16", "q8_0", "q4_0"]
    batch_size: Annotated[int, Field(ge=32)]
    ubatch_size: Annotated[int, Field(ge=32)]
    cache_ram_mib: Annotated[int, Field(ge=0, alias="cacheRamMiB")]
    ctx_checkpoints: Annotated[int, Field(ge=0, le=256)]
    served_name: Annotated[str, StringConstraints(pattern=r"^[^\s,]+$")]
    chat_template: Literal["official", "interleaved", "gguf"]
    sampling: str
    reasoning_budget: Annotated[int, Field(ge=-1)]
    reasoning_budget_message: str
    mtp: bool

    model: ModelSpec
    hf_token: SecretStr
    api_key: SecretStr
    cors_origins: str

    min_containers: Annotated[int, Field(ge=0)]
    max_containers: Annotated[int, Field(ge=1)]
    scaledown_window: Annotated[int, Field(ge=2, le=3600)]
    target_concurrency: Annotated[int, Field(ge=0)]
    max_concurrency: Annotated[int, Field(ge=0)]
    startup_timeout: Annotated[int, Field(ge=10, le=3600)]
    exit_grace_period: Annotated[int, Field(ge=0, le=3600)]

    snapshot: Literal["gpu", "cpu", "none"]
    snapshot_generation: Annotated[int, Field(ge=0)]

    app_name: Name
    modal_address: Literal["modal.com", "loopback"]
    modal_environment: Name
    artifact_environment: str
    routing_region: RoutingRegion

    adopt: bool
    protect: bool
    drift_check: Literal["names", "deep"]

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        problems = [
            (self.api_key.get_secret_value() == "", "apiKey", "is empty: without a key llama-server lets everybody in: "
             "pulumi config set --secret apiKey \"$(openssl rand -hex 24)\""),
            (0 < len(self.api_key.get_secret_value()) < MINIMUM_KEY_LENGTH, "apiKey",
             f"is too short: expected at least {MINIMUM_KEY_LENGTH} characters: "
             "pulumi config set --secret apiKey \"$(openssl rand -hex 24)\""),
            (tag_number(self.llama_cpp_tag) < OLDEST_TAG, "llamaCppTag",
             f"{self.llama_cpp_tag} has known defects in serving Gemma 4: expected b{OLDEST_TAG} or newer"),
            (self.ubatch_size > self.batch_size, "ubatchSize",
             f"{self.ubatch_size} is more than batchSize {self.batch_size}: lower it or raise batchSize"),
            (self.model.projector is not None and self.ubatch_size < MINIMUM_UBATCH, "ubatchSize",
             f"{self.ubatch_size} cuts images short: expected at least {MINIMUM_UBATCH} with a projector"),
            (self.min_containers > self.max_containers, "minContainers",
             f"{self.min_containers} is more than maxContainers {self.max_containers}: lower it or raise maxContainers"),
            (self.target_concurrency > 0 and self.max_containers == 1, "targetConcurrency",
             f"{self.target_concurrency} has no effect with maxContainers 1: set it to 0 or raise maxContainers"),
            (0 < self.max_concurrency < (self.target_concurrency or self.parallel), "maxConcurrency",
             f"{self.max_concurrency} is less than the {self.target_concurrency or self.parallel} requests that a "
             "container is meant to serve: raise it or set 0 for no limit"),
            (self.sampling not in SAMPLING_PRESETS, "sampling",
             f"{self.sampling!r} is not a preset: expected one of {', '.join(SAMPLING_PRESETS)}"),
            (
                "," in self.cors_origins,
                "corsOrigins",
                f"{self.cors_origins!r} is a list: expected one origin, because llama-server sends the value as it stands",
            ),
            (self.mtp and self.model.drafter is None, "mtp",
             "needs the drafter file: set model.drafter.path, or mtp to false"),
            (self.snapshot == "gpu" and self.gpu == "none", "snapshot",
             "gpu needs a GPU: set snapshot to cpu or none, or choose a gpu"),
            (self.snapshot == "cpu" and self.gpu != "none", "snapshot",
             f"cpu shows no {self.gpu} to the server that is snapshotted: set snapshot to gpu or none"),
        ]  # fmt: skip
        found = [f"{key}: {text}" for wrong, key, text in problems if wrong]
        if found:
            raise ValueError("\n".join(found))
        return self

    @property
    def owns_artifacts(self) -> bool:
        """False when another environment builds and downloads for this stack."""
        return self.artifact_environment in ("", self.modal_environment)

    @property
    def artifacts_in(self) -> str:
        """The environment that owns the builds and models Volumes."""
        return self.artifact_environment or self.modal_environment

    def build_spec(self, patches: tuple[PatchRef, ...]) -> BuildSpec:
        """What llama-server is built from, with `patches` in the order of the series."""
        return BuildSpec(
            tag=self.llama_cpp_tag,
            patches=patches,
            recipe=recipe("cpu" if self.gpu == "none" else "cuda"),
            generation=self.build_generation,
        )

    def server_options(self) -> ServerOptions:
        """What `modal_app.command` needs to write llama-server's arguments."""
        return ServerOptions(
            parallel=self.parallel,
            ctx_per_slot=self.ctx_per_slot,
            kv_cache_type=self.kv_cache_type,
            batch_size=self.batch_size,
            ubatch_size=self.ubatch_size,
            cache_ram_mib=self.cache_ram_mib,
            ctx_checkpoints=self.ctx_checkpoints,
            served_name=self.served_name,
            chat_template=self.chat_template,
            sampling=SAMPLING_PRESETS[self.sampling],
            reasoning_budget=self.reasoning_budget,
            # llama-server appends it to the thought as it is, and Pulumi's CLI strips white space from configuration values
            reasoning_budget_message=self.reasoning_budget_message and "\n" + self.reasoning_budget_message,
            mtp=self.mtp,
            gpu_layers=0 if self.gpu == "none" else self.gpu_layers,
            threads=self.threads,
            cors_origins=self.cors_origins,
        )

    def scaling(self) -> Scaling:
        """How many containers run, and when."""
        return Scaling(
            min_containers=self.min_containers,
            max_containers=self.max_containers,
            scaledown_window=self.scaledown_window,
            # Modal wants target <= max; a target equal to the slots keeps llama-server's own queue short
            target_concurrency=float(self.target_concurrency or self.parallel),
            max_concurrency=self.max_concurrency or None,
            startup_timeout=self.startup_timeout,
            exit_grace_period=self.exit_grace_period,
        )


def read(raw: Mapping[str, str], environment: Mapping[str, str] = os.environ, plain: Collection[str] = ()) -> Settings:
    """The settings of `raw`, Pulumi's configuration as it reaches a program: `namespace:key` to text or JSON.

    `environment` tells which Modal the client would talk to (`MODAL_SERVER_URL`); `plain` names the keys that are not
    encrypted. Raises Problems, never anything else, for what a user can write.
    """
    ours = {k.removeprefix(f"{PROJECT}:"): v for k, v in raw.items() if k.startswith(f"{PROJECT}:")}
    known = {field.alias or name: field for name, field in Settings.model_fields.items()}
    problems = [_unknown(key, list(known)) for key in ours if key not in known]
    if ours.get("hfToken") and f"{PROJECT}:hfToken" in plain:
        problems.append(f"{PROJECT}:hfToken: is not encrypted: pulumi config set --secret hfToken hf_...")
    if wrong := _wrong_address(ours.get("modalAddress", ""), environment):
        problems.append(wrong)
    values = {key: _parsed(text, known[key].annotation) for key, text in ours.items() if key in known}
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        problems += [line for e in error.errors() for line in _lines(e, ours)]
        raise Problems(problems) from None
    if problems:
        raise Problems(problems)
    return settings


def _parsed(text: str, annotation: Any) -> Any:
    """Pulumi hands every value over as text: objects as JSON, numbers and booleans as they are written."""
    if annotation is ModelSpec:
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]}?" if near else "Pulumi.yaml lists the keys."
    return f"{PROJECT}:{key}: there is no such key: {hint} Remove it with: pulumi config rm {key}"


def _lines(error: Any, ours: Mapping[str, str]) -> list[str]:
    """One line per problem of a pydantic error: key, what was given (never a secret), what was expected."""
    if not error["loc"]:
        return [f"{PROJECT}:{line}" for line in str(error["ctx"]["error"]).split("\n")]
    path = ".".join(str(part) for part in error["loc"])
    key = str(error["loc"][0])
    if error["type"] == "missing":
        return [f"{PROJECT}:{path}: is not set: pulumi config set {'--path ' if '.' in path else ''}{path} VALUE"]
    given = "" if key in ("apiKey", "hfToken") else f" {_given(error['loc'], ours)}"
    return [f"{PROJECT}:{path}:{given} is not usable: expected {_expected(error)}"]


def _given(loc: tuple[Any, ...], ours: Mapping[str, str]) -> str:
    value: Any = ours.get(str(loc[0]), "")
    if len(loc) > 1:
        try:
            value = json.loads(value)
            for part in loc[1:]:
                value = value[part]
        except (ValueError, KeyError, TypeError, IndexError):
            return ""
    return json.dumps(value)


def _expected(error: Any) -> str:
    loc = error["loc"]
    if loc[0] == "llamaCppTag":
        return "a llama.cpp release tag, like b11434"
    if loc[-1] == "revision":
        return "a commit of 40 hexadecimal digits, not a branch or tag: a branch moves, a commit does not"
    if loc[-1] == "sha256":
        return "64 hexadecimal digits"
    if loc[0] == "routingRegion":
        return "one of " + ", ".join(get_args(RoutingRegion))
    message = str(error["msg"])
    for start in ("Input should be ", "String should "):
        message = message.removeprefix(start)
    return message


def _wrong_address(made_for: str, environment: Mapping[str, str]) -> str | None:
    """A stack belongs to one Modal: resources made on another one would be 'missing' and be made anew."""
    url = environment.get("MODAL_SERVER_URL", "")
    host = urlsplit(url).hostname or ""
    here = "loopback" if host in ("127.0.0.1", "localhost", "::1") else "modal.com"
    if here == made_for or made_for not in ("modal.com", "loopback"):
        return None
    if made_for == "loopback":
        return (
            f"{PROJECT}:modalAddress: this stack was made for the local cloud, but this shell talks to modal.com: "
            "expected MODAL_SERVER_URL of the local cloud: run `. ./activate` (and `make up` if it is not running)"
        )
    return (
        f"{PROJECT}:modalAddress: this stack was made for modal.com, but this shell talks to {url}: "
        "expected no local MODAL_SERVER_URL: run `. ./activate staging` (or prod), or open a new shell"
    )


def read_stack() -> Settings:
    """The settings of the stack that the running program belongs to. Raises Problems.

    `pulumi.Config` answers for keys that one asks for; a misspelled key is found only by looking at all of them.
    """
    from pulumi.runtime.config import CONFIG, get_config_env, is_config_secret

    raw = dict(CONFIG.get() or get_config_env())
    return read(raw, plain=[key for key in raw if not is_config_secret(key)])
