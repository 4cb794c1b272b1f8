"""`ModalSecret`: a Modal secret that the app's containers get as environment variables.

Identity     environment + name
Replaced by  environment, name
Updated by   its values: in place when only values change; deleted and made anew when a variable goes away, because
             Modal's update merges and cannot remove (modal.Secret.update), and when somebody else wrote to it
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
from providers.base import Inputs, Provider, has_unknown
from providers.errors import ProviderError, one_line
from providers.progress import Progress

__all__ = ["ModalSecret", "ModalSecretProvider"]

SALT_BYTES = 16
DIGEST_BYTES = SALT_BYTES + 32


class ModalSecretProvider(Provider):
    """Inputs: address, environment, name, owner, adopt, values (variable to value, secret).

    Outputs have digests for values, and after a refresh that found drift the inputs in the state have them too.
    """

    label = "secret"
    kept = ("address", "environment", "name", "owner", "adopt", "values", "generation")
    compared = ("environment", "name", "values")
    identity = ("environment", "name")

    def derived(self, olds: Inputs, news: Inputs) -> Inputs:
        """The generation, one higher with every change of the values: known in a preview, unlike anything that `update` makes."""
        if has_unknown(news["values"]):
            return {}
        changed = olds and not self.equal("values", olds["values"], news["values"])
        return {"generation": int(olds.get("generation", 1)) + (1 if changed else 0)}

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
        """Names of variables alone."""
        was, now = olds.get("values"), news.get("values")
        if not isinstance(was, Mapping) or not isinstance(now, Mapping):
            return ""
        causes = [f"{name} gets another value" for name in now if name in was and not _same_value(was[name], now[name])]
        causes += [f"{name} added" for name in now if name not in was]
        causes += [f"{name} removed" for name in was if name not in now]
        return f"{news['name']}: {'; '.join(causes)}" if causes else ""

    def equal(self, key: str, old: Any, new: Any) -> bool:
        """Values are compared through their digests where the old values themselves are not known."""
        if key != "values":
            return super().equal(key, old, new)
        if isinstance(new, Unknown) or old is None or new is None:
            return False
        return old.keys() == new.keys() and all(_same_value(old[k], new[k]) for k in old)

    @one_line
    def create(self, props: Inputs) -> CreateResult:
        """Make the secret. One that an interrupted `up` of this stack made is made anew; another one is refused or adopted.

        An adopted secret keeps its id, to which other apps may be bound, and the variables that this stack does not set.
        """
        modal = cloud.connect(props["address"])
        name, environment = props["name"], props["environment"]
        if not modal.secret_exists(name, environment):
            secret_id = modal.create_secret(name, environment, _with_mark(props))
        elif modal.secret_exists(name, environment, required_key=_owner_mark(props["owner"])):
            secret_id = _made_anew(modal, props)
        elif props.get("adopt"):
            secret_id = modal.update_secret(name, environment, _with_mark(props))
            Progress(self.label).milestone(f"took over {name}; variables that this stack does not set stay in it")
        else:
            raise ProviderError(
                f"secret {name!r} already exists in environment {environment!r} and was not made by this stack: "
                "expected the name to be free: remove it with "
                f"`modal secret delete {name} -e {environment}`, or take it over with `pulumi config set adopt true`"
            )
        return CreateResult(f"{environment}/{name}", self._outs(props, secret_id))

    @one_line
    def update(self, id_: str, olds: Inputs, news: Inputs) -> UpdateResult:
        """Change the values; the generation rises, so that the app is redeployed and its containers see them."""
        olds = self.current(olds)
        modal = cloud.connect(news["address"])
        name, environment = news["name"], news["environment"]
        written_by_others = olds["drift"] or modal.secret_id(name, environment) != olds["secretId"]
        if written_by_others or olds["values"].keys() - news["values"].keys():
            secret_id = _made_anew(modal, news)
        else:
            secret_id = modal.update_secret(name, environment, _with_mark(news))
        return UpdateResult(self._outs(news, secret_id))

    @one_line
    def read(self, id_: str, props: Inputs) -> ReadResult:
        """What Modal tells of a secret: whether it is there, the same one, with its variables. A changed value cannot be seen."""
        props = self.current(props)
        drift = self._drift(cloud.connect(props["address"]), props)
        if not drift:
            Progress(self.label).milestone(
                f"{props['name']} is there with its variables; Modal shows no values, so one that was changed by hand is not seen"
            )
        return self.seen(id_, props, drift)

    def _drift(self, modal: cloud.Cloud, props: Inputs) -> list[str]:
        name, environment = props["name"], props["environment"]
        there = modal.secret_id(name, environment)
        if there is None:
            return [f"{name} is gone from environment {environment}"]
        if there != props["secretId"]:
            return [f"{name} was deleted and made anew ({there}, not {props['secretId']})"]
        missing = [v for v in sorted(props["values"]) if not modal.secret_exists(name, environment, v)]
        drift = [f"{variable} is missing from {name}" for variable in missing]
        owner = props.get("owner")  # not in the outputs of schema 0
        if owner and not missing and not modal.secret_exists(name, environment, _owner_mark(owner)):
            drift.append(f"{name} was overwritten: the mark of this stack is missing")
        return drift

    @one_line
    def delete(self, id_: str, props: Inputs) -> None:
        """Remove the secret; one that is already gone is fine, one that was made anew since is left alone."""
        props = self.current(props)
        modal = cloud.connect(props["address"])
        name, environment = props["name"], props["environment"]
        there = modal.secret_id(name, environment)
        if there is None:
            done = f"{name} was gone already from environment {environment}"
        elif there != props["secretId"]:
            done = f"kept {name} of environment {environment}: it was made anew since, and is another one"
        else:
            modal.delete_secret(name, environment)
            done = f"removed {name} from environment {environment}"
        Progress(self.label).milestone(done)

    def _outs(self, props: Inputs, secret_id: str) -> Inputs:
        digests = {variable: _digest(value) for variable, value in props["values"].items()}
        return self.outputs(props, secretId=secret_id) | {"values": digests}


def _made_anew(modal: cloud.Cloud, props: Inputs) -> str:
    """Delete and create, so that nothing is in it but what this stack put there. Returns the new id."""
    modal.delete_secret(props["name"], props["environment"])
    return modal.create_secret(props["name"], props["environment"], _with_mark(props))


def _owner_mark(owner: str) -> str:
    """Modal shows no metadata of a secret, but it can be asked whether a variable is in it: so the mark is a variable."""
    return "LLAMA_ON_MODAL_STACK_" + re.sub(r"\W", "_", owner).upper()


def _with_mark(props: Inputs) -> dict[str, str]:
    return {**props["values"], _owner_mark(props["owner"]): "1"}


def _digest(value: str) -> str:
    salt = os.urandom(SALT_BYTES)
    return base64.b64encode(salt + _scrypt(value, salt)).decode()


def _same_value(old: str, new: Any) -> bool:
    """Whether a value is unchanged; the old one may be known by its digest alone."""
    if isinstance(new, Unknown):
        return False
    return bool(old == new) or _matches(old, new)


def _matches(digest: str, value: str) -> bool:
    try:
        raw = base64.b64decode(digest, validate=True)
    except ValueError:
        return False
    return len(raw) == DIGEST_BYTES and hmac.compare_digest(raw[SALT_BYTES:], _scrypt(value, raw[:SALT_BYTES]))


def _scrypt(value: str, salt: bytes) -> bytes:
    # 4 MiB and some 10 ms a value: every preview pays it, and the digest is encrypted in the state on top of it
    return hashlib.scrypt(value.encode(), salt=salt, n=2**12, r=8, p=1, dklen=32)


class ModalSecret(Resource, module="modal", name="ModalSecret"):
    """A Modal secret. `generation` rises with every change of its values; `secretId` is what deployed apps are bound to."""

    generation: pulumi.Output[int]
    secretId: pulumi.Output[str]  # noqa: N815 - the name of the property

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
