"""`ModalSecret`: a Modal secret that the app's containers get as environment variables.

Identity     environment + name
Replaced by  environment, name
Updated by   its values: in place when only values change; deleted and made anew when a variable goes away, because
             Modal's update merges and cannot remove (modal.Secret.update)
Never        puts a value in an output, a log or an id. Outputs hold a salted scrypt digest of each value, marked secret.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, ReadResult, Resource, UpdateResult
from pulumi.output import Unknown

from providers import cloud
from providers.base import Inputs, Provider, same
from providers.errors import ProviderError, one_line

__all__ = ["ModalSecret", "ModalSecretProvider"]


class ModalSecretProvider(Provider):
    """Inputs: address, environment, name, owner, adopt, values (variable to value, secret)."""

    label = "secret"
    compared = ("environment", "name", "values")
    identity = ("environment", "name")

    def problems(self, news: Inputs) -> Iterator[tuple[str, str]]:
        """Every variable must have a name that a shell accepts and a value."""
        values = news.get("values")
        if isinstance(values, Unknown) or values is None:
            return
        for variable, value in sorted(values.items()):
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
                yield "values", f"{variable!r} is not the name of an environment variable"
            if value == "":
                yield "values", f"{variable} is empty"

    def words(self, olds: Inputs, news: Inputs) -> str:
        """Names of variables alone; both are inputs, so the old values are here, and stay here."""
        was, now = olds.get("values"), news.get("values")
        if not isinstance(was, Mapping) or not isinstance(now, Mapping):
            return ""
        causes = [f"{name} gets another value" for name in now if name in was and not same(was[name], now[name])]
        causes += [f"{name} added" for name in now if name not in was]
        causes += [f"{name} removed" for name in was if name not in now]
        return f"{news['name']}: {'; '.join(causes)}" if causes else ""

    def equal(self, key: str, old: Any, new: Any) -> bool:
        """Values are compared through their digests: the old values themselves are not known."""
        if key != "values":
            return super().equal(key, old, new)
        if isinstance(new, Unknown) or old is None or new is None:
            return False
        return old.keys() == new.keys() and all(_matches(old[k], new[k]) for k in old)

    @one_line
    def create(self, props: Inputs) -> CreateResult:
        """Make the secret; one that an interrupted `up` of this stack made is taken over, another one is refused."""
        modal = cloud.connect(props["address"])
        name, environment = props["name"], props["environment"]
        if modal.secret_exists(name, environment):
            ours = modal.secret_exists(name, environment, required_key=_owner_mark(props["owner"]))
            if not ours and not props.get("adopt"):
                raise ProviderError(
                    f"secret {name!r} already exists in environment {environment!r} and was not made by this stack: "
                    "expected the name to be free: remove it with "
                    f"`modal secret delete {name} -e {environment}`, or take it over with `pulumi config set adopt true`"
                )
            modal.delete_secret(name, environment)
        secret_id = modal.create_secret(name, environment, _with_mark(props))
        return CreateResult(f"{environment}/{name}", self._outs(props, secret_id, generation=1))

    @one_line
    def update(self, id_: str, olds: Inputs, news: Inputs) -> UpdateResult:
        """Change the values; the generation rises, so that the app is redeployed and its containers see them."""
        modal = cloud.connect(news["address"])
        name, environment = news["name"], news["environment"]
        if olds["values"].keys() - news["values"].keys():
            modal.delete_secret(name, environment)
            secret_id = modal.create_secret(name, environment, _with_mark(news))
        else:
            secret_id = modal.update_secret(name, environment, _with_mark(news))
        return UpdateResult(self._outs(news, secret_id, generation=int(olds["generation"]) + 1))

    @one_line
    def read(self, id_: str, props: Inputs) -> ReadResult:
        """Gone, or made anew by somebody else: both read as gone. Changed values cannot be seen: Modal never shows them."""
        modal = cloud.connect(props["address"])
        if modal.secret_id(props["name"], props["environment"]) != props["secretId"]:
            return ReadResult("", {})
        return ReadResult(id_, props)

    @one_line
    def delete(self, id_: str, props: Inputs) -> None:
        """Remove the secret; one that is already gone is fine."""
        cloud.connect(props["address"]).delete_secret(props["name"], props["environment"])

    def _outs(self, props: Inputs, secret_id: str, generation: int) -> Inputs:
        digests = {variable: _digest(value) for variable, value in props["values"].items()}
        outs = self.outputs(props, secretId=secret_id, generation=generation, address=props["address"])
        return outs | {"values": digests}


def _owner_mark(owner: str) -> str:
    """Modal shows no metadata of a secret, but it can be asked whether a variable is in it: so the mark is a variable."""
    return "LLAMA_ON_MODAL_STACK_" + re.sub(r"\W", "_", owner).upper()


def _with_mark(props: Inputs) -> dict[str, str]:
    return {**props["values"], _owner_mark(props["owner"]): "1"}


def _digest(value: str) -> str:
    salt = os.urandom(16)
    return base64.b64encode(salt + _scrypt(value, salt)).decode()


def _matches(digest: str, value: Any) -> bool:
    if isinstance(value, Unknown):
        return False
    raw = base64.b64decode(digest)
    return hmac.compare_digest(raw[16:], _scrypt(value, raw[:16]))


def _scrypt(value: str, salt: bytes) -> bytes:
    # 4 MiB and some 10 ms a value: every preview pays it, and the digest is encrypted in the state on top of it
    return hashlib.scrypt(value.encode(), salt=salt, n=2**12, r=8, p=1, dklen=32)


class ModalSecret(Resource, module="modal", name="ModalSecret"):
    """A Modal secret. `generation` rises with every change of its values."""

    generation: pulumi.Output[int]

    def __init__(
        self,
        name: str,
        *,
        address: str,
        environment: str,
        secret_name: str,
        values: dict[str, pulumi.Input[str]],
        owner: str,
        adopt: bool = False,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        props = {
            "address": address,
            "environment": environment,
            "name": secret_name,
            "values": pulumi.Output.secret(values),
            "owner": owner,
            "adopt": adopt,
            "generation": None,
            "secretId": None,
        }
        super().__init__(ModalSecretProvider(), name, props, opts)
        self.secret_name = secret_name
