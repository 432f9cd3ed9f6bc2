"""Compares the model of a published view with the columns that the database shows."""

from collections.abc import Mapping
from datetime import datetime
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin
from uuid import UUID

from contracts.views import View

# What `information_schema.columns.data_type` may be for a field of this type.
DATABASE_TYPES: Mapping[Any, frozenset[str]] = {
    str: frozenset({"text"}),
    int: frozenset({"integer", "bigint", "xid8"}),
    float: frozenset({"double precision"}),
    bool: frozenset({"boolean"}),
    UUID: frozenset({"uuid"}),
    bytes: frozenset({"bytea"}),
    datetime: frozenset({"timestamp with time zone"}),
    list: frozenset({"ARRAY"}),
    Any: frozenset({"json", "jsonb"}),
}


def column_differences(view: type[View], columns: Mapping[str, str]) -> list[str]:
    """What the model promises and the view does not keep.

    `columns` maps column_name to data_type, as information_schema.columns has them. A column
    that the model does not name is fine: columns are added to the view first.
    """
    found = []
    for name, field in view.model_fields.items():
        accepted = DATABASE_TYPES[plain_type(field.annotation)]
        if name not in columns:
            found.append(f"{view.view} has no column {name}")
        elif columns[name] not in accepted:
            found.append(f"{view.view}.{name} is {columns[name]}; accepted is {sorted(accepted)}")
    return found


def plain_type(annotation: object) -> object:
    """`int` of `int | None`, `str` of `Literal["a", "b"]`, `list` of `list[str]`.

    Raises ValueError for a union of several types, which no column has.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        choices = [one for one in arguments if one is not NoneType]
    elif origin is Literal:
        choices = list({type(value) for value in arguments})
    else:
        return origin or annotation
    if len(choices) != 1:
        raise ValueError(f"{annotation} is {len(choices)} types; accepted is one")
    return plain_type(choices[0])
