"""Ports that are written down before somebody listens on them: nobody else may come upon them meanwhile."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from local_cloud import ports
from local_cloud.ports import free_port


def test_no_outgoing_connection_takes_a_chosen_port() -> None:
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    with socket.create_server(("127.0.0.1", 0)) as server:
        outgoing = [socket.create_connection(server.getsockname()) for _ in range(20)]
    theirs = {connection.getsockname()[1] for connection in outgoing}
    for connection in outgoing:
        connection.close()
    assert all(low <= port <= high for port in theirs)
    assert not any(low <= free_port() <= high for _ in range(20))


def test_a_port_that_somebody_listens_on_or_that_is_promised_is_not_chosen() -> None:
    listened = free_port()
    free = free_port({listened})
    promised = set(range(65536)) - {listened, free}
    with socket.create_server(("127.0.0.1", listened)):
        assert free_port(promised) == free
        with pytest.raises(OSError, match=r"no free port from 10000 to 65535: expected one: end what listens on them"):
            free_port(promised | {free})


def test_where_the_range_is_not_told_the_usual_one_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ports, "RANGE_OF_OUTGOING", tmp_path / "none")
    assert not any(32768 <= free_port() <= 60999 for _ in range(20))


def test_a_machine_whose_outgoing_connections_have_any_port_gets_one_of_theirs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    everything = tmp_path / "ip_local_port_range"
    everything.write_text("1024\t65535\n")
    monkeypatch.setattr(ports, "RANGE_OF_OUTGOING", everything)
    assert 1024 <= free_port() <= 65535
