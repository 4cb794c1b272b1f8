"""A secret on Modal has what the stack says, and nothing else. That it is nowhere in the clear: `test_deployment.py`."""

from __future__ import annotations

import os
from contextlib import suppress

import modal
import pytest

from providers.secret import ModalSecretProvider
from tests.provider.host import provider_host
from tests.stack import LocalCloud

pytestmark = [pytest.mark.local, pytest.mark.without_snapshots]


def test_variable_that_is_taken_out_of_a_secret_is_gone_from_it(local_cloud: LocalCloud) -> None:
    """Modal's own update only adds and changes."""
    provider = ModalSecretProvider()
    place = {"address": "loopback", "environment": "main", "name": "shrinking", "owner": "test"}
    both = {"KEPT": "a value that stays", "DROPPED": "a value that goes"}
    try:
        with provider_host({"PATH": os.environ["PATH"], **local_cloud.env()}) as host:
            inputs = host.checked(provider, {}, {**place, "values": both})
            made = host.create(provider, inputs)
            assert variables(local_cloud, "shrinking", *both) == {"KEPT", "DROPPED"}
            changed = host.checked(provider, inputs, {**place, "values": {"KEPT": both["KEPT"]}})
            assert changed["generation"] == inputs["generation"] + 1
            host.update(provider, made.properties, changed)
        assert variables(local_cloud, "shrinking", *both) == {"KEPT"}
    finally:
        local_cloud.modal("secret", "delete", "--yes", "shrinking", check=False)


def variables(cloud: LocalCloud, name: str, *asked: str) -> set[str]:
    """Which of the variables that are asked for are in a secret: the real client can ask, though not for values."""
    found = set()
    with cloud.client() as client:
        for key in asked:
            with suppress(modal.exception.NotFoundError, modal.exception.InvalidError):
                modal.Secret.from_name(name, required_keys=[key]).hydrate(client)
                found.add(key)
    return found
