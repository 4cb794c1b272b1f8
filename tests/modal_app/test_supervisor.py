"""The supervisor with a real llama-server and the stand-in model; and what it refuses before starting one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from modal_app import artifacts, lines, output, readiness, supervisor
from modal_app.errors import Failure, PermanentFailure
from modal_app.supervisor import Supervisor, child_environment, redacted
from tests.modal_app.conftest import KEY, Faulty, Served, has_ended, release, supervised, whole

PROJECT = Path(__file__).parents[2]


def events(text: str) -> dict[str, dict[str, Any]]:
    parsed = (lines.parse_event(line) for line in text.splitlines())
    return {event["event"]: event for event in parsed if event}


@pytest.mark.parametrize("key", [None, "", "  ", ",", " , "])
def test_an_empty_key_is_refused_because_the_server_would_let_everybody_in(key: str | None) -> None:
    with pytest.raises(Failure, match="LLAMA_API_KEY is empty: expected a key"):
        child_environment({} if key is None else {"LLAMA_API_KEY": key})


def test_the_child_sees_no_flag_variables_and_no_foreign_secret() -> None:
    environment = {
        "LLAMA_API_KEY": "k",
        "PATH": "/bin",
        "LLAMA_ARG_TOOLS": "all",
        "MTMD_BACKEND_DEVICE": "CPU",
        "LLAMA_ARG_LOAD_MODE": "mmap",
        "HF_TOKEN": "hf_x",
        "MODAL_TOKEN_SECRET": "as-x",
    }
    assert child_environment(environment) == {"LLAMA_API_KEY": "k", "PATH": "/bin", "HF_HUB_OFFLINE": "1"}


def test_a_key_in_an_argument_never_reaches_the_log() -> None:
    assert redacted(["s", "--api-key", "secret", "--port", "1"]) == ["s", "--api-key", "***", "--port", "1"]


@pytest.mark.local
def test_a_server_is_warmed_before_it_is_ready_and_ends_on_request(
    served: Served, capfd: pytest.CaptureFixture[str]
) -> None:
    environment = {**served.environment, "LLAMA_ARG_LOAD_MODE": "mmap", "LLAMA_ARG_PORT": "1"}
    with supervised(served.release, environment) as server:
        server.start()
        said = events(capfd.readouterr().out)
        ready = said["ready"]
        assert said["starting"]["artifacts"]["build"]["key"] == served.release.build_key
        assert said["starting"]["artifacts"]["build"]["whole"] is True
        assert ready["release"] == served.release.key
        assert ready["warmed"] == ["text", "thinking", "tool", "image"]
        assert ready["maps"] == {"model_files_mapped": 0}
        assert ready["memory"]["rss_mib"] > 1
        assert ready["memory"]["host_free_mib"] > 1
        assert ready["pid"] == server.process.pid if server.process else None
        assert httpx.get(f"{server.url}/v1/models").status_code == 401
        answer = httpx.get(f"{server.url}/v1/models", headers={"Authorization": f"Bearer {KEY}"}).json()
        assert served.release.alias in answer["data"][0]["aliases"]
        props = httpx.get(f"{server.url}/props", headers={"Authorization": f"Bearer {KEY}"}).json()
        assert props["build_info"] == served.release.build_key
        server.resume()
        resumed = events(capfd.readouterr().out)["resumed"]
        assert resumed["restarted"] is False
        same = ("pid", "nonce", "started", "maps")
        assert [resumed[field] for field in same] == [ready[field] for field in same]
        assert 0 < time.time() - resumed["started"] < 300
        assert 0 < resumed["answer_seconds"] <= resumed["seconds"]
        assert resumed["memory"]["rss_mib"] > 1
    out = capfd.readouterr().out
    stopped = events(out)["stopped"]
    assert stopped["code"] == 0
    assert stopped["seconds"] < supervisor.TERMINATE_SECONDS
    assert KEY not in out


@pytest.mark.local
def test_a_restored_server_that_does_not_answer_is_replaced(served: Served, capfd: pytest.CaptureFixture[str]) -> None:
    with supervised(served.release, served.environment) as server:
        server.start()
        assert server.process
        first = server.process.pid
        os.kill(first, signal.SIGKILL)
        server.process.wait()
        server.resume()  # and this process is still here: the crash monitor was not armed yet
        assert server.process.pid != first
        out = capfd.readouterr().out
        readies = [event for event in map(lines.parse_event, out.splitlines()) if event and event["event"] == "ready"]
        resumed = events(out)["resumed"]
        assert resumed["restarted"] is True
        assert len(readies) == 2
        assert resumed["nonce"] == readies[1]["nonce"] != readies[0]["nonce"]
        assert httpx.get(f"{server.url}/health").status_code == 200


@pytest.mark.local
def test_a_restored_server_with_a_rotated_key_is_replaced_by_one_with_the_new_key(
    served: Served, capfd: pytest.CaptureFixture[str]
) -> None:
    """What a platform's restore does to this process: its environment is renewed, the child's is not."""
    environment = dict(served.environment)
    new = "another-key-for-this-test-alone"
    with supervised(served.release, environment) as server:
        server.start()
        assert status(server, KEY) == 200
        environment["LLAMA_API_KEY"] = new
        server.resume()
        assert (status(server, KEY), status(server, new)) == (401, 200)
        out = capfd.readouterr().out
        assert events(out)["restarting"]["reason"] == "the API key is another one than in the snapshot"
        assert events(out)["resumed"]["restarted"] is True
        assert KEY not in out
        assert new not in out


@pytest.mark.local
def test_a_restored_server_whose_key_was_taken_away_is_ended(served: Served) -> None:
    environment = dict(served.environment)
    with supervised(served.release, environment) as server:
        server.start()
        environment["LLAMA_API_KEY"] = ""
        with pytest.raises(Failure, match="LLAMA_API_KEY is empty"):
            server.resume()
        assert has_ended(server)


def status(server: Supervisor, key: str) -> int:
    return httpx.get(f"{server.url}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code


@pytest.mark.local
def test_a_crash_after_start_up_ends_the_container_loudly(served: Served, tmp_path: Path) -> None:
    (tmp_path / "release.json").write_text(served.release.model_dump_json())
    code = (
        "import sys, time; from pathlib import Path; from modal_app.release import Release\n"
        "from modal_app.supervisor import Supervisor\n"
        "s = Supervisor(Release.model_validate_json(Path(sys.argv[1]).read_text())); s.start(); s.resume(); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "release.json")],
        cwd=PROJECT,
        env={**os.environ, **served.environment},
        stdout=subprocess.PIPE,
        text=True,
    ) as container:
        timer = threading.Timer(100, container.kill)
        timer.start()
        assert container.stdout is not None
        out = ""
        for line in container.stdout:
            out += line
            event = lines.parse_event(line)
            if event and event["event"] == "resumed":
                os.kill(event["pid"], signal.SIGSEGV)
        timer.cancel()
    assert container.returncode == 1
    assert events(out)["crashed"]["code"] == -signal.SIGSEGV


@pytest.mark.local
def test_a_corrupt_model_is_one_line_and_leaves_no_server(served: Served, capfd: pytest.CaptureFixture[str]) -> None:
    weights = served.models / "weights.gguf"
    weights.write_bytes(weights.read_bytes()[:100_000])
    whole(served.models)
    with supervised(served.release, served.environment) as server:
        with pytest.raises(
            PermanentFailure, match=r"llama-server ended with .* expected it to load the model"
        ) as failure:
            server.start()
        assert "\n" not in str(failure.value)
        assert has_ended(server)
        assert "ready" not in events(capfd.readouterr().out)


@pytest.mark.local
@pytest.mark.parametrize("budget", [0, 1, 2, -1])
def test_a_thinking_budget_never_eats_the_answer_of_a_request_that_does_not_think(served: Served, budget: int) -> None:
    """patches/thinking-off-no-budget.patch, in a compiled server: with thinking off, a budget changes nothing."""
    message = " ... reasoning budget reached, answering now."
    body = {
        "messages": [{"role": "user", "content": "Say OK."}],
        "max_tokens": 24,
        "temperature": 0,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    with supervised(served.release, served.environment) as server:
        server.start()
        client = httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)
        with client:
            plain, budgeted = (
                client.post("/v1/chat/completions", json={**body, **extra}).json()["choices"][0]["message"]
                for extra in ({}, {"thinking_budget_tokens": budget, "reasoning_budget_message": message})
            )
        assert budgeted["content"] == plain["content"] != ""
        assert not budgeted.get("reasoning_content")


def test_events_are_one_line_of_json_behind_a_prefix(capsys: pytest.CaptureFixture[str]) -> None:
    lines.event("ready", text="two\nlines")
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert out.startswith("llama-on-modal: ")
    assert json.loads(out.removeprefix(lines.EVENT_PREFIX)) == {"event": "ready", "text": "two\nlines"}
    assert lines.parse_event("llama-on-modal: {broken") is None


@pytest.mark.parametrize("what", ["build", "model"])
@pytest.mark.parametrize("damage", ["missing", "no manifest", "cut short", "another file"])
def test_a_directory_that_is_not_whole_is_refused_before_a_server_is_started(
    what: str, damage: str, faulty: Faulty, capfd: pytest.CaptureFixture[str]
) -> None:
    directory = faulty.build if what == "build" else faulty.models
    needed = directory / ("chat-template.jinja" if what == "build" else "mmproj.gguf")
    if damage == "missing":
        shutil.rmtree(directory)
    elif damage == "no manifest":
        (directory / artifacts.MANIFEST).unlink()
    elif damage == "cut short":
        needed.write_bytes(needed.read_bytes()[:-1])
    else:  # whole in itself, but not what the release's arguments name
        needed.unlink()
        whole(directory)
    with supervised(faulty.release, faulty.environment) as server:
        with pytest.raises(PermanentFailure, match=rf"the {what} .* cannot be served \(.+\): expected it whole"):
            server.start()
        assert server.process is None
        assert events(capfd.readouterr().out) == {}


@pytest.mark.local
@pytest.mark.parametrize(("fault", "came_back"), [("empty", "200 with ''"), ("hollow", "200 with '{")])
def test_an_empty_200_refuses_the_snapshot(
    fault: str, came_back: str, faulty: Faulty, capfd: pytest.CaptureFixture[str]
) -> None:
    faulty.goes(fault)
    with supervised(faulty.release, faulty.environment) as server:
        with pytest.raises(Failure, match=rf"warm-up 'text' was answered with {came_back}"):
            server.start()
        assert has_ended(server)
        assert "ready" not in events(capfd.readouterr().out)


@pytest.mark.local
def test_a_restored_server_that_is_healthy_and_computes_nothing_is_replaced(
    faulty: Faulty, capfd: pytest.CaptureFixture[str]
) -> None:
    with supervised(faulty.release, faulty.environment) as server:
        server.start()
        assert server.process
        first = server.process.pid
        faulty.goes("once empty")
        assert httpx.get(f"{server.url}/health").status_code == 200
        server.resume()
        said = events(capfd.readouterr().out)
        assert server.process.pid != first
        assert said["resumed"]["restarted"] is True
        assert "200 with ''" in said["restarting"]["reason"]


@pytest.mark.local
def test_half_a_million_lines_in_the_middle_of_a_warm_up_stop_nothing(
    faulty: Faulty, capfd: pytest.CaptureFixture[str]
) -> None:
    faulty.goes("flood")
    with supervised(faulty.release, faulty.environment) as server:
        server.start()
    out = capfd.readouterr().out
    assert events(out)["ready"]["warmed"] == ["text", "thinking", "tool", "image"]
    assert out.count("a line of the flood") < 100_000
    assert "lines left out" in out


@contextmanager
def staying_connected(port: int) -> Iterator[None]:
    """A client that connects again as soon as llama-server has closed its idle connection."""
    over = threading.Event()

    def stay() -> None:
        while not over.is_set():
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)) as client:
                client.recv(1)
            time.sleep(0.001)

    client = threading.Thread(target=stay, daemon=True)
    client.start()
    try:
        yield
    finally:
        over.set()
        client.join()


@pytest.mark.local
def test_whoever_stays_connected_keeps_the_snapshot_from_being_taken(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "ALONE_SECONDS", 1.0)
    with supervised(served.release, served.environment) as server:
        with (
            staying_connected(server.port),
            pytest.raises(Failure, match=r"llama-server is still connected after 1 s .*: expected no connection"),
        ):
            server.start()
        assert has_ended(server)


@pytest.mark.local
def test_whoever_waits_for_a_restored_server_does_not_keep_it_from_being_replaced(
    served: Served, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """No snapshot follows."""
    monkeypatch.setattr(readiness, "ALONE_SECONDS", 1.0)
    with supervised(served.release, served.environment) as server:
        server.start()
        assert server.process
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        with staying_connected(server.port):
            server.resume()
        assert events(capfd.readouterr().out)["resumed"]["restarted"] is True


@pytest.mark.local
@pytest.mark.parametrize("jump", [-1e7, 1e7])
def test_a_clock_that_jumps_in_the_snapshot_changes_nothing(
    jump: float, served: Served, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Both clocks, as a restore on another machine may find them, seen by every line of Python here."""
    monkeypatch.setattr(output, "LINES_A_SECOND", 1)  # the second in which it falls is full
    clocks = {name: getattr(time, name) for name in ("monotonic", "time", "perf_counter")}
    with pytest.MonkeyPatch.context() as jumped, supervised(served.release, served.environment) as server:
        server.start()
        for name, real in clocks.items():
            jumped.setattr(time, name, lambda real=real: real() + jump)
        server.resume()
        body = {"messages": [{"role": "user", "content": "Say OK."}], "max_tokens": 4}
        headers = {"Authorization": f"Bearer {KEY}"}
        assert httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=headers).status_code == 200
    out = capfd.readouterr().out
    resumed, stopped = events(out)["resumed"], events(out)["stopped"]
    assert resumed["restarted"] is False
    assert 0 <= resumed["seconds"] < supervisor.RESTORED_SECONDS
    assert 0 <= stopped["seconds"] < supervisor.TERMINATE_SECONDS
    later = [line for line in out.partition('"ready"')[2].splitlines() if line.startswith("llama-server: ")]
    assert [line for line in later if "left out" not in line]  # its lines still reach the log


@pytest.mark.local
def test_prompt_cache_and_checkpoints_stay_within_what_is_configured(
    served: Served, capfd: pytest.CaptureFixture[str]
) -> None:
    """They are in every snapshot. The stand-in's state is a megabyte for a thousand tokens."""
    small = release(served.release.build_key, cache_ram_mib=1, ctx_checkpoints=1)
    with supervised(small, served.environment) as server:
        server.start()
        for word in ("red", "blue"):
            body = {"messages": [{"role": "user", "content": f"{word} " * 1500}], "max_tokens": 1}
            headers = {"Authorization": f"Bearer {KEY}"}
            answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=100)
            assert answer.status_code == 200, answer.text
    out = capfd.readouterr().out
    assert "exceeds cache size limit 1.000 MiB" in out
    assert "erasing old context checkpoint" in out


@pytest.mark.local
def test_too_little_memory_refuses_the_snapshot(served: Served, capfd: pytest.CaptureFixture[str]) -> None:
    greedy = served.release.model_copy(update={"min_headroom_mib": 10**9})
    with supervised(greedy, served.environment) as server:
        with pytest.raises(PermanentFailure, match=r"of host memory is left .*: expected 1,000,000,000 MiB"):
            server.start()
        assert has_ended(server)
        assert "ready" not in events(capfd.readouterr().out)
