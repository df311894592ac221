"""Messages of the API to our own values and back. It checks what a message can get wrong, not the rules of the shop."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace

from google.protobuf import field_mask_pb2, timestamp_pb2
from lookalike.v1 import catalog_pb2, search_pb2

from services.backends.index import Hit
from services.common.errors import InvalidArgument
from services.common.filters import parse_filter
from services.common.products import FILTER_FIELDS, Product, ProductImage, Region, check_attribute_key, check_product_id
from services.gateway import search
from services.gateway.catalogue import Change, ImageInput, product_not_found
from services.gateway.embedding import Picture
from services.gateway.nearest import similarity
from services.gateway.page_tokens import PageToken

_PREFIX = "products/"
_PATHS = tuple(name for name in FILTER_FIELDS if name != "id")
_FACETS = ("category", "brand", "colors", "sizes", "materials", "currency", "in_stock")


def product_id_of(name: str, field: str) -> str:
    """The id in `products/{id}`. Raises InvalidArgument."""
    if not name.startswith(_PREFIX):
        raise InvalidArgument(
            f"{name[:140]!r} is not of the form products/{{product}}", reason="PRODUCT_NAME_INVALID", field=field
        )
    product_id = name.removeprefix(_PREFIX)
    check_product_id(product_id, field)
    return product_id


def region_of(message: catalog_pb2.BoundingBox) -> Region:
    return Region(message.left, message.top, message.right, message.bottom)


def product_from(message: catalog_pb2.Product) -> Product:
    """Everything but the images."""
    return Product(
        id=product_id_of(message.name, "product.name"),
        title=message.title,
        description=message.description,
        category=message.category,
        brand=message.brand,
        colors=tuple(message.colors),
        sizes=tuple(message.sizes),
        materials=tuple(message.materials),
        price=message.price if message.HasField("price") else None,
        currency=message.currency,
        in_stock=message.in_stock if message.HasField("in_stock") else True,
        attributes=dict(message.attributes),
    )


def images_from(messages: Sequence[catalog_pb2.ProductImage]) -> list[ImageInput]:
    return [
        ImageInput(
            id=message.id,
            content=message.content,
            uri=message.uri,
            sha256=message.sha256,
            region=region_of(message.region) if message.HasField("region") else None,
        )
        for message in messages
    ]


def change_from(message: catalog_pb2.Product, mask: field_mask_pb2.FieldMask, *, allow_missing: bool) -> Change:
    """What UpdateProduct shall do to the stored product. Raises InvalidArgument for an unknown path of the mask."""
    given, inputs = product_from(message), images_from(message.images)
    for path in mask.paths:
        if path.startswith("attributes."):
            check_attribute_key(path.removeprefix("attributes."), "update_mask")
        elif path not in (*_PATHS, "attributes", "images"):
            raise InvalidArgument(
                f"update_mask names {path[:80]!r}; it may name {', '.join(_PATHS)}, attributes, attributes.KEY, images",
                reason="UPDATE_MASK_INVALID",
                field="update_mask",
            )

    def change(stored: Product | None) -> tuple[Product, Sequence[ImageInput]]:
        if stored is None and not allow_missing:
            raise product_not_found(given.id)
        if stored is None or not mask.paths:
            return given, inputs
        changed = stored
        for path in mask.paths:
            if path.startswith("attributes."):
                key = path.removeprefix("attributes.")
                kept = {k: v for k, v in changed.attributes.items() if k != key}
                changed = replace(
                    changed, attributes=kept | ({key: given.attributes[key]} if key in given.attributes else {})
                )
            elif path != "images":
                changed = replace(changed, **{path: getattr(given, path)})
        return changed, inputs if "images" in mask.paths else [_kept(image) for image in stored.images]

    return change


def _kept(image: ProductImage) -> ImageInput:
    return ImageInput(id=image.id, content=b"", uri="", sha256=image.sha256, region=image.region)


def product_to(product: Product) -> catalog_pb2.Product:
    message = catalog_pb2.Product(
        name=_PREFIX + product.id,
        title=product.title,
        description=product.description,
        category=product.category,
        brand=product.brand,
        colors=product.colors,
        sizes=product.sizes,
        materials=product.materials,
        currency=product.currency,
        in_stock=product.in_stock,
        attributes=product.attributes,
        images=[image_to(image) for image in product.images],
        update_time=timestamp_pb2.Timestamp(
            seconds=product.update_time_us // 10**6, nanos=product.update_time_us % 10**6 * 1000
        ),
        etag=product.etag,
    )
    if product.price is not None:
        message.price = product.price
    return message


def image_to(image: ProductImage) -> catalog_pb2.ProductImage:
    message = catalog_pb2.ProductImage(id=image.id, sha256=image.sha256)
    if image.uri:
        message.uri = image.uri
    if image.region:
        left, top, right, bottom = image.region.as_tuple()
        message.region.CopyFrom(catalog_pb2.BoundingBox(left=left, top=top, right=right, bottom=bottom))
    return message


def search_request_from(message: search_pb2.SearchProductsRequest) -> search.SearchRequest:
    """Raises InvalidArgument, InvalidFilter."""
    if not 1 <= len(message.queries) <= search.MAX_PARTS:
        raise InvalidArgument(
            f"a search has 1 to {search.MAX_PARTS} queries, not {len(message.queries)}",
            reason="QUERIES_COUNT",
            field="queries",
        )
    if not 0 <= message.page_size <= search.MAX_PAGE_SIZE:
        raise InvalidArgument(
            f"page_size is {message.page_size}; allowed are 1 to {search.MAX_PAGE_SIZE}, and 0 for the default",
            reason="PAGE_SIZE_INVALID",
            field="page_size",
        )
    if not 0 <= message.min_similarity <= 1:
        raise InvalidArgument(
            "min_similarity must be between 0 and 1", reason="MIN_SIMILARITY_INVALID", field="min_similarity"
        )
    parts = tuple(_part_from(query, f"queries[{number}]") for number, query in enumerate(message.queries))
    if all(part.weight < 0 for part in parts):
        raise InvalidArgument("at least one query needs a positive weight", reason="QUERY_EMPTY", field="queries")
    return search.SearchRequest(
        parts=parts,
        filter=parse_filter(message.filter),
        facets=_facets_from(message.facets),
        page_size=message.page_size or search.DEFAULT_PAGE_SIZE,
        page_token=PageToken.parse(message.page_token) if message.page_token else None,
        min_similarity=message.min_similarity,
    )


def _part_from(query: search_pb2.Query, field: str) -> search.QueryPart:
    weight = query.weight if query.HasField("weight") else 1.0
    if not math.isfinite(weight) or not 0 < abs(weight) <= search.MAX_WEIGHT:
        raise InvalidArgument(
            f"a weight must be between -{search.MAX_WEIGHT:g} and {search.MAX_WEIGHT:g} and not 0",
            reason="WEIGHT_INVALID",
            field=f"{field}.weight",
        )
    region = region_of(query.region) if query.HasField("region") else None
    kind = query.WhichOneof("source")
    if kind == "product":
        if region is not None:
            raise InvalidArgument("a region goes with an image", reason="REGION_INVALID", field=f"{field}.region")
        return search.QueryPart(None, product_id_of(query.product, f"{field}.product"), weight)
    if kind is None:
        raise InvalidArgument("a query needs an image or a product", reason="QUERY_EMPTY", field=field)
    return search.QueryPart(Picture(query.image, hashlib.sha256(query.image).hexdigest(), region), "", weight)


def _facets_from(fields: Sequence[str]) -> tuple[str, ...]:
    if len(fields) > search.MAX_FACETS:
        raise InvalidArgument(f"at most {search.MAX_FACETS} facets", reason="FACETS_COUNT", field="facets")
    for field in fields:
        if field.startswith("attributes."):
            check_attribute_key(field.removeprefix("attributes."), "facets")
        elif field not in _FACETS:
            raise InvalidArgument(
                f"{field[:80]!r} can't be a facet; these can: {', '.join(_FACETS)}, attributes.KEY",
                reason="FACET_UNKNOWN",
                field="facets",
            )
    return tuple(dict.fromkeys(fields))


def result_to(hit: Hit) -> search_pb2.SearchResult:
    # of its images only the one that was found; GetProduct gives them all
    found = hit.product.with_images((hit.image,))
    return search_pb2.SearchResult(
        product=product_to(found),
        image_id=hit.image_id,
        similarity=similarity(hit.cosine),
        distance=math.sqrt(max(0.0, 2.0 - 2.0 * hit.cosine)),
    )


def encode_answer(answer: search.SearchAnswer) -> bytes:
    """The answer as a serialised SearchProductsResponse, as it is kept in the cache."""
    return search_pb2.SearchProductsResponse(
        results=[result_to(hit) for hit in answer.hits],
        next_page_token=answer.next_page_token,
        facets=[
            search_pb2.Facet(
                field=field, values=[search_pb2.FacetValue(value=value, count=count) for value, count in values]
            )
            for field, values in answer.facets.items()
        ],
        provenance=search_pb2.Provenance(
            model=f"models/{answer.pair.query_version}",
            collection=answer.pair.collection.name,
            embedding_cached=answer.embedding_cached,
            mode=search_pb2.SEARCH_MODE_EXACT if answer.exact else search_pb2.SEARCH_MODE_APPROXIMATE,
        ),
    ).SerializeToString()
