"""ONLY_FULL_GROUP_BY: what is selected beside an aggregate must be one value for each group.

A column is, if it is grouped by, is equal to a constant, or follows from such columns by a key or an equality: who
groups by a table's key may select all of that table. The texts are MySQL 8's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sqlglot import exp

from ipr_lite.envs.sql.mysql.schema import Block, SQLError

Place = tuple[str, str]
"""A column of a block: the alias of its source and its name, both in small letters."""


def check_groups(schema: str, node: exp.Select, block: Block, groups: list[exp.Expression]) -> None:
    """Raises SQLError where what is selected or ordered by is not one value for each group, or, with
    DISTINCT, for each row."""
    order = items_of(node, "order")
    clauses = [("SELECT list", node.expressions), ("ORDER BY clause", order)]
    if not groups and not any(a for _, items in clauses for i in items for a in aggregates(i)):
        if node.args.get("distinct"):
            _distinct_order(schema, node, block, order)
        return
    fixed = _determined(node, block, groups)
    aliases = {e.alias.lower(): e.this for e in node.expressions if isinstance(e, exp.Alias)}
    groups = [aliases.get(g.name.lower(), g) if isinstance(g, exp.Column) and not place_of(g) else g for g in groups]
    for clause, items in clauses:
        for number, item in enumerate(items, 1):
            if isinstance(item, exp.Star) or (isinstance(item, exp.Column) and isinstance(item.this, exp.Star)):
                loose = _loose_star(item, block, fixed)
            else:
                loose = next(_loose(item.unalias(), block, fixed, groups), None)
            if loose is None:
                continue
            source = block.source(loose[0])
            name = source.find(loose[1])[0]
            full = f"{schema}.{source.alias}.{name}" if source.table else f"{source.alias}.{name}"
            if not groups:
                raise SQLError(
                    f"In aggregated query without GROUP BY, expression #{number} of {clause} contains nonaggregated "
                    f"column '{full}'; this is incompatible with sql_mode=only_full_group_by"
                )
            raise SQLError(
                f"Expression #{number} of {clause} is not in GROUP BY clause and contains nonaggregated column "
                f"'{full}' which is not functionally dependent on columns in GROUP BY clause; this is incompatible "
                "with sql_mode=only_full_group_by"
            )


def _distinct_order(schema: str, node: exp.Select, block: Block, order: list[exp.Expression]) -> None:
    if any(e.is_star for e in node.expressions):
        return
    shown = {place_of(e.unalias()) for e in node.expressions}
    for number, item in enumerate(order, 1):
        for column in item.find_all(exp.Column):
            place = place_of(column)
            if place and column.meta["block"] is block and place not in shown:
                source = block.source(place[0])
                full = f"{schema}.{source.alias}.{column.meta['name']}"
                raise SQLError(
                    f"Expression #{number} of ORDER BY clause is not in SELECT list, references column '{full}' "
                    "which is not in SELECT list; this is incompatible with DISTINCT"
                )


def aggregates(node: exp.Expression) -> Iterator[exp.Expression]:
    """The aggregates of this block under `node`: not those of subqueries or windows."""
    if isinstance(node, (exp.Select, exp.SetOperation, exp.Subquery, exp.Window)):
        return
    if isinstance(node, exp.AggFunc):
        yield node
    for child in node.iter_expressions():
        yield from aggregates(child)


def _determined(node: exp.Select, block: Block, groups: Iterable[exp.Expression]) -> set[Place]:
    """The columns that have one value for each group: those grouped by, constants, and what keys and
    equalities fix from there."""
    fixed = {place_of(g) for g in groups if place_of(g)}
    equal: list[tuple[Place, Place]] = []
    conditions = [node.args["where"].this] if node.args.get("where") else []
    conditions += [join.args["on"] for join in node.args.get("joins") or () if join.args.get("on")]
    for condition in conditions:
        for part in condition.flatten() if isinstance(condition, exp.And) else [condition]:
            if not isinstance(part, exp.EQ):
                continue
            left, right = place_of(part.left), place_of(part.right)
            if left and right:
                equal += [(left, right), (right, left)]
            elif left and isinstance(part.right, exp.Literal):
                fixed.add(left)
    size = -1
    while len(fixed) != size:
        size = len(fixed)
        fixed |= {b for a, b in equal if a in fixed}
        for source in block.sources:
            alias = source.alias.lower()
            for key in source.table.keys if source.table else ():
                if all((alias, name.lower()) in fixed for name in key):
                    fixed |= {(alias, name.lower()) for name, _ in source.columns}
    return fixed


def _loose(node: exp.Expression, block: Block, fixed: set[Place], groups: list[exp.Expression]) -> Iterator[Place]:
    """The columns of this block under `node` that are neither aggregated nor determined."""
    if node in groups or isinstance(node, exp.AggFunc):
        return
    place = place_of(node)
    if place and node.meta["block"] is block and place not in fixed:
        yield place
    for child in node.iter_expressions():
        yield from _loose(child, block, fixed, groups)


def _loose_star(item: exp.Expression, block: Block, fixed: set[Place]) -> Place | None:
    sources = block.sources if isinstance(item, exp.Star) else [block.source(item.table)]
    places = ((s.alias.lower(), name.lower()) for s in sources for name, _ in s.columns)
    return next((place for place in places if place not in fixed), None)


def items_of(node: exp.Expression, clause: str) -> list[exp.Expression]:
    """What a query's "group" or "order" clause lists, without ASC and DESC; [] where it has none."""
    found = node.args.get(clause)
    return [item.this if isinstance(item, exp.Ordered) else item for item in found.expressions] if found else []


def place_of(node: exp.Expression) -> Place | None:
    """Where a resolved column comes from; None for anything else."""
    return node.meta.get("place") if isinstance(node, exp.Column) else None
