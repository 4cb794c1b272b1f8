from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tools.checkout import make_checkout, quiet_steps
from tools import golang, pulumi_cli
from tools.places import ROOT, Places
from tools.pulumi_cli import ensure_cli
from tools.runsc import ensure_runsc
from tools.steps import Failure

DEAD = "http://127.0.0.1:9"
"""Nothing listens on the discard port of a machine of today."""


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """No pulumi, no go, no registry; only a shell's everyday commands."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name in ("sh", "mkdir", "cat", "chmod", "dirname"):
        (commands / name).symlink_to(f"/bin/{name}" if Path(f"/bin/{name}").exists() else f"/usr/bin/{name}")
    monkeypatch.setenv("PATH", str(commands))
    monkeypatch.setenv("PIP_INDEX_URL", DEAD)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setattr(pulumi_cli, "INSTALL_SCRIPT", f"{DEAD}/install.sh")
    (tmp_path / "checkout").mkdir()
    return make_checkout(tmp_path / "checkout")


@contextmanager
def serving(text: str) -> Iterator[str]:
    """An HTTP server on loopback that answers everything with `text`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/install.sh"
        server.shutdown()


def test_a_missing_compiler_is_one_line_with_the_way_to_get_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools", "setup"],
        cwd=ROOT,
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("failed: no C++ compiler on PATH")
    assert "apt install g++" in line
    assert list(tmp_path.iterdir()) == []


def test_without_cli_go_and_registry_one_line_names_what_was_tried(bare_machine: Places) -> None:
    steps, _ = quiet_steps(bare_machine)
    with pytest.raises(Failure) as failed:
        ensure_cli(bare_machine, steps)
    assert "\n" not in str(failed.value)
    for part in ("none on PATH", f"none from {DEAD}", golang.GO_PACKAGE, "https://www.pulumi.com/docs/install/"):
        assert part in str(failed.value)
    assert not [entry for entry in bare_machine.tools.iterdir() if entry.name.startswith(".")]


def test_without_runsc_and_go_set_up_goes_on_and_says_so_in_one_line(bare_machine: Places) -> None:
    steps, out = quiet_steps(bare_machine)
    assert ensure_runsc(bare_machine, steps) is None
    assert "the local cloud runs its containers as plain processes" in out.getvalue().splitlines()[-1]


def test_where_the_install_script_can_be_had_its_cli_is_used(
    bare_machine: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = """#!/bin/sh
    while [ $# -gt 0 ]; do case $1 in --install-root) root=$2; shift;; --no-edit-path) quiet=1;; esac; shift; done
    [ "$quiet" ] || exit 1
    mkdir "$root/bin"; echo '#!/bin/sh' > "$root/bin/pulumi"; chmod +x "$root/bin/pulumi"
    """
    steps, _ = quiet_steps(bare_machine)
    with serving(script) as url:
        monkeypatch.setattr(pulumi_cli, "INSTALL_SCRIPT", url)
        program = ensure_cli(bare_machine, steps)
    assert program == bare_machine.tools / f"pulumi-{pulumi_cli.VERSION}-official" / "bin" / "pulumi"
    monkeypatch.setattr(pulumi_cli, "INSTALL_SCRIPT", f"{DEAD}/install.sh")
    assert ensure_cli(bare_machine, steps) == program
    assert len(steps.times) == 1


@pytest.mark.parametrize(
    "script", ["#!/bin/sh\nexit 7\n", "#!/bin/sh\nexit 0\n", "<html>Sign in to the network</html>"]
)
def test_an_install_script_that_does_not_work_is_not_trusted(
    bare_machine: Places, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    steps, _ = quiet_steps(bare_machine)
    with serving(script) as url:
        monkeypatch.setattr(pulumi_cli, "INSTALL_SCRIPT", url)
        with pytest.raises(Failure, match="no Pulumi CLI"):
            ensure_cli(bare_machine, steps)
    assert not list(bare_machine.tools.glob("*official*"))


@pytest.mark.parametrize(
    ("version", "companions", "said"),
    [
        ("v3.100.0", pulumi_cli.COMPANIONS, "older than"),
        ("v99.0.0", (), "came without pulumi-language-python"),
        ("v99.0.0", pulumi_cli.COMPANIONS, ""),
    ],
)
def test_the_machines_own_cli_is_used_if_it_is_new_enough_and_whole(
    bare_machine: Places, version: str, companions: tuple[str, ...], said: str
) -> None:
    directory = Path(os.environ["PATH"])
    for name in ("pulumi", *companions):
        (directory / name).write_text(f"#!/bin/sh\necho {version}\n")
        (directory / name).chmod(0o755)
    steps, out = quiet_steps(bare_machine)
    if said:
        with pytest.raises(Failure):
            ensure_cli(bare_machine, steps)
        assert said in out.getvalue()
    else:
        assert ensure_cli(bare_machine, steps) == directory / "pulumi"
