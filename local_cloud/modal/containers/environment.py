"""The part of a container's environment that says where things are, and how this machine reaches the network."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from local_cloud.modal.containers.interpreter import library_path
from local_cloud.modal.containers.spec import TASK_DIRECTORY

__all__ = ["entrypoint_argv", "merged", "network_environment", "place_environment"]

NETWORK_NAMES = (
    "ALL_PROXY",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "PIP_CERT",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_INDEX_URL",
    "PIP_TRUSTED_HOST",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
)
"""Variables (also in lower case) by which a machine behind a proxy or with a package mirror reaches the network."""


def entrypoint_argv() -> tuple[str, ...]:
    """The client's own container process. The interpreter is the local cloud's: packages of an image are not installed."""
    return (sys.executable, "-m", "modal._container_entrypoint")


def network_environment() -> dict[str, str]:
    """For containers on the host's network. Loopback never goes through a proxy: the hub and the blob server live there."""
    names = [n for name in NETWORK_NAMES for n in (name, name.lower())]
    env = {name: os.environ[name] for name in names if name in os.environ}
    if any(name.lower().endswith("_proxy") for name in env):
        for name in ("NO_PROXY", "no_proxy"):
            env[name] = ",".join(filter(None, [env.get(name, ""), "127.0.0.1", "localhost"]))
    return env


def place_environment(
    *,
    modal: str = TASK_DIRECTORY,
    home: str = "/root",
    python_path: str = "/root",
    tmp: str = "/tmp",  # noqa: S108 - the container's own
    host_programs: bool = False,
) -> dict[str, str]:
    """Where a container finds its API, its code, its programs and its temporary files.

    With `host_programs` the PATH of the local cloud's user comes last: a compiler may live anywhere.
    """
    search = [
        str(Path(sys.executable).parent),
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ]
    if host_programs:
        search += [d for d in os.environ.get("PATH", "").split(":") if d.startswith("/")]
    paths = [python_path]
    if not _is_standard(library_path()):
        paths.append(str(library_path()))
    return {
        "HOME": home,
        "LANG": "C.UTF-8",
        "MODAL_CONTAINER_ARGUMENTS_PATH": f"{modal}/args.bin",
        "MODAL_RESTORE_STATE_PATH": f"{modal}/restore-state.json",
        "MODAL_DISABLE_API_PROXY": "1",  # a proxy of the host cannot reach a unix socket
        "MODAL_SERVER_URL": f"unix:{modal}/api.sock",
        "PATH": ":".join(dict.fromkeys(search)),
        "PYTHONPATH": ":".join(paths),
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": tmp,
    }


def merged(places: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """The container's own variables win; but PATH and PYTHONPATH of an image are put in front of ours."""
    env = {**places, **own}
    for name in ("PATH", "PYTHONPATH"):
        if name in own:
            env[name] = ":".join(dict.fromkeys([*own[name].split(":"), *places[name].split(":")]))
    return env


def _is_standard(directory: Path) -> bool:
    """Whether the interpreter finds packages there by itself, whoever's home it has."""
    return directory.is_relative_to(sys.prefix) or directory.is_relative_to(sys.base_prefix)
