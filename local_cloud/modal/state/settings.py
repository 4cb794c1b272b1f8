"""Small things that must stay the same over restarts: chosen ports and proxy tokens."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass

from local_cloud.modal.state.database import Database
from local_cloud.modal.state.errors import NotFound
from local_cloud.modal.state.ids import new_id
from local_cloud.ports import free_port

__all__ = ["Ports", "ProxyToken", "ProxyTokens"]


class Ports:
    """Loopback ports, chosen once and kept: the daemon's own by name, and one for each Server's URL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def named(self, name: str) -> int:
        """A port of the daemon itself."""
        row = self._database.one("SELECT value FROM settings WHERE name = ?", f"port:{name}")
        if row is not None:
            return int(row["value"])
        port = self._free_port()
        self._database.execute("INSERT INTO settings VALUES (?, ?)", f"port:{name}", str(port))
        return port

    def server(self, environment: str, app_name: str, tag: str) -> int:
        """The port of a Server: it outlives redeploys and even the App, so that its URL does not change."""
        row = self._database.one(
            "SELECT port FROM server_ports WHERE environment = ? AND app_name = ? AND tag = ?",
            environment,
            app_name,
            tag,
        )
        if row is not None:
            return int(row["port"])
        port = self._free_port()
        self._database.execute("INSERT INTO server_ports VALUES (?, ?, ?, ?)", port, environment, app_name, tag)
        return port

    def servers(self) -> dict[int, tuple[str, str, str]]:
        """(environment, app name, tag) by port."""
        rows = self._database.all("SELECT * FROM server_ports")
        return {row["port"]: (row["environment"], row["app_name"], row["tag"]) for row in rows}

    def _free_port(self) -> int:
        taken = {int(row["value"]) for row in self._database.all("SELECT value FROM settings WHERE name LIKE 'port:%'")}
        taken |= set(self.servers())
        return free_port(taken)


@dataclass(frozen=True)
class ProxyToken:
    """A token that opens Servers at the edge (Modal-Key and Modal-Secret); its secret is kept as a digest only."""

    token_id: str
    name: str
    created_at: float


class ProxyTokens:
    """All proxy tokens of the workspace; each opens every environment."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, name: str) -> tuple[str, str]:
        """(id, secret): the secret is shown this once."""
        token_id, secret = new_id("wk"), f"ws-{secrets.token_urlsafe(24)}"
        self._database.execute(
            "INSERT INTO proxy_tokens VALUES (?, ?, ?, ?)", token_id, _digest(secret), name, time.time()
        )
        return token_id, secret

    def list(self) -> list[ProxyToken]:
        """Oldest first."""
        rows = self._database.all("SELECT * FROM proxy_tokens ORDER BY created_at")
        return [ProxyToken(row["token_id"], row["name"], row["created_at"]) for row in rows]

    def delete(self, token_id: str) -> None:
        """Raises NotFound."""
        if self._database.execute("DELETE FROM proxy_tokens WHERE token_id = ?", token_id).rowcount == 0:
            raise NotFound(f"Proxy token '{token_id}' not found")

    def valid(self, token_id: str, secret: str) -> bool:
        """Whether this pair was created and not deleted."""
        row = self._database.one("SELECT secret_sha256 FROM proxy_tokens WHERE token_id = ?", token_id)
        return hmac.compare_digest(row["secret_sha256"] if row else "", _digest(secret))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
