"""Pulumi's Python language host, for an engine that was built from Go modules and so came without one.

The engine starts it beside itself as `pulumi-language-python ENGINE_ADDRESS`, reads the port it listens on from its first line of
output, calls `Run` once per process and ends it with SIGINT (pulumi v3.259.0, pkg/resource/plugin/langruntime_plugin.go; observed
with the same version). The program itself is run by Pulumi's own `pulumi-language-python-exec`, which lies beside this file.

What the official host does besides is not needed to deploy: it installs no dependencies and generates no code.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from google.protobuf import empty_pb2
from pulumi.runtime.proto import language_pb2, language_pb2_grpc, plugin_pb2

EXECUTOR = Path(__file__).with_name("pulumi-language-python-exec")
"""Runs one program; from the Go module github.com/pulumi/pulumi/sdk/v3 (python/cmd)."""

ALREADY_REPORTED = 32
"""The executor's exit status when it has shown the error itself."""


class LanguageHost(language_pb2_grpc.LanguageRuntimeServicer):
    """Runs one Pulumi program, in this process."""

    def __init__(self, engine: str) -> None:
        self.engine = engine

    def GetPluginInfo(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> plugin_pb2.PluginInfo:  # noqa: N802
        """Say nothing about a version: there is none of its own."""
        return plugin_pb2.PluginInfo()

    def GetRequiredPackages(  # noqa: N802
        self, request: language_pb2.GetRequiredPackagesRequest, context: grpc.ServicerContext
    ) -> language_pb2.GetRequiredPackagesResponse:
        """Ask for no plugin: dynamic providers are part of the program."""
        return language_pb2.GetRequiredPackagesResponse()

    def About(  # noqa: N802
        self, request: language_pb2.AboutRequest, context: grpc.ServicerContext
    ) -> language_pb2.AboutResponse:
        """Name the Python that runs programs, for `pulumi about`."""
        return language_pb2.AboutResponse(executable=sys.executable, version=sys.version.split()[0])

    def Cancel(self, request: empty_pb2.Empty, context: grpc.ServicerContext) -> empty_pb2.Empty:  # noqa: N802
        """Take note of the end of the operation; SIGINT follows."""
        return empty_pb2.Empty()

    def Run(  # noqa: N802
        self, request: language_pb2.RunRequest, context: grpc.ServicerContext
    ) -> language_pb2.RunResponse:
        """Run the program and tell the engine how it ended."""
        os.environ["PULUMI_CONFIG"] = json.dumps(dict(request.config))
        os.environ["PULUMI_CONFIG_SECRET_KEYS"] = json.dumps(list(request.configSecretKeys))
        sys.argv = [
            str(EXECUTOR),
            f"--monitor={request.monitor_address}",
            f"--engine={self.engine}",
            f"--project={request.project}",
            f"--stack={request.stack}",
            f"--organization={request.organization}",
            f"--root_directory={request.info.root_directory}",
            f"--pwd={request.pwd}",
            f"--dry_run={'true' if request.dryRun else 'false'}",
            f"--parallel={request.parallel}",
            str(Path(request.info.program_directory, request.info.entry_point)),
            *request.args,
        ]
        try:
            runpy.run_path(str(EXECUTOR), run_name="__main__")
        except SystemExit as end:
            if end.code == ALREADY_REPORTED:
                return language_pb2.RunResponse(bail=True)
            if end.code:
                return language_pb2.RunResponse(error=f"the program ended with status {end.code}")
        return language_pb2.RunResponse()


def main() -> None:
    """Serve until the engine says so (SIGINT, SIGTERM) or is gone."""
    engine_process = os.getppid()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    server = grpc.server(ThreadPoolExecutor())
    language_pb2_grpc.add_LanguageRuntimeServicer_to_server(LanguageHost(sys.argv[-1]), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    while not stop.wait(0.5) and os.getppid() == engine_process:
        pass
    server.stop(0)
    os._exit(0)  # a program that still runs in a worker thread must not keep the process


if __name__ == "__main__":
    main()
