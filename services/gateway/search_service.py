"""SearchService: checks, asks one domain function, translates."""

from __future__ import annotations

import grpc.aio
from lookalike.v1 import search_pb2, search_pb2_grpc

from services.gateway.cached_search import CachedSearch
from services.gateway.convert import search_request_from

CALLER_HEADER = "x-caller-id"
NAME = search_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name


class SearchService(search_pb2_grpc.SearchServiceServicer):
    def __init__(self, searches: CachedSearch) -> None:
        self._searches = searches

    async def SearchProducts(  # noqa: N802
        self, request: search_pb2.SearchProductsRequest, context: grpc.aio.ServicerContext
    ) -> search_pb2.SearchProductsResponse:
        encoded, cached = await self._searches.search(
            search_request_from(request), caller_of(context), context.time_remaining()
        )
        response = search_pb2.SearchProductsResponse.FromString(encoded)
        if cached:
            response.provenance.result_cached = True
            response.provenance.embedding_cached = True
        return response


def caller_of(context: grpc.aio.ServicerContext) -> str:
    """Who calls: the metadata `x-caller-id` or, without it, the host that the call comes from."""
    for key, value in context.invocation_metadata() or ():
        if key == CALLER_HEADER and value:
            return str(value)[:128]
    return str(context.peer()).rpartition(":")[0]
