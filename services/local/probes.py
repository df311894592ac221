"""Questions that tell whether a server is ready; each answers within `TIMEOUT_S` or raises an OSError."""

from __future__ import annotations

import asyncio

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_S = 2.0
HOST = "127.0.0.1"


async def redis_answers(port: int) -> bool:
    """False while it reads its data back."""
    return (await _ask(port, b"PING\r\n")).startswith(b"+PONG")


async def http_ok(port: int, path: str) -> bool:
    """Whether a GET answers 200."""
    answer = await _ask(port, f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
    return answer.split(b" ", 2)[1:2] == [b"200"]


async def grpc_answers(port: int, method: str) -> bool:
    """Whether a unary method answers OK to an empty message."""
    async with grpc.aio.insecure_channel(f"{HOST}:{port}") as channel:
        try:
            await channel.unary_unary(method)(b"", timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return False
        return True


async def grpc_serving(address: str) -> bool:
    """Whether grpc.health.v1 says SERVING for the server as a whole."""
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def _ask(port: int, question: bytes) -> bytes:
    """The first 256 bytes of the answer."""
    async with asyncio.timeout(TIMEOUT_S):
        reader, writer = await asyncio.open_connection(HOST, port)
        try:
            writer.write(question)
            return await reader.read(256)
        finally:
            writer.close()
