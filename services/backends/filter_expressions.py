"""Filters as Milvus boolean expressions.

The columns are named like the fields; `id` is `product`, and a price that is not known is stored as -1. What a caller
wrote enters an expression as an escaped literal only.

Every leaf is either true or false for every row, never null: Milvus Lite and newer servers leave NOT of a null null,
where older servers make it true. And every construct means the same to Milvus Lite and to Milvus 2.3 and later:

- a prefix is a range of strings, since LIKE treats escapes differently in each;
- `exists` stands in parentheses, since 2.3 binds it looser than `and`;
- the length of a list is compared with `!=`, the only way that 2.3 knows beside `==`.
"""

from __future__ import annotations

import re
from typing import assert_never

from services.common.filter_tree import ATTRIBUTES, And, Comparison, Filter, Has, Not, Or, Prefix, Present
from services.common.products import FILTER_FIELDS, FieldType

# other control characters and all of Unicode stand for themselves; Milvus Lite knows no \u
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})
_LAST_CHARACTER = "\U0010ffff"


def to_milvus(filter: Filter) -> str:
    """The expression that holds for exactly the rows of the products that match.

    In parentheses is what needs them, no more: Milvus binds `and` tighter than `or`, and Milvus Lite parses each pair
    with so many calls that the deepest filter would exceed Python's recursion limit.
    """
    match filter:
        case And(operands):
            return " and ".join(
                f"({to_milvus(each)})" if isinstance(each, Or) else to_milvus(each) for each in operands
            )
        case Or(operands):
            return " or ".join(map(to_milvus, operands))
        case Not(operand):
            return f"not ({to_milvus(operand)})"
        case Has(field, value):
            return f"array_contains({field}, {_literal(value)})"
        case Present(field):
            return _present(field)
        case Comparison():
            return _comparison(filter)
    assert_never(filter)


def ascii_only(expression: str) -> str:
    """The same expression in ASCII, for Milvus servers; Milvus Lite does not know these escapes.

    Newer servers rewrite Han characters before they parse, those beyond U+FFFF (as in 𠮷野家) wrongly: cut to 16 bits.
    """
    return re.sub(r"[^\x00-\x7f]", lambda character: f"\\U{ord(character[0]):08x}", expression)


def _present(field: str) -> str:
    match FILTER_FIELDS.get(field):
        case None:
            return f"(exists {_column(field)})"
        case FieldType.STRING:
            return f'{_column(field)} != ""'
        case FieldType.STRINGS:
            return f"array_length({field}) != 0"
        case FieldType.NUMBER:
            return f"{field} >= 0"
        case FieldType.BOOL:
            return f"{field} in [true, false]"


def _comparison(comparison: Comparison) -> str:
    column = _column(comparison.field)
    match comparison.value:
        case Prefix(text):
            holds = _starts_with(column, text)
            holds = holds if comparison.operator == "=" else f"not ({holds})"
        case value:
            operator = "==" if comparison.operator == "=" else comparison.operator
            holds = f"{column} {operator} {_literal(value)}"
    if FILTER_FIELDS.get(comparison.field) in (None, FieldType.NUMBER):  # may be missing
        return f"({_present(comparison.field)} and {holds})"
    return holds


def _starts_with(column: str, prefix: str) -> str:
    """From the prefix up to the first string, in the order of code points, that is behind all that start with it."""
    lower = f"{column} >= {_literal(prefix)}"
    kept = prefix.rstrip(_LAST_CHARACTER)
    if not kept:
        return lower
    following = 0xE000 if kept[-1] == "\ud7ff" else ord(kept[-1]) + 1  # skips the surrogates
    return f"{lower} and {column} < {_literal(kept[:-1] + chr(following))}"


def _column(field: str) -> str:
    if field.startswith(f"{ATTRIBUTES}."):
        return f"{ATTRIBUTES}[{_literal(field.removeprefix(f'{ATTRIBUTES}.'))}]"
    return "product" if field == "id" else field


def _literal(value: str | float | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value.translate(_ESCAPES)}"' if isinstance(value, str) else repr(value)
