"""Modal, as the providers see it: what they make of its failures, and when they import its client."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
from grpclib.exceptions import StreamTerminatedError

from providers.cloud import known_failures
from providers.errors import ProviderError
from tests.stack import PROJECT


@pytest.mark.parametrize(
    "error", [StreamTerminatedError("Connection lost"), ConnectionResetError(104, "reset by peer")]
)
def test_connection_lost_in_the_middle_of_an_answer_is_one_line_that_says_what_to_do(error: Exception) -> None:
    with (
        pytest.raises(
            ProviderError, match=r"^Modal cannot be reached \(.*\): expected it to answer: run the same"
        ) as failed,
        known_failures(),
    ):
        raise error
    assert "\n" not in str(failed.value)


FIRST_LOOKS_AT_ONCE = """
import importlib.machinery, threading, time
from providers import cloud

def slowly(loader, spec):
    time.sleep(0.5 if spec.name == "modal" else 0)

def look_at_a_secret():
    cloud.connect("loopback")
    import modal

def look_at_an_app():
    cloud.connect("loopback")
    with cloud.known_failures():
        pass

importlib.machinery.SourceFileLoader.create_module = slowly
looks = [threading.Thread(target=look) for look in (look_at_a_secret, look_at_an_app)]
for look in looks:
    look.start()
    time.sleep(0.2)
for look in looks:
    look.join()
"""


def test_resources_that_are_looked_at_at_once_do_not_wait_for_each_others_imports() -> None:
    """Pulumi reads them side by side, in a process that has not imported the client yet."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        done = subprocess.run(
            [sys.executable, "-c", FIRST_LOOKS_AT_ONCE],
            cwd=PROJECT,
            env={**os.environ, "MODAL_SERVER_URL": url},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (0, "")
