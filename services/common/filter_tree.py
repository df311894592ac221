"""A filter over products as a typed tree; `services.common.filters` says what it means and parses it.

`str(filter)` is canonical: equal trees give equal texts, and parsing the text gives the tree again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

# a field's name is one of FILTER_FIELDS, or `attributes.KEY`
ATTRIBUTES = "attributes"
# what stands behind a backslash in quotes, and what it means
ESCAPES = {"\\": "\\", '"': '"', "'": "'", "*": "*", "n": "\n", "r": "\r", "t": "\t"}


@dataclass(frozen=True, slots=True)
class Prefix:
    """Any text that starts with this one."""

    text: str

    def __str__(self) -> str:
        return f'{quoted(self.text)[:-1]}*"'


Value: TypeAlias = str | Prefix | float | bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """`operator` is one of = != < <= > >=; the type of `value` is the field's."""

    field: str
    operator: str
    value: Value

    def __str__(self) -> str:
        return f"{self.field} {self.operator} {_written(self.value)}"


@dataclass(frozen=True, slots=True)
class Has:
    """The list field holds exactly this value."""

    field: str
    value: str

    def __str__(self) -> str:
        return f"{self.field}:{quoted(self.value)}"


@dataclass(frozen=True, slots=True)
class Present:
    """The field has a value: a list or text that is not empty, a price that is known, an attribute that is there."""

    field: str

    def __str__(self) -> str:
        return f"{self.field}:*"


@dataclass(frozen=True, slots=True)
class Not:
    operand: Filter

    def __str__(self) -> str:
        return f"NOT {_grouped(self.operand, (And, Or, Not))}"


@dataclass(frozen=True, slots=True)
class And:
    """At least two operands."""

    operands: tuple[Filter, ...]

    def __str__(self) -> str:
        return " AND ".join(_grouped(operand, (And,)) for operand in self.operands)


@dataclass(frozen=True, slots=True)
class Or:
    """At least two operands."""

    operands: tuple[Filter, ...]

    def __str__(self) -> str:
        return " OR ".join(_grouped(operand, (And, Or)) for operand in self.operands)


Filter: TypeAlias = And | Or | Not | Comparison | Has | Present

_QUOTE = str.maketrans({text: f"\\{letter}" for letter, text in ESCAPES.items() if text != "'"})


def quoted(text: str) -> str:
    return f'"{text.translate(_QUOTE)}"'


def _written(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return quoted(value) if isinstance(value, str) else str(value)


def _grouped(operand: Filter, kinds: tuple[type, ...]) -> str:
    return f"({operand})" if isinstance(operand, kinds) else str(operand)
