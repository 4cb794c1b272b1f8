"""The state as the containers and the edge see it (`ports.Ledger`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from modal_proto import api_pb2

from local_cloud.modal.state.apps import AppRecord
from local_cloud.modal.state.calls import InputRecord
from local_cloud.modal.state.cloud import CloudState
from local_cloud.modal.state.errors import NotFound
from local_cloud.modal.state.functions import single_function, with_options
from local_cloud.modal.state.ports import DEFAULT_REGION, Definition, Launch, LaunchError, Task, VolumeBind

__all__ = ["StateLedger", "retry_delay_s"]


class StateLedger:
    """Implements `ports.Ledger` on the state."""

    def __init__(self, state: CloudState, container_environ: Mapping[str, str]) -> None:
        self._state = state
        self._container_environ = dict(container_environ)
        self._latest_input: dict[str, InputRecord] = {}

    # What is published

    def definitions(self) -> list[Definition]:
        """See `ports.Ledger`."""
        return [definition for app in self._state.apps.all() for definition in self._published(app)]

    def definition(self, function_id: str) -> Definition | None:
        """See `ports.Ledger`."""
        try:
            app = self._state.apps.get(self._state.functions.get(function_id).app_id)
        except NotFound:
            return None
        return next((found for found in self._published(app) if found.function_id == function_id), None)

    def find_server(self, environment: str, app_name: str, tag: str) -> Definition | None:
        """See `ports.Ledger`."""
        app = self._state.apps.deployed(environment, app_name)
        if app is None:
            return None
        return next((found for found in self._published(app) if found.tag == tag and found.is_server), None)

    def _published(self, app: AppRecord) -> list[Definition]:
        deployment = self._state.apps.deployment(app.app_id, app.version)
        if not app.live or deployment is None:
            return []
        return [
            Definition(
                function_id=published_id,
                app_id=app.app_id,
                app_name=app.name or app.description,
                environment=app.environment,
                tag=tag,
                generation=app.version,
                function=function,
            )
            for tag, (function_id, definition_id) in deployment.functions.items()
            for published_id, function in self._functions(function_id, definition_id)
        ]

    def _functions(self, function_id: str, definition_id: str) -> Iterator[tuple[str, api_pb2.Function]]:
        """A Function as it is published, and then its variants."""
        function = single_function(self._state.functions.definition(definition_id))
        function.autoscaler_settings.MergeFrom(self._state.functions.get(function_id).override)
        yield function_id, function
        for variant_id, options in self._state.functions.variants(function_id):
            yield variant_id, with_options(function, options)

    # Ports

    def server_port(self, environment: str, app_name: str, tag: str, region: str = DEFAULT_REGION) -> int:
        """See `ports.Ledger`."""
        # the default region's ports are kept under the tag alone, as they were before regions counted
        return self._state.ports.server(environment, app_name, tag if region == DEFAULT_REGION else f"{tag}@{region}")

    def server_ports(self) -> dict[int, tuple[str, str, str]]:
        """See `ports.Ledger`."""
        return self._state.ports.servers()

    def proxy_token_is_valid(self, token_id: str, token_secret: str) -> bool:
        """See `ports.Ledger`."""
        return self._state.proxy_tokens.valid(token_id, token_secret)

    # Tasks

    def open_task(self, function_id: str) -> Task:
        """See `ports.Ledger`. Raises LaunchError when nothing is published under the id."""
        definition = self.definition(function_id)
        if definition is None:
            raise LaunchError(f"Function {function_id} is not deployed")
        return self._state.tasks.open(function_id, definition.app_id, definition.environment, definition.generation)

    def task(self, task_id: str) -> Task:
        """See `ports.Ledger`."""
        try:
            return self._state.tasks.get(task_id)
        except NotFound:
            raise KeyError(task_id) from None

    def open_tasks(self, function_id: str | None = None) -> list[Task]:
        """See `ports.Ledger`."""
        return self._state.tasks.list_open(function_id=function_id or "")

    def task_started(self, task_id: str, pid: int) -> None:
        """See `ports.Ledger`."""
        self._state.tasks.started(task_id, pid)

    def launch(self, task_id: str) -> Launch:
        """See `ports.Ledger`."""
        task = self.task(task_id)
        definition = self.definition(task.function_id)
        if definition is None:
            raise LaunchError(f"Function {task.function_id} is not deployed any more")
        try:
            return self._launch(task, definition)
        except NotFound as error:
            raise LaunchError(
                f"{error}: the App is bound to what existed when it was deployed: deploy it again"
            ) from None

    def _launch(self, task: Task, definition: Definition) -> Launch:
        function = definition.function
        environ = dict(self._container_environ)
        workdir, placed = "", [(mount_id, "/") for mount_id in function.mount_ids]
        if function.image_id:
            image = self._state.images.get(function.image_id)
            environ |= image.environ
            workdir, placed = image.workdir, [*image.copies, *placed]
        for secret_id in function.secret_ids:
            environ |= self._state.secrets.values_for_container(secret_id)
        environ |= {
            "MODAL_TASK_ID": task.task_id,
            "MODAL_IS_REMOTE": "1",
            "MODAL_ENVIRONMENT": definition.environment,
            "MODAL_IMAGE_ID": function.image_id,
            "MODAL_CLOUD_PROVIDER": "CLOUD_PROVIDER_LOCAL",
            "MODAL_REGION": "local",
            "MODAL_DISABLE_API_PROXY": "1",
            "PYTHONUNBUFFERED": "1",
        }
        return Launch(environ, self._state.mounts.tree(placed), self._volumes(function), workdir or "/root")

    def _volumes(self, function: api_pb2.Function) -> tuple[VolumeBind, ...]:
        return tuple(
            VolumeBind(mount.volume_id, self._volume_source(mount), mount.mount_path, mount.read_only)
            for mount in function.volume_mounts
        )

    def _volume_source(self, mount: api_pb2.VolumeMount) -> Path:
        if not mount.sub_path.strip("/"):
            return self._state.volumes.directory(mount.volume_id)
        source = self._state.volumes.path(mount.volume_id, mount.sub_path)
        source.mkdir(parents=True, exist_ok=True)
        return source

    def close_task(self, task_id: str, exit_code: int | None, failure: str = "") -> None:
        """See `ports.Ledger`."""
        row = self._state.tasks.row(task_id)
        if row["finished_at"]:
            return
        self._state.tasks.close(task_id, exit_code, failure)
        self._latest_input.pop(task_id, None)
        result = _failure_result(row["result"], exit_code, failure)
        for record in self._state.calls.claimed(task_id):
            if row["stop_requested"]:
                self._state.calls.requeue(record, counts_as_retry=False)
            else:
                self.fail_input(record, result)
        if (row["result"] or failure) and not row["asked_for_inputs"]:
            for record in self._state.calls.unfinished(function_id=row["function_id"], states=("queued",)):
                self._state.calls.finish_with(record, result)
        self._state.signals.notify(f"logs:{row['app_id']}")

    # Inputs

    def queued_inputs(self, function_id: str) -> int:
        """See `ports.Ledger`."""
        return self._state.calls.queued(function_id)

    def claimed_inputs(self, task_id: str) -> int:
        """See `ports.Ledger`."""
        return len(self._state.calls.claimed(task_id))

    def claim_inputs(self, function_id: str, task_id: str, limit: int) -> list[InputRecord]:
        """Gives waiting inputs to a container; its output belongs to the latest of them from now on."""
        records = self._state.calls.claim(function_id, task_id, limit)
        if records:
            self._latest_input[task_id] = records[-1]
        return records

    def may_retry(self, record: InputRecord) -> bool:
        """Whether its Function's retry policy has a try left."""
        return record.retries < self._retry_policy(record).retries

    def retry(self, record: InputRecord) -> None:
        """Queues it again, after the policy's delay."""
        delay_s = retry_delay_s(self._retry_policy(record), record.retries)
        self._state.calls.requeue(record, delay_s=delay_s, counts_as_retry=True)

    def fail_input(self, record: InputRecord, result: api_pb2.GenericResult) -> None:
        """Ends an input that is lost, or tries it again."""
        if self.may_retry(record):
            self.retry(record)
        else:
            self._state.calls.finish_with(record, result)

    def _retry_policy(self, record: InputRecord) -> api_pb2.FunctionRetryPolicy:
        definition = self.definition(record.function_id)
        return definition.function.retry_policy if definition else api_pb2.FunctionRetryPolicy()

    # Logs

    def log(self, task_id: str, file_descriptor: int, data: bytes) -> None:
        """See `ports.Ledger`."""
        task = self.task(task_id)
        latest = self._latest_input.get(task_id)
        call_id, input_id = (latest.call_id, latest.input_id) if latest else ("", "")
        text = data.decode(errors="replace")
        self._state.logs.add(task.app_id, task.function_id, task_id, call_id, input_id, file_descriptor, text)

    def system_log(self, function_id: str, text: str, task_id: str = "") -> None:
        """See `ports.Ledger`."""
        function = self._state.functions.get(function_id)
        self._state.logs.add(function.app_id, function_id, task_id, "", "", api_pb2.FILE_DESCRIPTOR_INFO, f"{text}\n")


def retry_delay_s(policy: api_pb2.FunctionRetryPolicy, retries: int) -> float:
    """Seconds before the next try (modal 1.6.4, retries.py: the delay grows by the coefficient up to the maximum)."""
    delay_ms = policy.initial_delay_ms * policy.backoff_coefficient**retries
    return float(min(delay_ms, policy.max_delay_ms or delay_ms)) / 1000


def _failure_result(reported: bytes, exit_code: int | None, failure: str) -> api_pb2.GenericResult:
    if reported:
        return api_pb2.GenericResult.FromString(reported)
    text = failure or f"Runner failed with exit code: {exit_code}"
    return api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_FAILURE, exception=text)
