"""Searches a Lookalike catalogue by a picture.

python examples/python/search.py photo.jpg [localhost:50051]
"""

from __future__ import annotations

import sys
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from lookalike.v1 import search_pb2, search_pb2_grpc

# pictures have up to 20 MB; gRPC stops at 4 MB unless told otherwise
LIMITS = [("grpc.max_send_message_length", 64 * 2**20), ("grpc.max_receive_message_length", 64 * 2**20)]


def search(
    picture: Path, address: str = "localhost:50051", product_filter: str = ""
) -> search_pb2.SearchProductsResponse:
    """The products nearest to the picture. Raises grpc.RpcError."""
    with grpc.insecure_channel(address, options=LIMITS) as channel:
        stub = search_pb2_grpc.SearchServiceStub(channel)
        request = search_pb2.SearchProductsRequest(
            queries=[search_pb2.Query(image=picture.read_bytes())], filter=product_filter, page_size=5
        )
        return stub.SearchProducts(request, timeout=10)


def reason(error: grpc.RpcError) -> str:
    """The machine-readable reason, IMAGE_TRUNCATED for example; the status code's name when there is none."""
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return error.code().name


def main() -> int:
    if len(sys.argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        answer = search(Path(sys.argv[1]), *sys.argv[2:])
    except OSError as error:
        print(error, file=sys.stderr)
        return 2
    except grpc.RpcError as error:
        print(f"{reason(error)}: {error.details()}", file=sys.stderr)
        return 1
    for result in answer.results:
        print(f"{result.similarity:.3f}  {result.product.name}  {result.product.title}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
