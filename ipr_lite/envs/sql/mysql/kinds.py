"""What MySQL says a value is, and how its Python connector gives it.

SQLite knows integers, floats and texts. MySQL also has exact decimals and dates, and an average has four digits
more than what it averages; `Decimal('3.5000')` is not `3.5` when results are compared as texts.
"""

from __future__ import annotations

import datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation

from sqlglot import exp

_AS_INSIDE = (exp.Alias, exp.Paren, exp.Neg, exp.Min, exp.Max, exp.Distinct, exp.Abs, exp.AnyValue, exp.Window)
_ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod)
_INTEGERS = (exp.Count, exp.Length, exp.Floor, exp.Ceil, exp.IntDiv, exp.Year, exp.Month, exp.Day, exp.DateDiff)
_TRUTHS = (exp.Predicate, exp.Not, exp.Connector)
_TEXTS = (exp.Concat, exp.Upper, exp.Lower, exp.Substring, exp.GroupConcat, exp.Trim, exp.Left, exp.Right)


def common_kind(kinds: list[str]) -> str:
    """The kind of a value that may come from any of these."""
    kinds = [k for k in kinds if k]
    if not kinds or len(set(kinds)) == 1:
        return kinds[0] if kinds else ""
    if "text" in kinds or any(k.startswith("date") for k in kinds):
        return "text"
    if any(k.startswith("double") for k in kinds):
        return "double"
    return f"decimal:{max(map(_scale, kinds))}"


def _scale(kind: str) -> int:
    """Digits after the point, where the kind says them."""
    return int(kind.partition(":")[2] or 0)


def _exact(kind: str) -> bool:
    return kind == "int" or kind.startswith("decimal")


def kind_of(node: exp.Expression) -> str:
    """What MySQL says a value is; "" where it is not told apart."""
    if "kind" in node.meta:
        return node.meta["kind"]
    if isinstance(node, _AS_INSIDE):
        inner = node.expressions if isinstance(node, exp.Distinct) else [node.this]
        return kind_of(inner[0]) if inner else ""
    if isinstance(node, exp.Literal):
        digits = node.this.partition(".")[2]
        return "text" if node.is_string else f"decimal:{len(digits)}" if digits else "int"
    if isinstance(node, (exp.Sum, exp.Avg)):
        kind, more = kind_of(node.this), 4 if isinstance(node, exp.Avg) else 0
        if _exact(kind):
            return f"decimal:{_scale(kind) + more}"
        return f"double:{_scale(kind) + more}" if ":" in kind else "double"
    if isinstance(node, _ARITHMETIC):
        left, right = kind_of(node.left), kind_of(node.right)
        if not (_exact(left) and _exact(right)):
            return "double"
        if isinstance(node, exp.Div):
            return f"decimal:{_scale(left) + 4}"
        if left == right == "int":
            return "int"
        scales = _scale(left), _scale(right)
        return f"decimal:{sum(scales) if isinstance(node, exp.Mul) else max(scales)}"
    if isinstance(node, exp.Round):
        kind, digits = kind_of(node.this), node.args.get("decimals")
        if not kind.startswith("decimal"):
            return kind
        places = int(digits.this) if isinstance(digits, exp.Literal) and digits.this.isdigit() else 0
        return f"decimal:{min(places, _scale(kind))}"
    if isinstance(node, (exp.Coalesce, exp.Case, exp.If)):
        if isinstance(node, exp.Coalesce):
            values = [node.this, *node.expressions]
        else:
            branches = node.args.get("ifs") or [node]
            values = [b.args.get("true") for b in branches] + [node.args.get("default") or node.args.get("false")]
        return common_kind([kind_of(v) for v in values if v is not None])
    if isinstance(node, exp.Cast):
        to = node.to.this
        if to in exp.DataType.INTEGER_TYPES:
            return "int"
        if to == exp.DataType.Type.DECIMAL:
            places = node.to.expressions[1:]
            return f"decimal:{places[0].name if places else 0}"
        if to in exp.DataType.REAL_TYPES:
            return "double"
        return {exp.DataType.Type.DATE: "date", exp.DataType.Type.DATETIME: "datetime"}.get(to, "text")
    if isinstance(node, (*_INTEGERS, *_TRUTHS)):
        return "int"
    if isinstance(node, exp.Date):
        return "date"
    return "text" if isinstance(node, _TEXTS) else ""


def as_connector(value: object, kind: str) -> object:
    """A value of SQLite's as MySQL's connector would give it."""
    if value is None or not kind:
        return value
    try:
        if kind.startswith("decimal") and isinstance(value, (int, float, str)):
            digits = Decimal(1).scaleb(-int(kind.split(":")[1]))
            return Decimal(repr(value) if isinstance(value, float) else value).quantize(digits, ROUND_HALF_UP)
        if kind.startswith("double") and isinstance(value, (int, float, str)):
            return round(float(value), int(kind[7:])) if ":" in kind else float(value)
        if kind == "int" and isinstance(value, float) and value.is_integer():
            return int(value)
        if kind == "text" and isinstance(value, (int, float)):
            return str(value)
        if kind == "date" and isinstance(value, str):
            return datetime.date.fromisoformat(value[:10])
        if kind == "datetime" and isinstance(value, str):
            return datetime.datetime.fromisoformat(value)
    except (ValueError, InvalidOperation, OverflowError):
        pass  # what does not read as its column's kind stays as it is stored
    return value
