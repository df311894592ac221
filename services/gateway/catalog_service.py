"""CatalogService: checks, asks one domain function, translates."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections.abc import AsyncIterator

import grpc.aio
from google.protobuf import empty_pb2, field_mask_pb2
from google.rpc import code_pb2, status_pb2
from lookalike.v1 import catalog_pb2, catalog_pb2_grpc

from services.backends.filter_expressions import to_milvus
from services.common.errors import InvalidArgument
from services.common.filters import parse_filter
from services.common.interceptor import to_status
from services.common.ordered import in_order
from services.gateway import convert
from services.gateway.catalogue import Catalogue
from services.gateway.settings import CatalogSettings

NAME = catalog_pb2.DESCRIPTOR.services_by_name["CatalogService"].full_name
DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000
MAX_REQUEST_ID_CHARS = 128


class CatalogService(catalog_pb2_grpc.CatalogServiceServicer):
    def __init__(self, settings: CatalogSettings, catalogue: Catalogue) -> None:
        self._settings = settings
        self._catalogue = catalogue

    async def UpdateProduct(  # noqa: N802
        self, request: catalog_pb2.UpdateProductRequest, context: grpc.aio.ServicerContext
    ) -> catalog_pb2.Product:
        product_id = convert.product_id_of(request.product.name, "product.name")
        change = convert.change_from(request.product, request.update_mask, allow_missing=request.allow_missing)
        return convert.product_to(await self._catalogue.write(product_id, change, request.product.etag))

    async def UpsertProducts(  # noqa: N802
        self, requests: AsyncIterator[catalog_pb2.UpsertProductsRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[catalog_pb2.UpsertProductsResponse]:
        async for response in in_order(requests, self._upsert, max_in_flight=self._settings.max_in_flight):
            yield response

    async def GetProduct(  # noqa: N802
        self, request: catalog_pb2.GetProductRequest, context: grpc.aio.ServicerContext
    ) -> catalog_pb2.Product:
        product = await self._catalogue.get(convert.product_id_of(request.name, "name"))
        message = convert.product_to(product)
        if request.view == catalog_pb2.PRODUCT_VIEW_FULL:
            contents = await asyncio.gather(*(self._catalogue.image_bytes(image) for image in product.images))
            for image, content in zip(message.images, contents, strict=True):
                image.content = content
        return message

    async def ListProducts(  # noqa: N802
        self, request: catalog_pb2.ListProductsRequest, context: grpc.aio.ServicerContext
    ) -> catalog_pb2.ListProductsResponse:
        if not 0 <= request.page_size <= MAX_PAGE_SIZE:
            raise InvalidArgument(
                f"page_size is {request.page_size}; it may be 1 to {MAX_PAGE_SIZE}, or 0 for {DEFAULT_PAGE_SIZE}",
                reason="PAGE_SIZE_INVALID",
                field="page_size",
            )
        parsed = parse_filter(request.filter)
        digest = hashlib.sha256(str(parsed or "").encode()).hexdigest()[:16]
        products, after = await self._catalogue.page(
            to_milvus(parsed) if parsed else "",
            _place_in(request.page_token, digest),
            request.page_size or DEFAULT_PAGE_SIZE,
        )
        return catalog_pb2.ListProductsResponse(
            products=[convert.product_to(product) for product in products],
            next_page_token=base64.urlsafe_b64encode(f"{digest}/{after}".encode()).decode() if after else "",
        )

    async def DeleteProduct(  # noqa: N802
        self, request: catalog_pb2.DeleteProductRequest, context: grpc.aio.ServicerContext
    ) -> empty_pb2.Empty:
        product_id = convert.product_id_of(request.name, "name")
        await self._catalogue.delete(product_id, allow_missing=request.allow_missing, etag=request.etag)
        return empty_pb2.Empty()

    async def _upsert(self, request: catalog_pb2.UpsertProductsRequest) -> catalog_pb2.UpsertProductsResponse:
        """Whatever goes wrong with this product is its own status, and the stream goes on."""
        response = catalog_pb2.UpsertProductsResponse(
            request_id=request.request_id[:MAX_REQUEST_ID_CHARS], name=request.product.name[:256]
        )
        try:
            if len(request.request_id) > MAX_REQUEST_ID_CHARS:
                raise InvalidArgument(
                    f"request_id has more than {MAX_REQUEST_ID_CHARS} characters",
                    reason="REQUEST_ID_INVALID",
                    field="request_id",
                )
            product_id = convert.product_id_of(request.product.name, "product.name")
            change = convert.change_from(request.product, field_mask_pb2.FieldMask(), allow_missing=True)
            product = await self._catalogue.write(product_id, change, request.product.etag)
        except Exception as error:
            response.status.CopyFrom(to_status(error))
            return response
        response.status.CopyFrom(status_pb2.Status(code=code_pb2.OK))
        response.etag = product.etag
        return response


def _place_in(page_token: str, digest: str) -> str:
    """Where the page begins. Raises InvalidArgument."""
    if not page_token:
        return ""
    try:
        given, _, after = base64.urlsafe_b64decode(page_token.encode("ascii")).decode().partition("/")
    except (binascii.Error, ValueError):
        given, after = "", ""
    if not after or given != digest:
        raise InvalidArgument(
            "the page token is not one that this service gave for this filter",
            reason="PAGE_TOKEN_INVALID",
            field="page_token",
        )
    return after
