"""HTTP to llama-server, which runs on this machine and speaks it plainly."""

from __future__ import annotations

import ssl

import httpx

__all__ = ["client"]


def client(url: str, key: str = "") -> httpx.Client:
    """A client of the server at `url`. It keeps no connection open.

    Its TLS context trusts nobody: httpx's own reads every certificate authority there is, 37 ms of processor each time (0.28.1),
    while the server loads beside it.
    """
    return httpx.Client(
        base_url=url,
        headers={"Authorization": f"Bearer {key}"} if key else {},
        verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        limits=httpx.Limits(max_keepalive_connections=0),
        trust_env=False,
    )
