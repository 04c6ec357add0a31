"""A MySQL query as SQLite wants it, so that it gives the same rows in the same order.

`names.resolve` has been over the tree: expressions know their kinds, blocks their tables.
"""

from __future__ import annotations

import sqlglot
from sqlglot import exp

from ipr_lite.envs.sql.mysql.kinds import kind_of
from ipr_lite.envs.sql.mysql.schema import NOT_YET, Schema, SQLError

_SAME = (exp.EQ, exp.NEQ, exp.In)
_NUMERIC = ("int", "double", "decimal")
_COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE)
_CLOCK = {exp.Year: "%Y", exp.Month: "%m", exp.Day: "%d", exp.DayOfMonth: "%d"}


def to_sqlite(tree: exp.Expression, schema: Schema, padded: set[tuple[str, str]]) -> str:
    """The query's text for SQLite; the tree is changed.

    padded: (table, column), in lower case, of texts that end with blanks, which MySQL does not compare.
    """
    for select in list(tree.find_all(exp.Select)):
        _first_seen(select)
    for column in list(tree.find_all(exp.Column)):
        if (column.meta.get("table"), column.name.lower()) in padded and isinstance(column.parent, _SAME):
            trimmed = exp.Anonymous(this="rtrim", expressions=[column.copy()])
            column.replace(exp.Collate(this=trimmed, expression=exp.Var(this="NOCASE")))
    for node in reversed(list(tree.bfs())):  # what is inside first
        parent, key, index = node.parent, node.arg_key, node.index
        if (new := _rewritten(node, schema.name)) is not node and parent is None:
            tree = new
        elif new is not node:
            parent.set(key, new, index)
    return tree.sql("sqlite", unsupported_level=sqlglot.ErrorLevel.IGNORE)


def _first_seen(select: exp.Select) -> None:
    """MySQL 8 gives groups in the order in which it meets them, SQLite sorted by what they are grouped by."""
    block, group = select.meta.get("block"), select.args.get("group")
    if group is None or block is None or not block.sources:
        return
    for item in group.find_all(exp.Column):
        if item.meta.get("block", block) is not block:
            item.replace(exp.Null())  # a column of the query around: SQLite does not see it here, and it is one value
    if any(e.find(exp.Window) for e in select.expressions):
        return
    source = block.sources[0]
    if source.table is None:
        return
    if not select.args.get("order") and (first := group.expressions[0]) is not None:
        if first.meta.get("place") and first.name.lower() in source.table.indexed:
            return
    rowid = exp.Min(this=exp.column("rowid", table=exp.to_identifier(source.alias, quoted=True)))
    select.order_by(exp.Ordered(this=rowid), append=True, copy=False)


def _rewritten(node: exp.Expression, database: str) -> exp.Expression:
    """One node as SQLite wants it."""
    if isinstance(node, (*_COMPARISONS, exp.Between)):
        sides = [node.this, *(node.args.get(k) for k in ("expression", "low", "high"))]
        kinds = [kind_of(side) for side in sides if isinstance(side, exp.Expression)]
        if (
            isinstance(node.this, exp.Column)
            and kinds[0] == "text"
            and any(k.split(":")[0] in _NUMERIC for k in kinds[1:])
        ):
            node.set("this", exp.cast(node.this, "double", copy=False))
        every = node.args.get("expression")
        if isinstance(every, (exp.All, exp.Any)):
            return _one_for_all(node, every)
    if isinstance(node, (exp.Table, exp.Column)) and node.text("db").lower() != "information_schema":
        node.set("db", None)
    if isinstance(node, exp.CurrentSchema):
        return exp.Literal.string(database)
    if isinstance(node, exp.Union) and node.args.get("distinct"):
        return _in_order(node)
    if isinstance(node, exp.Left):
        return exp.Substring(this=node.this, start=exp.Literal.number(1), length=node.expression)
    if isinstance(node, (exp.Sum, exp.Avg)) and kind_of(node.this) == "text":
        node.set("this", exp.cast(node.this, "double", copy=False))
    if isinstance(node, (exp.Sum, exp.Avg)) and kind_of(node.this) in ("date", "datetime"):
        node.set("this", _as_number(node.this))
    for kind, form in _CLOCK.items():
        if isinstance(node, kind):
            inner = node.this.this if isinstance(node.this, (exp.TsOrDsToDate, exp.Date)) else node.this
            clock = exp.Anonymous(this="strftime", expressions=[exp.Literal.string(form), inner])
            return exp.cast(clock, "int", copy=False)
    return node


def _as_number(node: exp.Expression) -> exp.Expression:
    """A date as the number that MySQL reckons with: 20240901."""
    for mark in "-: ":
        node = exp.Anonymous(this="replace", expressions=[node, exp.Literal.string(mark), exp.Literal.string("")])
    return exp.cast(node, "bigint", copy=False)


def _in_order(node: exp.Union) -> exp.Query:
    """A UNION whose rows come as they are first seen, as in MySQL; SQLite would sort them."""
    outer = node.parent
    node.set("distinct", False)
    if isinstance(outer, exp.Union) and outer.args.get("distinct") and node.arg_key == "this":
        return node  # the outermost of a chain sees to all
    whole = exp.select("*").distinct()
    for key in ("with_", "order", "limit", "offset"):
        whole.set(key, node.args.get(key))
        node.set(key, None)
    return whole.from_(exp.Subquery(this=node), copy=False)


def _one_for_all(node: exp.Expression, every: exp.Expression) -> exp.Expression:
    """x > ALL (SELECT y ...) is x > the largest y, x = ANY (...) is x IN (...): SQLite has neither ALL nor ANY."""
    inner = every.this.unnest() if isinstance(every.this, exp.Subquery) else every.this
    if isinstance(node, exp.EQ if isinstance(every, exp.Any) else exp.NEQ):
        found = exp.In(this=node.this, query=exp.Subquery(this=inner))
        return found if isinstance(every, exp.Any) else exp.Not(this=found)
    larger = isinstance(node, (exp.GT, exp.GTE)) == isinstance(every, exp.All)
    if isinstance(node, (exp.EQ, exp.NEQ)) or not isinstance(inner, exp.Select) or len(inner.expressions) != 1:
        raise SQLError(NOT_YET.format(every.key.upper()))
    wrapped = (exp.Max if larger else exp.Min)(this=inner.expressions[0].unalias())
    inner.set("expressions", [wrapped])
    node.set("expression", exp.Subquery(this=inner))
    return node
