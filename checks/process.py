"""What the container itself says of its server: its files, its arguments, and where its weights lie."""

from __future__ import annotations

from typing import Any

from checks.answers import Answer
from checks.logs import Event
from checks.results import Seen
from checks.session import Session

__all__ = ["arguments", "artifacts_whole", "model_not_mapped", "model_not_mapped_after_waking"]


def artifacts_whole(session: Session) -> Seen:
    """Build and model lie on their Volumes with every file at the size of its manifest."""
    answer = _said(session.log.last("starting"), "artifacts")
    expected = {"build": session.expect.build, "model": session.expect.model}
    for name, key in expected.items():
        answer.require(answer.at(str, "artifacts", name, "key") == key, f"the {name} {key}")
        answer.require(answer.at(bool, "artifacts", name, "whole"), f"the {name} to be whole")
        answer.require(answer.at(int, "artifacts", name, "bytes") > 0, f"files of the {name}")
    sizes = {name: answer.at(int, "artifacts", name, "bytes") for name in expected}
    return Seen(", ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in sizes.items()), {"bytes": sizes})


def arguments(session: Session) -> str:
    """Program, weights and projector are those of the release, and the flag that keeps the weights in memory stands once."""
    answer = _said(session.log.last("starting"), "argv")
    argv = [str(word) for word in answer.at(list, "argv")]
    answer.require(f"/{session.expect.build}/" in argv[0], f"the program of build {session.expect.build}")
    files = [argv[i + 1] for i, word in enumerate(argv[:-1]) if word in ("--model", "--mmproj")]
    answer.require(bool(files), "--model")
    answer.require(all(f"/{session.expect.model}/" in file for file in files), f"files of {session.expect.model}")
    mode = [argv[i + 1] for i, word in enumerate(argv[:-1]) if word == "--load-mode"]
    flags = (mode, argv.count("--no-mmap"))
    answer.require(flags in ((["none"], 0), ([], 1)), "--load-mode none (or --no-mmap, for older tags) once")
    answer.require(not {"--mmap", "--mlock"}.intersection(argv), "no flag that maps or locks the weights")
    return f"{len(argv)} words, {'--load-mode none' if mode else '--no-mmap'}"


def model_not_mapped(session: Session) -> Seen:
    """The weights are in the server's own memory, not mapped from a file, which is not in a snapshot.

    Only the container can see that; it writes what it saw into its log once the server is up, before the snapshot.
    """
    return _memory(session, session.log.last("ready"))


def model_not_mapped_after_waking(session: Session) -> Seen:
    """The same, seen again by the container that serves: after a restore, if it was one."""
    return _memory(session, session.log.last("resumed"))


def _memory(session: Session, event: Event) -> Seen:
    answer = _said(event, "maps", "memory", "pid")
    answer.require(answer.at(int, "maps", "model_files_mapped") == 0, "no model file mapped into the server's memory")
    memory = {name: float(value) for name, value in answer.at(dict, "memory").items()}
    answer.require(memory.get("rss_mib", 0) > 0, "its resident memory")
    words = f"weights in anonymous memory; {memory['rss_mib']:,.0f} MiB resident"
    if "available_mib" in memory:
        words += f", {memory['available_mib']:,.0f} MiB free on the machine"
    if "device_free_mib" in memory:
        words += f", {memory['device_free_mib']:,.0f} MiB on the GPU"
    return Seen(words, {"memory_mib": memory, "model_files_mapped": 0})


def _said(event: Event, *fields: str) -> Answer:
    said: dict[str, Any] = {field: event.fields.get(field) for field in fields}
    return Answer(f"nothing, but read the event {event.name} in the log", 0, said)
