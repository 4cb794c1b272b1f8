"""What is left of memory: read where Linux, cgroups and NVIDIA's tool say it, and refused when it is too little. And which files
a process maps.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from modal_app import memory
from modal_app.errors import PermanentFailure
from modal_app.release import Release, digest
from tests.modal_app.conftest import release

GIB_KIB = 1024 * 1024


def machine(root: Path, available_kib: int, cgroup: str = "", **files: str) -> Path:
    """A root directory as the kernel shows it; `files` are paths below /sys/fs/cgroup with `__` for `/`."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal: {64 * GIB_KIB} kB\nMemAvailable: {available_kib} kB\n")
    (root / "proc/self/cgroup").write_text(cgroup)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


STAT = "anon 1\ninactive_file 104857600\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "expected_mib"),
    [
        ("", {}, 8192),
        ("0::/\n", {}, 8192),  # gVisor: no files there
        (
            "0::/\n",
            {"memory_dot_max": "1073741824", "memory_dot_current": "536870912", "memory_dot_stat": STAT},
            512 + 100,
        ),
        ("0::/\n", {"memory_dot_max": "max", "memory_dot_current": "1", "memory_dot_stat": STAT}, 8192),
        (
            "0::/a/b\n",
            {
                "a__memory_dot_max": "2147483648",
                "a__memory_dot_current": "1073741824",
                "a__memory_dot_stat": "inactive_file 0\n",
                "a__b__memory_dot_max": "max",
                "a__b__memory_dot_current": "1",
                "a__b__memory_dot_stat": STAT,
            },
            1024,
        ),
        (
            "7:pids:/x\n4:memory:/elsewhere\n",
            {
                "memory__memory_dot_limit_in_bytes": "1073741824",
                "memory__memory_dot_usage_in_bytes": "1063256064",
                "memory__memory_dot_stat": "inactive_file 5\ntotal_inactive_file 1048576\n",
            },
            11,
        ),
        (
            "4:memory:/\n",
            {
                "memory__memory_dot_limit_in_bytes": "9223372036854771712",
                "memory__memory_dot_usage_in_bytes": "5",
                "memory__memory_dot_stat": "total_inactive_file 0\n",
            },
            8192,
        ),
    ],
)
def test_what_is_left_is_the_least_of_machine_and_cgroups(
    cgroup: str, files: dict[str, str], expected_mib: float, tmp_path: Path
) -> None:
    assert memory.host_free_mib(machine(tmp_path, 8 * GIB_KIB, cgroup, **files)) == expected_mib


def test_this_machine_has_some_and_its_figures_are_numbers() -> None:
    figures = memory.figures(os.getpid(), gpu=False)
    assert {"rss_mib", "available_mib", "host_free_mib"} <= figures.keys()
    assert "device_free_mib" not in figures
    assert 0 < figures["host_free_mib"] <= figures["available_mib"] + 1


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In its place, because no GPU is here: a program that wants the same question and answers in the same form."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    wanted = " ".join(memory.NVIDIA_SMI[1:])
    program.write_text(f'#!/bin/sh\n[ "$*" = "{wanted}" ] || exit 6\nexec cat {tmp_path}/said\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return tmp_path / "said"


@pytest.mark.parametrize(
    ("said", "free"), [("18244\n", 18244), ("18244\n900\n", 900), ("[N/A]\n", None), ("", None), (None, None)]
)
def test_free_memory_of_the_gpu_is_what_nvidia_smi_says(said: str | None, free: float | None, nvidia_smi: Path) -> None:
    if said is not None:
        nvidia_smi.write_text(said)
    assert memory.device_free_mib() == free


def test_a_machine_without_nvidia_smi_has_no_figure_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "device_free_mib" not in memory.figures(os.getpid(), gpu=True)


@pytest.mark.parametrize(
    ("left", "gpu", "why"),
    [
        ({"host_free_mib": 1024.0}, False, None),
        ({"host_free_mib": 1023.0}, False, "1,023 MiB of host memory is left after the warm-up: expected 1,024 MiB"),
        ({}, False, "an unknown amount of host memory"),
        ({"host_free_mib": 9e3, "device_free_mib": 2e3}, True, None),
        ({"host_free_mib": 9e3, "device_free_mib": 20.0}, True, "20 MiB of GPU memory is left"),
        ({"host_free_mib": 9e3}, True, "an unknown amount of GPU memory"),
    ],
)
def test_less_than_the_minimum_is_refused_with_what_to_do(left: dict[str, float], gpu: bool, why: str | None) -> None:
    if why is None:
        memory.require(1024, left, gpu)
    else:
        with pytest.raises(PermanentFailure, match=rf"{why}.*\(minHeadroomMiB\): lower ctxPerSlot"):
            memory.require(1024, left, gpu)


def test_what_must_be_left_is_part_of_a_release_and_one_that_asks_for_none_keeps_its_key() -> None:
    """A proof says how much was left: who asks for more needs another one, and who never asked keeps the one there is."""
    asks_for_none = release("b11434-0123456789ab")
    earlier = {
        name: value for name, value in asks_for_none.model_dump(mode="json").items() if name != "min_headroom_mib"
    }
    assert asks_for_none.key == digest(earlier, 40)
    props = {**asks_for_none.props(), "minHeadroomMiB": 1024}
    asks = Release.model_validate(props)
    assert asks.min_headroom_mib == 1024
    assert asks.key != asks_for_none.key
    assert asks.props() == props


def test_a_mapped_model_file_is_seen(tmp_path: Path) -> None:
    weights = tmp_path / "a model.gguf"
    weights.write_bytes(bytes(8192))
    assert memory.model_files_mapped(os.getpid()) == []
    with weights.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        assert memory.model_files_mapped(os.getpid()) == [str(weights)]
        weights.unlink()
        assert memory.model_files_mapped(os.getpid()) == [f"{weights} (deleted)"]


def test_a_mapped_model_file_is_seen_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOLUME_DIR_MODELS", str(tmp_path))
    weights = tmp_path / "weights"
    weights.write_bytes(bytes(8192))
    with weights.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        assert memory.model_files_mapped(os.getpid()) == [str(weights)]
