"""Images: chains of layers of which only the environment, the working directory and copied files count here."""

from __future__ import annotations

import json
from dataclasses import dataclass

from modal_proto import api_pb2

from local_cloud.modal.state.database import Database
from local_cloud.modal.state.dockerfile import read_layer
from local_cloud.modal.state.errors import NotFound
from local_cloud.modal.state.ids import content_id, new_id

__all__ = ["ImageRecord", "Images"]


@dataclass(frozen=True)
class ImageRecord:
    """An image as containers need it."""

    image_id: str
    environ: dict[str, str]
    workdir: str
    copies: tuple[tuple[str, str], ...]
    """(mount id, target directory) of every COPY of local files, in order."""
    build_log: str
    built: bool


class Images:
    """All images, by content: the same layers are the same image, unless a rebuild is forced."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get_or_create(
        self, image: api_pb2.Image, builder_version: str, *, build_function: bool, force: bool
    ) -> ImageRecord:
        """Reads the layer on top of its base images. Raises NotFound for an unknown base."""
        definition = image.SerializeToString(deterministic=True)
        image_id = new_id("im") if force else content_id("im", definition + builder_version.encode())
        if self._database.one("SELECT 1 FROM images WHERE image_id = ?", image_id) is None:
            self._create(image_id, image, definition, build_function)
        return self.get(image_id)

    def _create(self, image_id: str, image: api_pb2.Image, definition: bytes, build_function: bool) -> None:
        bases = [self.get(base.image_id) for base in image.base_images]
        environ = {name: value for base in bases for name, value in base.environ.items()}
        workdir = next((base.workdir for base in bases if base.workdir), "")
        layer = read_layer(image.dockerfile_commands, environ, workdir)
        copies = [copy for base in bases for copy in base.copies]
        copies += [(image.context_mount_id, target) for target in layer.copies if image.context_mount_id]
        log = [f"Building image {image_id}", "", *layer.log]
        if build_function:
            log += ["=> run_function", "   not executed: the local cloud builds no images"]
        state = json.dumps({"environ": layer.environ, "copies": copies})
        self._database.execute(
            "INSERT INTO images (image_id, definition, environ, workdir, build_log) VALUES (?, ?, ?, ?, ?)",
            *(image_id, definition, state, layer.workdir, "\n".join(log) + "\n"),
        )

    def get(self, image_id: str) -> ImageRecord:
        """Raises NotFound."""
        row = self._database.one("SELECT * FROM images WHERE image_id = ?", image_id)
        if row is None:
            raise NotFound(f"Image {image_id} not found")
        state = json.loads(row["environ"])
        copies = tuple((mount_id, target) for mount_id, target in state["copies"])
        return ImageRecord(image_id, state["environ"], row["workdir"], copies, row["build_log"], bool(row["built"]))

    def mark_built(self, image_id: str) -> None:
        """Its build log has been shown once: from now on it counts as cached."""
        self._database.execute("UPDATE images SET built = 1 WHERE image_id = ?", image_id)

    def publish(self, image_id: str, tag: str) -> None:
        """Names an image. Raises NotFound for an unknown image."""
        self.get(image_id)
        self._database.execute("INSERT OR REPLACE INTO image_tags VALUES (?, ?)", tag, image_id)

    def by_tag(self, tag: str) -> ImageRecord:
        """Raises NotFound."""
        row = self._database.one("SELECT image_id FROM image_tags WHERE tag = ?", tag)
        if row is None:
            raise NotFound(f"Image '{tag}' not found")
        return self.get(row["image_id"])
