"""The contract, shown: with the weights in its snapshot, a restored server does not depend on the model's file; mapped, it does.

One real checkpoint for each server, taken and restored by runsc as the local cloud does it, with a file that changes in between.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import modal
import pytest
from gguf import GGUFReader

from tests.local_cloud.parts import Cloud, cloud, needs_runsc
from tests.local_cloud.snapshots import CREATED, asleep, errors
from tests.modal_app.conftest import CARRIED, MODEL, release

pytestmark = [pytest.mark.local, needs_runsc]

WEIGHTS_ONLY = MODEL.model_copy(update={"projector": None})
QUESTION = {"prompt": "What is 17 * 24?", "n_predict": 16, "temperature": 0, "cache_prompt": False}
FROM_A_SNAPSHOT = "(restored from a memory snapshot).\n"


def llama_app(name: str, argv: Sequence[str], replacement: str = "") -> modal.App:
    """A server that is llama-server from before the snapshot on; a `replacement` takes its model's place when it has loaded."""
    app = modal.App(name, include_source=False)
    volumes: dict[Any, Any] = {f"/{name}": modal.Volume.from_name(name) for name in ("builds", "models")}
    model = argv[argv.index("--model") + 1]

    @app.server(
        serialized=True,
        enable_memory_snapshot=True,
        volumes=volumes,
        port=8000,
        unauthenticated=True,
        startup_timeout=240,
    )
    class Llama:
        @modal.enter(snap=True)
        def start(self) -> None:
            import subprocess
            import time
            import urllib.request
            from pathlib import Path

            self.child = subprocess.Popen(argv)
            while True:
                try:
                    urllib.request.urlopen("http://127.0.0.1:8000/health").close()
                    break
                except OSError:
                    time.sleep(0.02)
            if replacement:
                Path(replacement).rename(model)

    return app


@dataclass
class Contract:
    """A local cloud with a build and a model on its Volumes, and an event loop that stands still between tests."""

    runner: asyncio.Runner
    cloud: Cloud
    argv: list[str]
    models: Path
    """The Volume's directory on this machine."""
    true: bytes
    other: bytes
    """Weights of the same size that say something else."""

    @property
    def weights(self) -> Path:
        return self.models / WEIGHTS_ONLY.key / WEIGHTS_ONLY.weights.path

    def served(self, app: str, load_mode: str = "none", replacement: str = "") -> str:
        """Has a server take its snapshot; what the one that came from it at once says."""
        argv = list(self.argv)
        argv[argv.index("--load-mode") + 1] = load_mode
        self.runner.run(self.cloud.deploy(llama_app(app, argv, replacement), app))
        said = self.runner.run(answer(self.cloud, app))
        assert CREATED in self.cloud.system_lines(app)
        return said

    def restored(self, app: str) -> str:
        """What another container says, that comes from the snapshot. Fails if the platform fell back to a fresh start."""
        said = self.runner.run(answer(self.cloud, app))
        assert errors(self.cloud, app) == []
        assert self.cloud.system_lines(app).endswith(FROM_A_SNAPSHOT)
        return said

    @contextmanager
    def changed(self, change: Callable[[Contract], object]) -> Iterator[None]:
        """A changed model for the length of a block; no container runs at either end of it."""
        self.runner.run(asleep(self.cloud))
        kept = self.models.with_name("kept")
        shutil.copytree(self.models, kept)
        try:
            change(self)
            yield
        finally:
            self.runner.run(asleep(self.cloud))
            shutil.rmtree(self.models)
            kept.rename(self.models)


async def answer(c: Cloud, app: str) -> str:
    """The text of one completion without any chance in it; wakes the server."""
    async with asyncio.timeout(240), httpx.AsyncClient(trust_env=False, timeout=120) as client:
        while (response := await client.post(c.url(app, "Llama") + "/completion", json=QUESTION)).status_code == 503:
            await asyncio.sleep(0.05)
    return str(response.raise_for_status().json()["content"])


@pytest.fixture(scope="module")
def contract(llama_server_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Contract]:
    with asyncio.Runner() as runner:
        parts = cloud("runsc")
        c = runner.run(parts.__aenter__())
        try:
            volumes = {name: runner.run(new_volume(c, name)) for name in ("builds", "models")}
            shutil.copytree(llama_server_build, volumes["builds"] / llama_server_build.name)
            true = next(CARRIED.rglob("*Q8_0.gguf"))
            other = other_weights(true, tmp_path_factory.mktemp("other") / "weights.gguf")
            served = release(llama_server_build.name, WEIGHTS_ONLY)
            contract = Contract(
                runner,
                c,
                [f"{served.build_dir}/llama-server", *served.argv],
                volumes["models"],
                true.read_bytes(),
                other.read_bytes(),
            )
            contract.weights.parent.mkdir()
            contract.weights.write_bytes(contract.true)
            yield contract
        finally:
            runner.run(asleep(c))
            runner.run(parts.__aexit__(None, None, None))


async def new_volume(c: Cloud, name: str) -> Path:
    await modal.Volume.objects.create.aio(name, client=c.client)
    return c.state.volumes.directory(c.state.volumes.find("main", name).volume_id)


def other_weights(true: Path, other: Path) -> Path:
    """A copy in which every token means its neighbour."""
    shutil.copy(true, other)
    embeddings: Any = next(t.data for t in GGUFReader(other, "r+").tensors if t.name == "token_embd.weight")
    embeddings[:] = embeddings[[*range(1, len(embeddings)), 0]]
    embeddings.flush()
    assert other.stat().st_size == true.stat().st_size
    return other


def replace(c: Contract, content: bytes) -> None:
    beside = c.weights.with_name("beside")
    beside.write_bytes(content)
    beside.rename(c.weights)


def rewrite(c: Contract, content: bytes, at: int = 0) -> None:
    with c.weights.open("r+b") as file:
        file.seek(at)
        file.write(content)


def become_a_link(c: Contract) -> None:
    c.weights.rename(c.weights.with_name("elsewhere"))
    c.weights.symlink_to("elsewhere")


def mount_another_directory(c: Contract) -> None:
    c.models.rename(c.models.with_name("gone"))
    c.models.mkdir()
    shutil.rmtree(c.models.with_name("gone"))


CHANGES: dict[str, Callable[[Contract], object]] = {
    "nothing": lambda c: None,
    "new inode, same bytes": lambda c: replace(c, c.true),
    "written a moment ago": lambda c: os.utime(c.weights),
    "replaced, same size, other weights": lambda c: replace(c, c.other),
    "rewritten in place, same size": lambda c: rewrite(c, c.other),
    "bigger": lambda c: rewrite(c, bytes(4096), at=len(c.true)),
    "truncated to half": lambda c: os.truncate(c.weights, len(c.true) // 2),
    "deleted": lambda c: c.weights.unlink(),
    "directory renamed": lambda c: c.weights.parent.rename(c.models / "renamed"),
    "another directory at the mount point": mount_another_directory,
    "became a symlink": become_a_link,
    "mode 0600": lambda c: c.weights.chmod(0o600),
}


@pytest.fixture(scope="module")
def fresh(contract: Contract) -> str:
    """What the server said that took the snapshot which all others come from."""
    return contract.served("in-memory")


@pytest.mark.parametrize("change", CHANGES)
def test_a_snapshot_that_holds_the_weights_restores_right_whatever_became_of_the_file(
    contract: Contract, fresh: str, change: str
) -> None:
    with contract.changed(CHANGES[change]):
        assert contract.restored("in-memory") == fresh != ""


def test_a_file_that_is_replaced_before_the_snapshot_is_not_in_it_either(contract: Contract, fresh: str) -> None:
    replacement = contract.weights.with_name("replacement")
    with contract.changed(lambda c: replacement.write_bytes(c.other)):
        inside = f"/models/{WEIGHTS_ONLY.key}/{replacement.name}"
        assert contract.served("replaced-early", replacement=inside) == fresh
        assert contract.weights.read_bytes() == contract.other
        contract.runner.run(asleep(contract.cloud))
        assert contract.restored("replaced-early") == fresh


def test_why_with_a_mapped_file_a_same_size_replacement_restores_healthy_and_answers_wrong(
    contract: Contract, fresh: str
) -> None:
    """The reason for the contract: neither the platform nor /health notices."""
    assert contract.served("mapped", load_mode="mmap") == fresh
    for change, same in (
        ("nothing", True),
        ("replaced, same size, other weights", False),
        ("rewritten in place, same size", False),
    ):
        with contract.changed(CHANGES[change]):
            said = contract.restored("mapped")
            assert (said == fresh) is same, change
            assert said != ""
