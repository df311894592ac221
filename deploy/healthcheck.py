"""Container health check: exit code 0 when the service on this machine is SERVING. Argument: its port (50051)."""

from __future__ import annotations

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

TIMEOUT_S = 3.0


def is_serving(port: int) -> bool:
    """Asks `grpc.health.v1` for the server as a whole; False when nobody answers in time."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        request = health_pb2.HealthCheckRequest()
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_S)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


if __name__ == "__main__":
    sys.exit(0 if is_serving(int(sys.argv[1]) if len(sys.argv) > 1 else 50051) else 1)
