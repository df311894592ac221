"""Filters over products: the text a caller writes, and the typed tree it becomes.

The language is a subset of AIP-160 (https://google.aip.dev/160):

    category = "shoes" AND (colors:"red" OR price < 50) AND NOT in_stock = false AND attributes.fit = "slim"

- **OR binds tighter than AND**, as AIP-160 has it: `a AND b OR c` means `a AND (b OR c)`. Parentheses make it plain.
  AND, OR and NOT are written in capitals; `-` is short for NOT.
- Text fields and `attributes.KEY`: `=` and `!=`, exact and case-sensitive. A `*` at the end matches any ending:
  `title = "run*"`. Everywhere else a star is written `\\*`.
- `colors`, `sizes`, `materials`: `colors:"red"` holds when one of the values is exactly that.
- `price`: `=` `!=` `<` `<=` `>` `>=`. `in_stock`: `=` `!=` with true or false.
- `FIELD:*` and `attributes:KEY` hold when there is a value. On any field but a list, `:` is otherwise the same as `=`.
- Text stands in double or single quotes, with the escapes `\\\\ \\" \\' \\* \\n \\r \\t`; one without spaces and
  special characters needs none: `category = shoes`, `sizes:42`.

A comparison with a missing value (no price, no such attribute) is false, `!=` too, so NOT of it is true. A text field
that was never set is the empty text.
"""

from __future__ import annotations

import functools
import re
from difflib import get_close_matches
from typing import NoReturn

from lark import Lark, Token, Transformer, v_args
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken
from lark.parsers.lalr_interactive_parser import InteractiveParser

from services.common.errors import InvalidFilter
from services.common.filter_tree import (
    ATTRIBUTES,
    ESCAPES,
    And,
    Comparison,
    Filter,
    Has,
    Not,
    Or,
    Prefix,
    Present,
    Value,
    quoted,
)
from services.common.products import ATTRIBUTE_KEY, FILTER_FIELDS, FieldType

__all__ = ["Filter", "parse_filter"]

MAX_CHARS = 4000
MAX_COMPARISONS = 200
MAX_NESTING = 32


def parse_filter(text: str) -> Filter | None:
    """The filter that the text means; None when it is blank.

    Raises InvalidFilter, naming the place, with one of the reasons FILTER_SYNTAX, FILTER_UNKNOWN_FIELD,
    FILTER_TYPE_MISMATCH, and FILTER_TOO_COMPLEX: over 4,000 characters, 200 comparisons or 32 nested parentheses.
    """
    if not text.strip():
        return None
    if len(text) > MAX_CHARS:
        _fail(
            f"the filter has {len(text)} characters, at most {MAX_CHARS} are allowed", MAX_CHARS, "FILTER_TOO_COMPLEX"
        )
    if surrogate := re.search("[\ud800-\udfff]", text):
        _fail("half of a character (a lone surrogate)", surrogate.start())
    parser = _parser().parse_interactive(text)
    try:
        return _parse(parser, len(text))
    except UnexpectedInput as error:
        raise _syntax_error(text, error, parser) from None


def _parse(parser: InteractiveParser, end: int) -> Filter:
    """Feeds the parser token by token, so that what is too complex is refused before it is built."""
    opened: list[int] = []
    comparisons = 0
    for token in parser.iter_parse():
        position = token.start_pos or 0
        if token.type == "OPERATOR":
            comparisons += 1
            if comparisons > MAX_COMPARISONS:
                _fail(f"more than {MAX_COMPARISONS} comparisons", position, "FILTER_TOO_COMPLEX")
        elif token.type == "LPAR":
            opened.append(position)
            if len(opened) > MAX_NESTING:
                _fail(f"more than {MAX_NESTING} parentheses inside one another", position, "FILTER_TOO_COMPLEX")
        elif token.type == "RPAR":
            if not opened:
                _fail('there is no "(" for this ")"', position)
            opened.pop()
    if opened and "RPAR" in parser.accepts():
        _fail('there is no ")" for this "("', opened[-1])
    result: Filter = parser.feed_eof(Token("END", "", start_pos=end))
    return result


_GRAMMAR = r"""
?start: conjunction
?conjunction: disjunction ("AND" disjunction)*  -> conjunction
?disjunction: term ("OR" term)*                 -> disjunction
?term: ("NOT" | "-") simple                     -> negation
     | simple
?simple: FIELD OPERATOR (WORD | QUOTED)         -> comparison
       | "(" conjunction ")"

FIELD: /(?!(?:AND|OR|NOT)(?![\w.]))[^\W\d][\w.]*/
OPERATOR: /[<>!]=|[=<>:]/
WORD: /(?!(?:AND|OR|NOT)(?:[\s()]|$))[^\s()"'\\=<>!:,]+/
QUOTED: /"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'/s
%ignore /\s+/
"""


@v_args(inline=True)
class _TreeBuilder(Transformer):  # type: ignore[type-arg]
    """Called by the parser as it goes: no syntax tree is kept and nothing recurses."""

    def conjunction(self, *operands: Filter) -> Filter:
        return operands[0] if len(operands) == 1 else And(operands)

    def disjunction(self, *operands: Filter) -> Filter:
        return operands[0] if len(operands) == 1 else Or(operands)

    def negation(self, operand: Filter) -> Filter:
        return Not(operand)

    def comparison(self, field: Token, operator: Token, value: Token) -> Filter:
        return _comparison(field, operator, value)


@functools.cache
def _parser() -> Lark:
    return Lark(_GRAMMAR, parser="lalr", transformer=_TreeBuilder())


def _comparison(field: Token, operator: Token, value: Token) -> Filter:
    """Checks one comparison against the field's type."""
    if field == ATTRIBUTES:
        if operator != ":":
            _mismatch(operator, 'attributes need a key: attributes.fit = "slim", or attributes:fit for any value')
        return Present(f"{ATTRIBUTES}.{_attribute_key(value, _exact_text(value))}")
    name, kind = str(field), _field_type(field)
    if operator == ":":
        if value.type == "WORD" and value == "*":
            return Present(name)
        if kind is FieldType.STRINGS:
            return Has(name, _exact_text(value))
        operator = operator.update(value="=")
    if kind is FieldType.STRINGS:
        negated = "NOT " if operator == "!=" else ""
        _mismatch(operator, f"{name} is a {kind.value}, write {negated}{name}:{quoted(_exact_text(value))}")
    if kind is not FieldType.NUMBER and operator not in ("=", "!="):
        _mismatch(operator, f'{name} is a {kind.value} and compares with = and != only, found "{operator}"')
    return Comparison(name, str(operator), _value(name, kind, value))


def _field_type(field: Token) -> FieldType:
    if field in FILTER_FIELDS:
        return FILTER_FIELDS[field]
    if field.startswith(f"{ATTRIBUTES}."):
        _attribute_key(field, field.removeprefix(f"{ATTRIBUTES}."))
        return FieldType.STRING
    near = get_close_matches(field, FILTER_FIELDS, n=1)
    others = f'did you mean "{near[0]}"?' if near else f"the fields are {', '.join(FILTER_FIELDS)} and attributes.KEY"
    _fail(f'there is no field "{field[:64]}"; {others}', field.start_pos or 0, "FILTER_UNKNOWN_FIELD")


def _attribute_key(token: Token, key: str) -> str:
    if not ATTRIBUTE_KEY.match(key):
        what = f'no attribute can be called "{key[:64]}": a key is letters, digits and _'
        _fail(what, token.start_pos or 0, "FILTER_UNKNOWN_FIELD")
    return key


def _value(name: str, kind: FieldType, token: Token) -> Value:
    if kind is FieldType.STRING:
        return _text(token)
    if kind is FieldType.BOOL:
        if token not in ("true", "false"):
            _mismatch(token, f"{name} is a boolean, write true or false without quotes")
        return str(token) == "true"
    if not _NUMBER.match(token):
        _mismatch(token, f"{name} is a number, write it without quotes, such as 9.95")
    number = float(token)
    if abs(number) == float("inf"):
        _mismatch(token, f"{name} is a number, and this one is too large")
    return number


_NUMBER = re.compile(r"-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\Z")
_TEXT_PARTS = re.compile(r"\\(?P<escaped>.)|(?P<star>\*)|[^\\*]+", re.DOTALL)


def _text(token: Token) -> str | Prefix:
    """What a word or a quoted text means: escapes resolved, a star at the end turned into a prefix."""
    start = token.start_pos or 0
    body = str(token)
    if token.type == "QUOTED":
        start, body = start + 1, body[1:-1]
    parts: list[str] = []
    for part in _TEXT_PARTS.finditer(body):
        if part["star"] and part.end() == len(body):
            return Prefix("".join(parts))
        if part["star"]:
            _fail('"*" stands for any ending, so only at the end; write \\* for the character', start + part.start())
        escaped = part["escaped"]
        if escaped is not None and escaped not in ESCAPES:
            _fail(f'there is no escape "\\{escaped}"; write \\\\ for a backslash', start + part.start())
        parts.append(part[0] if escaped is None else ESCAPES[escaped])
    return "".join(parts)


def _exact_text(token: Token) -> str:
    text = _text(token)
    if isinstance(text, Prefix):
        _mismatch(token, '"*" does not work here; write \\* in quotes for the character')
    return text


def _syntax_error(text: str, error: UnexpectedInput, parser: InteractiveParser) -> InvalidFilter:
    token = error.token if isinstance(error, UnexpectedToken) else None
    position = (token.start_pos if token else error.pos_in_stream) or 0
    found = re.match(r"\w+|.", text[position:], re.DOTALL)
    word = found[0][:64] if found else ""
    if isinstance(error, UnexpectedCharacters) and word in ('"', "'"):
        return _error("text in quotes that never ends", position)
    accepted = parser.accepts()
    if "FIELD" in accepted:
        expected = "a field such as category"
    elif "OPERATOR" in accepted:
        expected = "one of = != < <= > >= :"
    elif "WORD" in accepted:
        expected = "a value"
    else:
        expected = ", ".join(name for terminal, name in _AFTER_A_VALUE.items() if terminal in accepted)
        if word.upper() in ("AND", "OR"):
            expected += " (in capitals)"
    shown = f'"{word}"' if word else "the end"
    return _error(f"expected {expected}, found {shown}", position)


_AFTER_A_VALUE = {"AND": "AND", "OR": "OR", "RPAR": '")"', "$END": "the end"}


def _error(message: str, position: int, reason: str = "FILTER_SYNTAX") -> InvalidFilter:
    return InvalidFilter(f"filter, at character {position + 1}: {message}", reason=reason, position=position)


def _fail(message: str, position: int, reason: str = "FILTER_SYNTAX") -> NoReturn:
    raise _error(message, position, reason)


def _mismatch(token: Token, message: str) -> NoReturn:
    _fail(message, token.start_pos or 0, "FILTER_TYPE_MISMATCH")
