"""How products are laid out in Milvus: one collection per encoder version, one row per image.

The limits of `services.common.products` count characters, Milvus counts bytes: a character takes up to four in UTF-8.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from pymilvus import CollectionSchema, DataType, MilvusClient
from pymilvus.milvus_client.index import IndexParams

from services.common.products import MAX_CHARS, MAX_LIST_VALUE_CHARS, MAX_LIST_VALUES

VECTOR = "vector"
# what Milvus answers a query or a search at most with
MAX_LIMIT = 16_384
# what Milvus stores of one JSON value at most
MAX_JSON_BYTES = 65_536
MAX_URI_BYTES = 8192

PRODUCT_COLUMNS = (
    "product",
    "title",
    "description",
    "category",
    "brand",
    "colors",
    "sizes",
    "materials",
    "price",
    "currency",
    "in_stock",
    "attributes",
    "update_time",
)
IMAGE_COLUMNS = ("image", "sha256", "uri", "region", "position")

_COLLECTION_PREFIX = "products_m"
_PROPERTY_PREFIX = "lookalike."
_GAP = "gap-"
_BYTES_PER_CHAR = 4
_TEXT_INDEXED = ("product", "category", "brand", "currency")
_NUMBER_INDEXED = ("price",)


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection as its properties describe it.

    Args:
        name: the collection's own name, never an alias.
        model_version: of the encoder that made every vector in it.
        dimension: D of its vectors.
        preprocessing: id of what was done to the pictures.
        fence: a token that voids cached results when it changes; "" when there was none yet.
        gaps: ids of change logs that lack a write to this collection.
        state: what the rollout service tells gateways, as `services.common.rollout_state`; "" before the first rollout.
    """

    name: str
    model_version: int
    dimension: int
    preprocessing: str
    fence: str = ""
    gaps: frozenset[str] = frozenset()
    state: str = ""

    @classmethod
    def of(cls, model_version: int, dimension: int, preprocessing: str) -> Collection:
        return cls(f"{_COLLECTION_PREFIX}{model_version}", model_version, dimension, preprocessing)

    @classmethod
    def from_properties(cls, name: str, properties: dict[str, str]) -> Collection | None:
        """None when it is not a collection of ours."""
        try:
            return cls(
                name=name,
                model_version=int(properties[f"{_PROPERTY_PREFIX}model_version"]),
                dimension=int(properties[f"{_PROPERTY_PREFIX}dimension"]),
                preprocessing=properties[f"{_PROPERTY_PREFIX}preprocessing"],
                fence=property_of(properties, "fence"),
                gaps=gaps_in(properties),
                state=property_of(properties, "state"),
            )
        except (KeyError, ValueError):
            return None

    @property
    def properties(self) -> dict[str, str]:
        return {
            f"{_PROPERTY_PREFIX}model_version": str(self.model_version),
            f"{_PROPERTY_PREFIX}dimension": str(self.dimension),
            f"{_PROPERTY_PREFIX}preprocessing": self.preprocessing,
        }


def gap_property(log: str) -> dict[str, str]:
    """One for each log: with one for all, a gateway that is late with an old log's would hide the new one's."""
    return {f"{_GAP}{log}": "1"}


def gaps_in(properties: Mapping[str, str]) -> frozenset[str]:
    """The logs that have one."""
    start = f"{_PROPERTY_PREFIX}{_GAP}"
    return frozenset(name.removeprefix(start) for name in properties if name.startswith(start))


def is_ours(collection_name: str) -> bool:
    return collection_name.removeprefix(_COLLECTION_PREFIX).isdigit() and collection_name.startswith(_COLLECTION_PREFIX)


def named_properties(properties: Mapping[str, str]) -> dict[str, str]:
    """With our prefix."""
    return {f"{_PROPERTY_PREFIX}{name}": value for name, value in properties.items()}


def property_of(properties: Mapping[str, str], name: str) -> str:
    """The value of a property of ours; "" when there is none."""
    return properties.get(f"{_PROPERTY_PREFIX}{name}", "")


def schema(dimension: int) -> CollectionSchema:
    """The columns of a collection whose vectors have `dimension` components."""
    columns = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    columns.add_field("id", DataType.VARCHAR, max_length=256, is_primary=True)
    columns.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=dimension)
    columns.add_field("product", DataType.VARCHAR, max_length=128)
    for name, characters in MAX_CHARS.items():
        columns.add_field(name, DataType.VARCHAR, max_length=characters * _BYTES_PER_CHAR)
    for name in ("colors", "sizes", "materials"):
        columns.add_field(
            name,
            DataType.ARRAY,
            element_type=DataType.VARCHAR,
            max_capacity=MAX_LIST_VALUES,
            max_length=MAX_LIST_VALUE_CHARS * _BYTES_PER_CHAR,
        )
    # -1 when not known: Milvus before 2.5 has no null
    columns.add_field("price", DataType.DOUBLE)
    columns.add_field("currency", DataType.VARCHAR, max_length=3)
    columns.add_field("in_stock", DataType.BOOL)
    columns.add_field("attributes", DataType.JSON)
    columns.add_field("update_time", DataType.INT64)
    columns.add_field("image", DataType.VARCHAR, max_length=64)
    columns.add_field("sha256", DataType.VARCHAR, max_length=64)
    columns.add_field("uri", DataType.VARCHAR, max_length=MAX_URI_BYTES)
    # left, top, right, bottom; empty for the whole picture
    columns.add_field("region", DataType.ARRAY, element_type=DataType.FLOAT, max_capacity=4)
    columns.add_field("position", DataType.INT64)
    return columns


def indexes(server_version: str, m: int, ef_construction: int) -> dict[str, IndexParams]:
    """What to index, by column.

    Args:
        server_version: as Milvus tells it; before 2.4 there is no INVERTED index for scalars.
        m, ef_construction: of HNSW (Malkov and Yashunin, 2016).
    """
    old = server_version.removeprefix("v").startswith(("2.0.", "2.1.", "2.2.", "2.3."))
    made = {VECTOR: _index(VECTOR, "HNSW", metric_type="COSINE", params={"M": m, "efConstruction": ef_construction})}
    made |= {column: _index(column, "Trie" if old else "INVERTED") for column in _TEXT_INDEXED}
    made |= {column: _index(column, "STL_SORT" if old else "INVERTED") for column in _NUMBER_INDEXED}
    return made


def _index(column: str, index_type: str, **options: object) -> IndexParams:
    params = MilvusClient.prepare_index_params()
    params.add_index(column, index_type=index_type, index_name=column, **options)
    return params


def literal(text: str) -> str:
    """Text as a string literal of a Milvus expression."""
    return json.dumps(text, ensure_ascii=False)


def both(left: str, right: str) -> str:
    """The expression that holds where both do; an empty one holds everywhere."""
    if not left or not right:
        return left or right
    return f"({left}) and ({right})"
