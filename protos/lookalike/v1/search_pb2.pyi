from lookalike.v1 import catalog_pb2 as _catalog_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SearchMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEARCH_MODE_UNSPECIFIED: _ClassVar[SearchMode]
    SEARCH_MODE_APPROXIMATE: _ClassVar[SearchMode]
    SEARCH_MODE_EXACT: _ClassVar[SearchMode]
SEARCH_MODE_UNSPECIFIED: SearchMode
SEARCH_MODE_APPROXIMATE: SearchMode
SEARCH_MODE_EXACT: SearchMode

class Query(_message.Message):
    __slots__ = ("image", "product", "region", "weight")
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    image: bytes
    product: str
    region: _catalog_pb2.BoundingBox
    weight: float
    def __init__(self, image: _Optional[bytes] = ..., product: _Optional[str] = ..., region: _Optional[_Union[_catalog_pb2.BoundingBox, _Mapping]] = ..., weight: _Optional[float] = ...) -> None: ...

class SearchProductsRequest(_message.Message):
    __slots__ = ("queries", "filter", "facets", "page_size", "page_token", "min_similarity")
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    FACETS_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    MIN_SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    queries: _containers.RepeatedCompositeFieldContainer[Query]
    filter: str
    facets: _containers.RepeatedScalarFieldContainer[str]
    page_size: int
    page_token: str
    min_similarity: float
    def __init__(self, queries: _Optional[_Iterable[_Union[Query, _Mapping]]] = ..., filter: _Optional[str] = ..., facets: _Optional[_Iterable[str]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., min_similarity: _Optional[float] = ...) -> None: ...

class SearchProductsResponse(_message.Message):
    __slots__ = ("results", "next_page_token", "facets", "provenance")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FACETS_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[SearchResult]
    next_page_token: str
    facets: _containers.RepeatedCompositeFieldContainer[Facet]
    provenance: Provenance
    def __init__(self, results: _Optional[_Iterable[_Union[SearchResult, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., facets: _Optional[_Iterable[_Union[Facet, _Mapping]]] = ..., provenance: _Optional[_Union[Provenance, _Mapping]] = ...) -> None: ...

class SearchResult(_message.Message):
    __slots__ = ("product", "image_id", "similarity", "distance")
    PRODUCT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_ID_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    DISTANCE_FIELD_NUMBER: _ClassVar[int]
    product: _catalog_pb2.Product
    image_id: str
    similarity: float
    distance: float
    def __init__(self, product: _Optional[_Union[_catalog_pb2.Product, _Mapping]] = ..., image_id: _Optional[str] = ..., similarity: _Optional[float] = ..., distance: _Optional[float] = ...) -> None: ...

class Facet(_message.Message):
    __slots__ = ("field", "values")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    field: str
    values: _containers.RepeatedCompositeFieldContainer[FacetValue]
    def __init__(self, field: _Optional[str] = ..., values: _Optional[_Iterable[_Union[FacetValue, _Mapping]]] = ...) -> None: ...

class FacetValue(_message.Message):
    __slots__ = ("value", "count")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    value: str
    count: int
    def __init__(self, value: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class Provenance(_message.Message):
    __slots__ = ("model", "collection", "result_cached", "embedding_cached", "mode")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_FIELD_NUMBER: _ClassVar[int]
    RESULT_CACHED_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_CACHED_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    model: str
    collection: str
    result_cached: bool
    embedding_cached: bool
    mode: SearchMode
    def __init__(self, model: _Optional[str] = ..., collection: _Optional[str] = ..., result_cached: _Optional[bool] = ..., embedding_cached: _Optional[bool] = ..., mode: _Optional[_Union[SearchMode, str]] = ...) -> None: ...
