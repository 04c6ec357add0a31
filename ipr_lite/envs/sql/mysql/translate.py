"""A MySQL query as SQLite wants it, so that it gives the same rows in the same order.

`sql_names.resolve` has been over the tree: expressions know their kinds, blocks their tables.
"""

from __future__ import annotations

import sqlglot
from sqlglot import exp

from ipr_lite.envs.sql.mysql.kinds import kind_of
from ipr_lite.envs.sql.mysql.schema import Schema, SQLError, Table

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
    for table in list(tree.find_all(exp.Table)):
        if table.text("db").lower() == "information_schema":
            table.replace(_as_values(*schema.information(table.name), table.alias_or_name))
    for column in list(tree.find_all(exp.Column)):
        if (column.meta.get("table"), column.name.lower()) in padded and isinstance(column.parent, _SAME):
            trimmed = exp.Anonymous(this="rtrim", expressions=[column.copy()])
            column.replace(exp.Collate(this=trimmed, expression=exp.Var(this="NOCASE")))
    tree = tree.transform(_rewritten, copy=False)
    return tree.sql("sqlite", unsupported_level=sqlglot.ErrorLevel.IGNORE)


def _as_values(table: Table, rows: list[tuple], alias: str) -> exp.Expression:
    """A view as a derived table."""
    names = [f"column{n} AS {c.name}" for n, c in enumerate(table.columns, 1)]
    cells = [", ".join("NULL" if v is None else exp.Literal.string(v).sql("sqlite") for v in row) for row in rows]
    values = ", ".join(f"({row})" for row in cells)
    query = f"SELECT 1 FROM (SELECT {', '.join(names)} FROM (VALUES {values})) AS {exp.to_identifier(alias, quoted=True).sql('sqlite')}"
    return sqlglot.parse_one(query, read="sqlite").args["from_"].this


def _first_seen(select: exp.Select) -> None:
    """MySQL 8 gives groups in the order in which it meets them, SQLite sorted by what they are grouped by."""
    block, group = select.meta.get("block"), select.args.get("group")
    if group is None or block is None or not block.sources:
        return
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


def _rewritten(node: exp.Expression) -> exp.Expression:
    """One node as SQLite wants it."""
    if isinstance(node, (*_COMPARISONS, exp.Between)):
        sides = [node.this, *(node.args.get(k) for k in ("expression", "low", "high"))]
        kinds = [kind_of(side) for side in sides if isinstance(side, exp.Expression)]
        if (
            isinstance(node.this, exp.Column)
            and kinds[0] == "text"
            and any(k.split(":")[0] in _NUMERIC for k in kinds[1:])
        ):
            node.set("this", exp.cast(node.this.copy(), "double"))
        every = node.args.get("expression")
        if isinstance(every, (exp.All, exp.Any)):
            _one_for_all(node, every)
    if isinstance(node, (exp.Table, exp.Column)) and node.args.get("db"):
        node.set("db", None)
    if isinstance(node, exp.Left):
        return exp.Substring(this=node.this.copy(), start=exp.Literal.number(1), length=node.expression.copy())
    if isinstance(node, (exp.Sum, exp.Avg)) and kind_of(node.this) == "text":
        node.set("this", exp.cast(node.this.copy(), "double"))
    for kind, form in _CLOCK.items():
        if isinstance(node, kind):
            inner = node.this.this if isinstance(node.this, (exp.TsOrDsToDate, exp.Date)) else node.this
            return exp.cast(exp.Anonymous(this="strftime", expressions=[exp.Literal.string(form), inner.copy()]), "int")
    return node


def _one_for_all(node: exp.Expression, every: exp.Expression) -> None:
    """x > ALL (SELECT y ...) is x > the largest y: SQLite has neither ALL nor ANY."""
    inner = every.this.unnest() if isinstance(every.this, exp.Subquery) else every.this
    larger = isinstance(node, (exp.GT, exp.GTE)) == isinstance(every, exp.All)
    if isinstance(node, (exp.EQ, exp.NEQ)) or not isinstance(inner, exp.Select) or len(inner.expressions) != 1:
        raise SQLError("this world does not understand ALL or ANY here")
    inner = inner.copy()
    wrapped = (exp.Max if larger else exp.Min)(this=inner.expressions[0].unalias())
    inner.set("expressions", [wrapped])
    node.set("expression", exp.Subquery(this=inner))
