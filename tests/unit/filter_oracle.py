"""What a filter means, in plain Python, and random products and filters to compare it with."""

from __future__ import annotations

import operator
from typing import Any

from hypothesis import strategies as st

from services.common.filter_tree import And, Comparison, Filter, Has, Not, Or, Prefix, Present
from services.common.products import FILTER_FIELDS, FieldType, Product

# texts that break what is quoted, escaped, compared or sorted carelessly
NASTY_TEXTS = (
    *(
        'x" or id != "',
        "' or '' = '",
        '" or product != "',
        "it's",
        '"',
        "'",
        "\\",
        '\\"',
        "\\\\",
        "ends in \\",
        "\\n",
        "\\u0041",
    ),
    *("run*", "*", "%", "_", "100 %", "a_b", "{x}", "$meta", "null", "true", "AND", "NOT", "0", "-1", "(", ")", "[]"),
    *("\n", "\r\n", "\t", " ", " red", "red ", "\x01", "\x1f", "\x7f", "\x85", "\u2028", "\u202e", "\ufeff", "\ufffd"),
    *(
        "é",
        "e\u0301",
        "İ",
        "ß",
        "漢字",
        "𠮷野家",
        "\u0bb7野家",
        "々",
        "😀",
        "👨\u200d👩\u200d👧",
        "\ud7ff",
        "\ue000",
        "\uffff",
    ),
    *("\U0010ffff", "a\U0010ffff", "a\U0010ffffb", "b"),
)
COMMON_TEXTS = ("", "red", "Red", "redder", "blue", "shoes", "slim", "42", "running shoes", "EUR")
ATTRIBUTE_KEYS = ("fit", "Fit", "sole", "AND", "not", "exists", "_")
PRICES = (0.0, 5e-324, 1.0, 9.95, 49.99, 50.0, 50.00000000000001, 1e16, 1.7976931348623157e308)


def matches(filter: Filter, product: Product) -> bool:
    """Whether the product matches; a comparison with a missing value is false."""
    match filter:
        case And(operands):
            return all(matches(operand, product) for operand in operands)
        case Or(operands):
            return any(matches(operand, product) for operand in operands)
        case Not(operand):
            return not matches(operand, product)
        case Has(field, value):
            return value in _value(field, product)
        case Present(field):
            value = _value(field, product)
            return value is not None and (field.startswith("attributes.") or value not in ("", ()))
        case Comparison(field, sign, expected):
            value = _value(field, product)
            if value is None:
                return False
            if isinstance(expected, Prefix):
                return bool(value.startswith(expected.text)) == (sign == "=")
            return bool(_OPERATORS[sign](value, expected))


_OPERATORS = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _value(field: str, product: Product) -> Any:
    if field.startswith("attributes."):
        return product.attributes.get(field.removeprefix("attributes."))
    return getattr(product, field)


def texts() -> st.SearchStrategy[str]:
    """Texts that a product may hold; many come up again and again, so that filters find something."""
    any_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=5)
    ascii_text = st.text(st.characters(min_codepoint=1, max_codepoint=127), max_size=5)
    return st.sampled_from(COMMON_TEXTS) | st.sampled_from(NASTY_TEXTS) | ascii_text | any_text


def products() -> st.SearchStrategy[Product]:
    """Products without images; the ids are few, so give them unique ones where that matters."""
    lists = st.lists(texts(), max_size=3).map(tuple)
    return st.builds(
        Product,
        id=_ids(),
        title=texts(),
        description=texts(),
        category=texts(),
        brand=texts(),
        colors=lists,
        sizes=lists,
        materials=lists,
        price=st.none() | st.sampled_from(PRICES) | st.floats(0, 100),
        currency=st.sampled_from(("", "EUR", "USD")),
        in_stock=st.booleans(),
        attributes=st.dictionaries(st.sampled_from(ATTRIBUTE_KEYS), texts(), max_size=4),
    )


def filters() -> st.SearchStrategy[Filter]:
    """Filters of up to about eight comparisons, of every kind."""
    return st.recursive(_comparisons(), _combinations, max_leaves=8)


def _combinations(operands: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
    several = st.lists(operands, min_size=2, max_size=4).map(tuple)
    return st.builds(Not, operands) | st.builds(And, several) | st.builds(Or, several)


def _comparisons() -> st.SearchStrategy[Filter]:
    of_type = {kind: [name for name, type_ in FILTER_FIELDS.items() if type_ is kind] for kind in FieldType}
    attributes = [f"attributes.{key}" for key in ATTRIBUTE_KEYS]
    string_fields = st.sampled_from([*of_type[FieldType.STRING], *attributes])
    equality = st.sampled_from(["=", "!="])
    prices = st.sampled_from(PRICES) | st.floats(allow_nan=False, allow_infinity=False)
    values = texts() | _ids()
    return st.one_of(
        st.builds(Comparison, string_fields, equality, values),
        st.builds(Comparison, string_fields, equality, st.builds(Prefix, values.map(lambda text: text[:2]))),
        st.builds(Has, st.sampled_from(of_type[FieldType.STRINGS]), values),
        st.builds(Comparison, st.just("price"), st.sampled_from(list(_OPERATORS)), prices),
        st.builds(Comparison, st.just("in_stock"), equality, st.booleans()),
        st.builds(Present, st.sampled_from([*FILTER_FIELDS, *attributes])),
    )


def _ids() -> st.SearchStrategy[str]:
    return st.integers(0, 29).map("p{}".format)
