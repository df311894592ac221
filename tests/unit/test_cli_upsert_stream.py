"""What an import does when the stream, the gateway or a single product fails: the servicer here injects the faults."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from lookalike.v1 import catalog_pb2, catalog_pb2_grpc

from services.cli.client import Client
from services.cli.failures import Failure
from services.cli.upsert_stream import Patience, UpsertStream
from services.common.errors import InvalidImage, LookalikeError, Overloaded, Unavailable
from services.common.interceptor import to_status

PRODUCTS = 60


class EndOfStreamError(Exception):
    """The server ends the stream with OK."""


class SilenceError(Exception):
    """The server answers nothing any more."""


class FaultyCatalog(catalog_pb2_grpc.CatalogServiceServicer):
    """Args:
    fault: called with the count of messages and the product's name; what it raises in an answer goes into the
        answer, wrapped in RuntimeError it ends the stream.
    """

    def __init__(self, fault: Callable[[int, str], None]) -> None:
        self.fault = fault
        self.messages = 0
        self.written: Counter[str] = Counter()

    async def UpsertProducts(  # noqa: N802
        self, requests: AsyncIterator[catalog_pb2.UpsertProductsRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[catalog_pb2.UpsertProductsResponse]:
        async for request in requests:
            self.messages += 1
            response = catalog_pb2.UpsertProductsResponse(request_id=request.request_id, name=request.product.name)
            try:
                self.fault(self.messages, request.product.name)
                self.written[request.product.name] += 1
            except LookalikeError as error:
                response.status.CopyFrom(to_status(error))
            except EndOfStreamError:
                return
            except SilenceError:
                await asyncio.sleep(60)
            except RuntimeError as error:
                status = to_status(error.args[0])
                code = next(c for c in grpc.StatusCode if c.value[0] == status.code)
                await context.abort(code, status.message, (("grpc-status-details-bin", status.SerializeToString()),))
            yield response


@asynccontextmanager
async def serving(servicer: FaultyCatalog) -> AsyncIterator[str]:
    server = grpc.aio.server()
    catalog_pb2_grpc.add_CatalogServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def write_all(servicer: FaultyCatalog, **patience: float) -> dict[str, Failure | None]:
    names = [f"products/p{number}" for number in range(PRODUCTS)]
    async with (
        serving(servicer) as address,
        Client(address) as client,
        UpsertStream(client, Patience(**patience)) as stream,
    ):
        answers = await asyncio.gather(*(stream.write(catalog_pb2.Product(name=name)) for name in names))
    return dict(zip(names, answers, strict=True))


def every(number: int, error: Exception) -> Callable[[int, str], None]:
    def fault(messages: int, name: str) -> None:
        if messages % number == 0:
            raise error

    return fault


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(Unavailable("restarting", reason="SHUTTING_DOWN")),
        RuntimeError(LookalikeError("oops")),
        EndOfStreamError(),
        Overloaded("busy"),
        Unavailable("the encoder is away"),
    ],
    ids=["stream unavailable", "stream internal", "end of stream", "overloaded", "part unavailable"],
)
async def test_faults_that_pass_lose_no_product(error: Exception) -> None:
    servicer = FaultyCatalog(every(17, error))
    answers = await write_all(servicer)
    assert set(answers.values()) == {None}
    assert set(servicer.written) == set(answers)


async def test_a_silent_stream_is_opened_again() -> None:
    servicer = FaultyCatalog(every(25, SilenceError()))
    answers = await write_all(servicer, silence_s=0.3)
    assert set(answers.values()) == {None}


async def test_a_refused_product_fails_alone_and_is_not_sent_again() -> None:
    def fault(messages: int, name: str) -> None:
        if name.endswith("/p7"):
            refusals.append(name)
            raise InvalidImage("no picture", reason="IMAGE_NOT_RECOGNISED", field="product.images[0]")

    refusals: list[str] = []
    answers = await write_all(FaultyCatalog(fault))
    failure = answers.pop("products/p7")
    assert failure is not None
    assert (failure.reason, failure.field) == ("IMAGE_NOT_RECOGNISED", "product.images[0]")
    assert set(answers.values()) == {None}
    assert len(refusals) == 1


async def test_a_product_that_breaks_the_stream_is_refused_alone() -> None:
    def fault(messages: int, name: str) -> None:
        if name.endswith("/p7"):
            raise RuntimeError(LookalikeError("boom"))

    answers = await write_all(FaultyCatalog(fault))
    failure = answers.pop("products/p7")
    assert failure is not None
    assert failure.message.startswith("internal error") or failure.message == "boom"
    assert set(answers.values()) == {None}


async def test_a_product_that_stays_unavailable_is_refused_in_the_end() -> None:
    servicer = FaultyCatalog(every(1, Overloaded("busy")))
    answers = await write_all(servicer, total_s=0.2)
    assert {failure.reason for failure in answers.values() if failure} == {"OVERLOADED"}
    assert servicer.messages > PRODUCTS


async def test_a_gateway_that_goes_away_and_stays_away_ends_the_import() -> None:
    servicer = FaultyCatalog(every(10**9, EndOfStreamError()))
    async with Client("127.0.0.1:1") as client, UpsertStream(client, Patience(total_s=0.5)) as stream:
        with pytest.raises(Unavailable, match="no gateway answers"):
            await stream.write(catalog_pb2.Product(name="products/a"))
    assert not servicer.written


async def test_a_gateway_that_comes_back_is_found_again() -> None:
    servicer = FaultyCatalog(every(10**9, EndOfStreamError()))
    async with serving(servicer) as address:
        pass
    async with Client(address) as client, UpsertStream(client) as stream:
        writing = asyncio.create_task(stream.write(catalog_pb2.Product(name="products/a")))
        await asyncio.sleep(0.3)
        server = grpc.aio.server()
        catalog_pb2_grpc.add_CatalogServiceServicer_to_server(servicer, server)
        server.add_insecure_port(address)
        await server.start()
        assert await writing is None
        await server.stop(None)


async def test_a_stream_that_is_refused_ends_the_import() -> None:
    refused = LookalikeError("who are you?")
    refused.code = grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(grpc.aio.AioRpcError, match="who are you"):
        await write_all(FaultyCatalog(every(1, RuntimeError(refused))))
