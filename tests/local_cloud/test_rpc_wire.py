"""The wire itself: repeated requests, and several clients at once."""

from __future__ import annotations

import asyncio
import threading
import uuid

import modal
import pytest
from google.protobuf.empty_pb2 import Empty
from grpclib import GRPCError
from grpclib.client import Channel
from modal_proto import api_pb2
from modal_proto.api_grpc import ModalClientStub

from tests.stack import LocalCloud


def create_secret(cloud: LocalCloud, name: str, keys: list[str]) -> list[str]:
    """The ids that one request after the other, each with its idempotency key, was answered with."""

    async def ask() -> list[str]:
        environment = cloud.env()
        host, port = environment["MODAL_SERVER_URL"].removeprefix("http://").split(":")
        async with Channel(host, int(port)) as channel:
            stub = ModalClientStub(channel)
            request = api_pb2.SecretGetOrCreateRequest(
                deployment_name=name,
                object_creation_type=api_pb2.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS,
                env_dict={"A": "1"},
            )
            token = {
                "x-modal-token-id": environment["MODAL_TOKEN_ID"],
                "x-modal-token-secret": environment["MODAL_TOKEN_SECRET"],
            }
            responses = [
                await stub.SecretGetOrCreate(request, metadata={**token, "x-idempotency-key": key}) for key in keys
            ]
            return [response.secret_id for response in responses]

    return asyncio.run(ask())


def test_a_request_that_is_sent_again_is_answered_again_and_done_once(cloud: LocalCloud) -> None:
    key = str(uuid.uuid4())
    first, second = create_secret(cloud, "sent-twice", [key, key])
    assert first == second


def test_a_new_request_is_not_taken_for_an_old_one(cloud: LocalCloud) -> None:
    with pytest.raises(GRPCError, match="already exists"):
        create_secret(cloud, "asked-twice", ["one", "two"])


def test_apps_deployed_from_several_threads_do_not_disturb_each_other(client: modal.Client) -> None:
    failures: list[BaseException] = []

    def deploy(number: int) -> None:
        app = modal.App(f"app-{number}", image=modal.Image.debian_slim().env({"NUMBER": str(number)}))
        app.function(serialized=True, name=f"f{number}")(lambda: number)
        try:
            app.deploy(client=client)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=deploy, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for number in range(4):
        modal.Function.from_name(f"app-{number}", f"f{number}", client=client).hydrate()


@pytest.mark.parametrize("token", ["the cloud's", "none"])
@pytest.mark.parametrize(
    "claim", [{}, {"x-local-cloud-task-id": "ta-0000000000000000000000"}], ids=["plain", "claiming a task"]
)
def test_a_client_cannot_speak_for_a_container(cloud: LocalCloud, claim: dict[str, str], token: str) -> None:
    async def ask() -> None:
        environment = cloud.env()
        host, port = environment["MODAL_SERVER_URL"].removeprefix("http://").split(":")
        shown = {
            "x-modal-token-id": environment["MODAL_TOKEN_ID"],
            "x-modal-token-secret": environment["MODAL_TOKEN_SECRET"],
        }
        async with Channel(host, int(port)) as channel:
            await ModalClientStub(channel).ContainerHello(
                Empty(), metadata={**claim, **(shown if token != "none" else {})}
            )

    refusal = "only a container may call this" if token != "none" else "Token is not this local cloud's"
    with pytest.raises(GRPCError, match=refusal):
        asyncio.run(ask())
