import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("components", "serving_model", "serving_collection", "product_count", "image_count")
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    SERVING_MODEL_FIELD_NUMBER: _ClassVar[int]
    SERVING_COLLECTION_FIELD_NUMBER: _ClassVar[int]
    PRODUCT_COUNT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    components: _containers.RepeatedCompositeFieldContainer[Component]
    serving_model: str
    serving_collection: str
    product_count: int
    image_count: int
    def __init__(self, components: _Optional[_Iterable[_Union[Component, _Mapping]]] = ..., serving_model: _Optional[str] = ..., serving_collection: _Optional[str] = ..., product_count: _Optional[int] = ..., image_count: _Optional[int] = ...) -> None: ...

class Component(_message.Message):
    __slots__ = ("name", "version", "healthy", "latency", "error")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    HEALTHY_FIELD_NUMBER: _ClassVar[int]
    LATENCY_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    healthy: bool
    latency: _duration_pb2.Duration
    error: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., healthy: _Optional[bool] = ..., latency: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., error: _Optional[str] = ...) -> None: ...
