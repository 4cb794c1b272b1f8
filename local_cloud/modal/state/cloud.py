"""Everything that exists, opened from one directory."""

from __future__ import annotations

from pathlib import Path

from .apps import Apps
from .calls import Calls
from .database import Database
from .environments import Environments
from .file_store import FileStore
from .functions import Functions
from .images import Images
from .logs import Logs
from .mounts import Mounts
from .secret_store import SecretStore
from .seeds import Seeds
from .settings import Ports, ProxyTokens
from .signals import Signals
from .tasks import Tasks
from .volumes import Volumes

__all__ = ["CloudState"]


class CloudState:
    """The state of one local cloud. Only one process may have it open: the daemon holds a lock on the directory."""

    def __init__(self, home: Path, seeds: dict[str, Path]) -> None:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.signals = Signals()
        self._database = Database(home / "state.sqlite")
        self.secrets = SecretStore(home / "secrets.sqlite")
        self.files = FileStore(home / "files")
        self.environments = Environments(self._database)
        self.ports = Ports(self._database)
        self.proxy_tokens = ProxyTokens(self._database)
        self.volumes = Volumes(self._database, home / "volumes")
        self.mounts = Mounts(self._database, self.files, home / "trees")
        self.images = Images(self._database)
        self.apps = Apps(self._database)
        self.functions = Functions(self._database)
        self.calls = Calls(self._database, self.signals)
        self.tasks = Tasks(self._database)
        self.logs = Logs(self._database, self.signals)
        self.seeds = Seeds(seeds)

    def close(self) -> None:
        """Ends the database connections."""
        self._database.close()
        self.secrets.close()
