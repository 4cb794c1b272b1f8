"""The environment variables that point `pulumi` and `modal` at the local stack."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping

from tools.places import Places
from tools.steps import Failure

__all__ = ["CLEARED", "local_variables", "pulumi_variables", "with_variables"]

CLEARED = ("PULUMI_CONFIG_PASSPHRASE", "PULUMI_STACK", "PULUMI_ACCESS_TOKEN", "MODAL_PROFILE", "MODAL_ENVIRONMENT")
"""What a user may have set for stacks of their own and would win over the local stack's settings."""


def local_variables(places: Places) -> dict[str, str | None]:
    """Name to value, or to None where the variable must not be set.

    Raises `Failure` where the local cloud has never run: without its address `modal` would mean the user's own account.
    """
    own = {"PATH": places.path_variable(), "LOCAL_CLOUD_HOME": str(places.cloud_home())}
    answer = subprocess.run(
        [places.python, "-m", "local_cloud", "env"],
        cwd=places.root,
        env=with_variables(own),
        capture_output=True,
        text=True,
        check=False,
    )
    cloud = dict(
        word.split("=", 1)
        for line in answer.stdout.splitlines()
        if line.startswith("export ")
        for word in shlex.split(line.removeprefix("export "))
    )
    if answer.returncode != 0 or "MODAL_SERVER_URL" not in cloud:
        reason = (answer.stderr.strip().splitlines() or ["it printed no address"])[-1]
        raise Failure(f"no local cloud to point at ({reason}): it is made by `make up`: run that first")
    return {
        **own,
        "VIRTUAL_ENV": str(places.venv),
        **pulumi_variables(places),
        **cloud,
        **proxy_variables(),
    }


def pulumi_variables(places: Places) -> dict[str, str | None]:
    """Pulumi with its state, settings and passphrase in the checkout, and without questions to the network."""
    return {
        **dict.fromkeys(CLEARED),
        "PULUMI_BACKEND_URL": places.state.as_uri(),
        "PULUMI_HOME": str(places.pulumi_home),
        "PULUMI_CONFIG_PASSPHRASE_FILE": str(places.passphrase),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
    }


def proxy_variables() -> dict[str, str | None]:
    """Loopback past the user's HTTP proxy, if there is one."""
    if not any(os.environ.get(name) for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")):
        return {}
    present = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    entries = [entry for entry in present.split(",") if entry]
    merged = ",".join(dict.fromkeys([*entries, "127.0.0.1", "localhost"]))
    return {"no_proxy": merged, "NO_PROXY": merged}


def with_variables(variables: Mapping[str, str | None]) -> dict[str, str]:
    """This process's environment with `variables` set, and those that are None left out."""
    merged: dict[str, str | None] = {**os.environ, **variables}
    return {name: value for name, value in merged.items() if value is not None}
