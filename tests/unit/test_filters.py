from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.backends.filter_expressions import ascii_only, to_milvus
from services.common.errors import InvalidFilter
from services.common.filter_tree import And, Comparison, Filter, Has, Not, Or, Prefix, Present
from services.common.filters import parse_filter
from services.common.products import Product
from tests.unit.filter_oracle import NASTY_TEXTS, filters, matches

A, B, C = (Comparison("price", "=", number) for number in (1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('category = "shoes"', Comparison("category", "=", "shoes")),
        ("category = 'shoes'", Comparison("category", "=", "shoes")),
        ("category=shoes", Comparison("category", "=", "shoes")),
        ("category:shoes", Comparison("category", "=", "shoes")),
        ("brand = Müller", Comparison("brand", "=", "Müller")),
        ("id != red-shoe-1", Comparison("id", "!=", "red-shoe-1")),
        ('title = "run*"', Comparison("title", "=", Prefix("run"))),
        ("title = run*", Comparison("title", "=", Prefix("run"))),
        ("title != '*'", Comparison("title", "!=", Prefix(""))),
        (r'title = "run\*"', Comparison("title", "=", "run*")),
        (r'''title = "a\"b\'c\\d\n\r\te"''', Comparison("title", "=", "a\"b'c\\d\n\r\te")),
        ("title = 'two\nlines'", Comparison("title", "=", "two\nlines")),
        ('title = ""', Comparison("title", "=", "")),
        ("price < 50", Comparison("price", "<", 50.0)),
        ("price<=-1.5e+3", Comparison("price", "<=", -1500.0)),
        ("price > .5", Comparison("price", ">", 0.5)),
        ("price >= 5.", Comparison("price", ">=", 5.0)),
        ("price:9.95", Comparison("price", "=", 9.95)),
        ("in_stock = true", Comparison("in_stock", "=", True)),
        ("in_stock != false", Comparison("in_stock", "!=", False)),
        ('colors:"red"', Has("colors", "red")),
        ("sizes:42", Has("sizes", "42")),
        ("attributes.fit = slim", Comparison("attributes.fit", "=", "slim")),
        ("attributes.AND = slim", Comparison("attributes.AND", "=", "slim")),
        ("attributes:fit", Present("attributes.fit")),
        ('attributes:"AND"', Present("attributes.AND")),
        ("attributes.fit:*", Present("attributes.fit")),
        ("price:*", Present("price")),
        ("colors:*", Present("colors")),
    ],
)
def test_one_comparison(text: str, expected: Filter) -> None:
    assert parse_filter(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("price=1 AND price=2 OR price=3", And((A, Or((B, C))))),
        ("price=1 OR price=2 AND price=3", And((Or((A, B)), C))),
        ("(price=1 AND price=2) OR price=3", Or((And((A, B)), C))),
        ("price=1 AND price=2 AND price=3", And((A, B, C))),
        ("NOT price=1 AND price=2", And((Not(A), B))),
        ("NOT price=1 OR price=2", Or((Not(A), B))),
        ("NOT (price=1 OR price=2)", Not(Or((A, B)))),
        ("-price=1", Not(A)),
        ("-(price=1)", Not(A)),
        ("NOT(price=1)", Not(A)),
        ("((((price=1))))", A),
        (" \t\nprice=1\n", A),
    ],
)
def test_or_binds_tighter_than_and(text: str, expected: Filter) -> None:
    assert parse_filter(text) == expected


@pytest.mark.parametrize("text", ["", " ", "\t\r\n "])
def test_blank_is_no_filter(text: str) -> None:
    assert parse_filter(text) is None


@pytest.mark.parametrize(
    ("text", "reason", "position", "message"),
    [
        ("price", "SYNTAX", 5, "expected one of = != < <= > >= :, found the end"),
        ("price <", "SYNTAX", 7, "expected a value, found the end"),
        ("price == 5", "SYNTAX", 7, 'expected a value, found "="'),
        ("= 5", "SYNTAX", 0, 'expected a field such as category, found "="'),
        ('"price" < 5', "SYNTAX", 0, "expected a field"),
        ("price < 5 brand = x", "SYNTAX", 10, 'expected AND, OR, the end, found "brand"'),
        ("price < 5 and brand = x", "SYNTAX", 10, "(in capitals)"),
        ("price < 5 AND", "SYNTAX", 13, "expected a field"),
        ("category = AND", "SYNTAX", 11, 'expected a value, found "AND"'),
        ("(price < 5", "SYNTAX", 0, 'there is no ")" for this "("'),
        ("(price < 5 AND", "SYNTAX", 14, "expected a field"),
        ("(price < 5 brand", "SYNTAX", 11, 'expected AND, OR, ")", found "brand"'),
        ("price < 5)", "SYNTAX", 9, 'there is no "(" for this ")"'),
        ("()", "SYNTAX", 1, "expected a field"),
        ("NOT NOT price = 5", "SYNTAX", 4, "expected a field"),
        ('title = "abc', "SYNTAX", 8, "never ends"),
        (r'title = "a\x"', "SYNTAX", 10, r'no escape "\x"'),
        ('title = "*run"', "SYNTAX", 9, "only at the end"),
        ("price < 5,3", "SYNTAX", 9, 'found ","'),
        ("title = \ud800", "SYNTAX", 8, "surrogate"),
        ("color:red", "UNKNOWN_FIELD", 0, 'did you mean "colors"?'),
        ("price < 5 AND zzz = 1", "UNKNOWN_FIELD", 14, "the fields are id, title"),
        ("attributes.ä = x", "UNKNOWN_FIELD", 0, "no attribute can be called"),
        ("attributes.a.b = x", "UNKNOWN_FIELD", 0, "no attribute can be called"),
        ('attributes:"a b"', "UNKNOWN_FIELD", 11, "no attribute can be called"),
        ("attributes = x", "TYPE_MISMATCH", 11, "need a key"),
        ('colors = "red"', "TYPE_MISMATCH", 7, 'write colors:"red"'),
        ("colors != red", "TYPE_MISMATCH", 7, 'write NOT colors:"red"'),
        ("colors:re*", "TYPE_MISMATCH", 7, '"*" does not work here'),
        ("title < x", "TYPE_MISMATCH", 6, "= and != only"),
        ("attributes.fit >= 5", "TYPE_MISMATCH", 15, "= and != only"),
        ("in_stock > true", "TYPE_MISMATCH", 9, "= and != only"),
        ("in_stock = yes", "TYPE_MISMATCH", 11, "true or false"),
        ('in_stock = "true"', "TYPE_MISMATCH", 11, "true or false"),
        ("price < cheap", "TYPE_MISMATCH", 8, "without quotes"),
        ('price < "5"', "TYPE_MISMATCH", 8, "without quotes"),
        ("price < nan", "TYPE_MISMATCH", 8, "without quotes"),
        ("price < 1_000", "TYPE_MISMATCH", 8, "without quotes"),
        ("price < ٥", "TYPE_MISMATCH", 8, "without quotes"),
        ("price < 1e999", "TYPE_MISMATCH", 8, "too large"),
        ("a" * 4001, "TOO_COMPLEX", 4000, "at most 4000"),
        (" AND ".join(["price=1"] * 201), "TOO_COMPLEX", 200 * 12 + 5, "more than 200 comparisons"),
        ("(" * 33 + "price=1" + ")" * 33, "TOO_COMPLEX", 32, "more than 32 parentheses"),
        ("(" * 4000, "TOO_COMPLEX", 32, "more than 32 parentheses"),
        ("NOT (" * 800, "TOO_COMPLEX", 32 * 5 + 4, "more than 32 parentheses"),
    ],
)
def test_errors_name_the_place(text: str, reason: str, position: int, message: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        parse_filter(text)
    assert (caught.value.reason, caught.value.position) == (f"FILTER_{reason}", position)
    assert caught.value.message.startswith(f"filter, at character {position + 1}: ")
    assert message in caught.value.message


def test_the_largest_filter_is_read() -> None:
    assert isinstance(parse_filter(" AND ".join(["price=1"] * 200)), And)
    nested = "price=1"
    for _ in range(32):
        nested = f"NOT (price=2 AND price=3 OR {nested})"
    parsed = parse_filter(nested)
    assert parsed is not None
    assert parse_filter(str(parsed)) == parsed
    assert hash(parsed) == hash(parse_filter(nested))


@given(filters())
def test_text_of_a_filter_means_the_filter(filter: Filter) -> None:
    assert parse_filter(str(filter)) == filter


def test_text_does_not_depend_on_how_the_filter_was_written() -> None:
    written = parse_filter(" -( (category:shoes)OR price<5e1 )AND attributes:fit")
    assert str(written) == 'NOT (category = "shoes" OR price < 50.0) AND attributes.fit:*'


_PIECES = st.sampled_from(
    (
        *(
            "<",
            ">",
            "=",
            ":",
            "-",
            "!",
            "!=",
            "<=",
            "(",
            ")",
            "*",
            ",",
            ".",
            "\\",
            '"',
            "'",
            " ",
            "\n",
            "\x00",
            "\ud800",
            "é",
        ),
        *("AND", "OR", "NOT", "price", "title", "colors", "attributes", "attributes.fit", "in_stock"),
        *("1", "-2.5e3", "true", '"red"', "'blue'", "red*"),
    )
)


@given(
    st.text(max_size=40) | st.lists(_PIECES, max_size=15).map("".join) | st.lists(_PIECES, max_size=15).map(" ".join)
)
@example("(" * 4000)
@example("-" * 4000)
@example("NOT " * 1000)
@example('"' * 3999)
@example("price=1" + " OR price=1" * 300)
def test_any_text_is_a_filter_or_refused_with_its_place(text: str) -> None:
    parsed, refusal = None, None
    try:
        parsed = parse_filter(text)
    except InvalidFilter as error:
        refusal = error
    if refusal:
        assert 0 <= refusal.position <= len(text)
        assert refusal.reason in _REASONS
    elif parsed:
        assert parse_filter(str(parsed)) == parsed


_REASONS = {"FILTER_SYNTAX", "FILTER_UNKNOWN_FIELD", "FILTER_TYPE_MISMATCH", "FILTER_TOO_COMPLEX"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("price < 50", False),
        ("price != 50", False),
        ("NOT price != 50", True),
        ("price:*", False),
        ("attributes.sole != rubber", False),
        ("NOT attributes.sole = rubber", True),
        ("attributes.sole:*", False),
        ("attributes.fit = sl*", True),
        ("attributes.fit != sl*", False),
        ("attributes:fit", True),
        ('brand = ""', True),
        ("brand != x", True),
        ("brand:*", False),
        ("brand = *", True),
        ("colors:red", True),
        ("colors:re", False),
        ("title = Run", False),
        ("sizes:*", False),
    ],
)
def test_oracle_follows_the_documented_meaning(text: str, expected: bool) -> None:
    product = Product("shoe", title="run", colors=("red", "blue"), attributes={"fit": "slim"})
    parsed = parse_filter(text)
    assert parsed is not None
    assert matches(parsed, product) is expected


def test_expression_of_the_documented_example() -> None:
    parsed = parse_filter(
        'category = "shoes" AND (colors:"red" OR price < 50) AND NOT in_stock = false AND attributes.fit = "slim"'
    )
    assert parsed is not None
    assert to_milvus(parsed) == (
        'category == "shoes" and (array_contains(colors, "red") or (price >= 0 and price < 50.0))'
        ' and not (in_stock == false) and ((exists attributes["fit"]) and attributes["fit"] == "slim")'
    )


_LITERAL = re.compile(r'"(?:[^"\\\n\r]|\\["\\nr])*"')
_VOCABULARY = {
    "and",
    "or",
    "not",
    "exists",
    "in",
    "true",
    "false",
    "array_contains",
    "array_length",
    "product",
    "attributes",
}
_VOCABULARY |= {
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
}


@given(filters())
@example(Or(tuple(Comparison("title", "=", text) for text in NASTY_TEXTS)))
@example(Or(tuple(Comparison("attributes.fit", "!=", Prefix(text)) for text in NASTY_TEXTS)))
def test_what_callers_write_stays_within_literals(filter: Filter) -> None:
    rest = _LITERAL.sub("", to_milvus(filter))
    assert re.fullmatch(r"[a-z_ ()=!<>,\[\]0-9.e+-]*", rest)
    assert set(re.findall(r"(?<![0-9.])[a-z_]+", rest)) <= _VOCABULARY


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("run", 'title >= "run" and title < "ruo"'),
        ("", 'title >= ""'),
        ("\U0010ffff", 'title >= "\U0010ffff"'),
        ("a\U0010ffff", 'title >= "a\U0010ffff" and title < "b"'),
        ("\ud7ff", 'title >= "\ud7ff" and title < "\ue000"'),
        ("a!", 'title >= "a!" and title < "a\\""'),
    ],
)
def test_prefix_is_a_range(prefix: str, expected: str) -> None:
    assert to_milvus(Comparison("title", "=", Prefix(prefix))) == expected


def test_ascii_only_escapes_every_other_character() -> None:
    assert ascii_only('title == "é\\"𠮷"') == 'title == "\\U000000e9\\"\\U00020bb7"'
