"""Everything that exists, opened from one directory."""

from __future__ import annotations

from pathlib import Path

from local_cloud.modal.state.apps import Apps
from local_cloud.modal.state.calls import Calls
from local_cloud.modal.state.database import Database
from local_cloud.modal.state.dicts import Dicts
from local_cloud.modal.state.environments import Environments
from local_cloud.modal.state.file_store import FileStore
from local_cloud.modal.state.functions import Functions
from local_cloud.modal.state.images import Images
from local_cloud.modal.state.logs import Logs
from local_cloud.modal.state.mounts import Mounts
from local_cloud.modal.state.secret_store import SecretStore
from local_cloud.modal.state.seeds import Seeds
from local_cloud.modal.state.settings import Ports, ProxyTokens
from local_cloud.modal.state.signals import Signals
from local_cloud.modal.state.tasks import Tasks
from local_cloud.modal.state.volumes import Volumes

__all__ = ["CloudState"]


class CloudState:
    """The state of one local cloud. Only one process may have it open: the daemon holds a lock on the directory."""

    def __init__(self, home: Path, seeds: dict[str, Path]) -> None:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.signals = Signals()
        self._database = Database(home / "state.sqlite")
        self.secrets = SecretStore(home / "secrets.sqlite")
        self.dicts = Dicts(home / "dicts.sqlite")
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
        self.dicts.close()
