"""Drives the real dynamic provider host (`python -m pulumi.dynamic`) over gRPC, as Pulumi's engine does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import empty_pb2, json_format, struct_pb2
from pulumi.dynamic.dynamic import serialize_provider
from pulumi.runtime import rpc
from pulumi.runtime.proto import engine_pb2_grpc, provider_pb2, provider_pb2_grpc

PROJECT = Path(__file__).parents[2]


class Engine(engine_pb2_grpc.EngineServicer):
    """The part of the engine that a provider talks to: it collects what is logged."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bool]] = []

    def Log(self, request: Any, context: Any) -> Any:  # noqa: N802 - the RPC's name
        self.messages.append((request.message, request.ephemeral))
        return empty_pb2.Empty()


class Host:
    """One provider process and the calls the engine makes to it."""

    def __init__(self, stub: Any, engine: Engine, process: subprocess.Popen[str], server: grpc.Server) -> None:
        self.stub = stub
        self.engine = engine
        self.process = process
        self._server = server

    def check(self, provider: Any, olds: dict[str, Any], news: dict[str, Any]) -> list[tuple[str, str]]:
        request = provider_pb2.CheckRequest(urn=URN, olds=_struct(provider, olds), news=_struct(provider, news))
        return [(f.property, f.reason) for f in self.stub.Check(request).failures]

    def diff(self, provider: Any, olds: dict[str, Any], news: dict[str, Any]) -> Any:
        request = provider_pb2.DiffRequest(id="x", urn=URN, olds=_struct(provider, olds), news=_struct(provider, news))
        return self.stub.Diff(request)

    def create(self, provider: Any, props: dict[str, Any]) -> Any:
        return self.begin_create(provider, props).result()

    def begin_create(self, provider: Any, props: dict[str, Any]) -> Any:
        return self.stub.Create.future(provider_pb2.CreateRequest(urn=URN, properties=_struct(provider, props)))

    def end_engine(self) -> None:
        self._server.stop(0).wait()

    def update(self, provider: Any, olds: Any, news: dict[str, Any]) -> Any:
        """`olds` are outputs as `create` answered them."""
        request = provider_pb2.UpdateRequest(id="x", urn=URN, olds=olds, news=_struct(provider, news))
        return self.stub.Update(request)

    def read(self, provider: Any, props: dict[str, Any]) -> Any:
        return self.stub.Read(provider_pb2.ReadRequest(id="x", urn=URN, properties=_struct(provider, props)))

    def delete(self, provider: Any, props: dict[str, Any]) -> Any:
        return self.stub.Delete(provider_pb2.DeleteRequest(id="x", urn=URN, properties=_struct(provider, props)))

    def checked(self, provider: Any, olds: dict[str, Any], news: dict[str, Any]) -> dict[str, Any]:
        """The inputs that a check without failures answers."""
        request = provider_pb2.CheckRequest(urn=URN, olds=_struct(provider, olds), news=_struct(provider, news))
        answer = self.stub.Check(request)
        assert list(answer.failures) == []
        return dict(json_format.MessageToDict(answer.inputs))


URN = "urn:pulumi:test::llama-on-modal::pulumi-python:dynamic/modal:Thing::thing"


@contextmanager
def provider_host(env: dict[str, str]) -> Iterator[Host]:
    """A provider process with exactly this environment, ended at the end."""
    engine = Engine()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    engine_pb2_grpc.add_EngineServicer_to_server(engine, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "pulumi.dynamic", f"127.0.0.1:{port}"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PULUMI_PROJECT": "llama-on-modal", **env},
    )
    try:
        assert process.stdout
        channel = grpc.insecure_channel(f"127.0.0.1:{process.stdout.readline().strip()}")
        with channel:
            yield Host(provider_pb2_grpc.ResourceProviderStub(channel), engine, process, server)
    finally:
        process.kill()
        process.communicate()
        server.stop(0).wait()


def _struct(provider: Any, props: dict[str, Any]) -> struct_pb2.Struct:
    if not props:
        return struct_pb2.Struct()
    struct = struct_pb2.Struct()
    struct.update({**props, "__provider": serialize_provider(provider)})
    return struct


UNKNOWN = rpc.UNKNOWN
"""What the engine sends for a value that is not known before other resources are made."""
