"""Which column a name means, and what MySQL says where it means none.

`resolve` goes over a query as MySQL 8 does when it prepares one: tables first, then block by block
the select list, WHERE, ON, GROUP BY (and its rule, `sql_groups.py`), HAVING, ORDER BY. The first fault raises; the
texts are MySQL's. On the way every expression learns its kind (`sql_schema.Column.kind`), which decides how its values print.
"""

from __future__ import annotations

from sqlglot import exp

from ipr_lite.envs.sql.mysql.groups import aggregates, check_groups, items_of, place_of
from ipr_lite.envs.sql.mysql.kinds import common_kind, kind_of
from ipr_lite.envs.sql.mysql.schema import NOT_YET, TOO_LONG, Block, Schema, Source, SQLError

WIDEST = 200
LARGEST = 10_000


class Resolver:
    """Resolves the queries of one schema."""

    def __init__(self, schema: Schema):
        self.schema = schema

    def resolve(self, tree: exp.Expression) -> list[tuple[str, str]]:
        """The output columns, (name, kind) each. Raises SQLError with MySQL's text."""
        if any(e.args.get("query") and e.args["query"].unnest().args.get("limit") for e in tree.find_all(exp.In)):
            raise SQLError("This version of MySQL doesn't yet support 'LIMIT & IN/ALL/ANY/SOME subquery'")
        if _written_out(tree, {})[0] > LARGEST:
            raise SQLError(TOO_LONG)
        known = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
        for table in tree.find_all(exp.Table, bfs=False):
            self._open(table, known)
        return self._query(tree, None, {})

    def _open(self, table: exp.Table, known: set[str]) -> None:
        database = table.text("db")
        if database.lower() == "information_schema":
            if not self.schema.information(table.name):
                raise SQLError(f"Unknown table '{table.name.upper()}' in information_schema")
            return
        if database and database.lower() != self.schema.name.lower():
            raise SQLError(f"Unknown database '{database}'")
        if not (table.name.lower() in known and not database) and self.schema.table(table.name) is None:
            raise SQLError(f"Table '{self.schema.name}.{table.name.lower()}' doesn't exist")

    # --- queries ----------------------------------------------------------------------------------

    def _query(self, node: exp.Expression, outer: Block | None, ctes: dict) -> list[tuple[str, str]]:
        if isinstance(node, exp.Subquery):
            return self._query(node.this, outer, ctes)
        for cte in node.ctes if hasattr(node, "ctes") else ():
            ctes = {**ctes, cte.alias.lower(): _renamed(self._query(cte.this, None, ctes), cte)}
        if isinstance(node, exp.SetOperation):
            left, right = self._query(node.left, outer, ctes), self._query(node.right, outer, ctes)
            if len(left) != len(right):
                raise SQLError("The used SELECT statements have a different number of columns")
            union = Block(outer, [Source("", left)])
            for item in items_of(node, "order"):
                self._expression(item, union, "order clause", ctes)
            return [(name, common_kind([kind, other])) for (name, kind), (_, other) in zip(left, right, strict=True)]
        if not isinstance(node, exp.Select):
            raise SQLError(NOT_YET.format(node.key.upper()))
        return self._select(node, outer, ctes)

    def _select(self, node: exp.Select, outer: Block | None, ctes: dict) -> list[tuple[str, str]]:
        block = Block(outer)
        joins = node.args.get("joins") or []
        start = node.args.get("from_")
        for item in ([start.this] if start else []) + [join.this for join in joins]:
            self._add_source(item, block, ctes)
        for join in joins:
            block.merged.update(name.name.lower() for name in join.args.get("using") or ())
            if str(join.args.get("method") or "").upper() == "NATURAL":
                block.merged.update(name.lower() for s in block.sources for name, _ in s.columns)
        outputs = self._select_list(node, block, ctes)
        if where := node.args.get("where"):
            self._expression(where.this, block, "where clause", ctes)
            if any(aggregates(where.this)):
                raise SQLError("Invalid use of group function")
        for join in reversed(joins):  # MySQL's list of joins has the last one first
            if on := join.args.get("on"):
                self._expression(on, block, "on clause", ctes)
        node.meta["block"] = block
        groups = []
        for item in items_of(node, "group"):
            groups.append(self._position(item, node, "group statement"))
            if groups[-1] is item:  # what is selected has been resolved
                self._expression(item, block, "group statement", ctes, names=True)
        if having := node.args.get("having"):
            self._having(having.this, node, block, groups, ctes)
        for item in items_of(node, "order"):
            if self._position(item, node, "order clause") is item:
                self._expression(item, block, "order clause", ctes, names=True)
        check_groups(self.schema.name, node, block, groups)
        return outputs

    def _add_source(self, item: exp.Expression, block: Block, ctes: dict) -> None:
        alias = item.alias_or_name
        if isinstance(item, exp.Table):
            table = self.schema.table(item.name)
            if item.text("db").lower() == "information_schema":
                table, _ = self.schema.information(item.name)
            if not item.text("db") and item.name.lower() in ctes:
                source = Source(alias, ctes[item.name.lower()])
            else:
                source = Source(alias, [(c.name, c.kind) for c in table.columns], table)
        else:
            if not item.alias:
                raise SQLError("Every derived table must have its own alias")
            source = Source(alias, _renamed(self._query(item, None, ctes), item))
        if block.source(alias):
            raise SQLError(f"Not unique table/alias: '{alias}'")
        block.sources.append(source)
        for join in item.args.get("joins") or ():  # FROM a, (b JOIN c)
            self._add_source(join.this, block, ctes)

    def _select_list(self, node: exp.Select, block: Block, ctes: dict) -> list[tuple[str, str]]:
        outputs: list[tuple[str, str]] = []
        for item in node.expressions:
            if isinstance(item, exp.Star):
                if not block.sources:
                    raise SQLError("No tables used")
                everything = [column for source in block.sources for column in source.columns]
                once: set[str] = set()  # what USING or NATURAL JOIN made one column of
                for name, kind in everything:
                    if name.lower() not in once:
                        outputs.append((name, kind))
                        once |= {name.lower()} & block.merged
            elif isinstance(item, exp.Column) and isinstance(item.this, exp.Star):
                source = block.source(item.table)
                if source is None:
                    raise SQLError(f"Unknown table '{item.table}'")
                outputs += source.columns
            else:
                self._expression(item, block, "field list", ctes)
                outputs.append((item.alias_or_name or item.sql("mysql"), kind_of(item)))
                block.names[outputs[-1][0].lower()] = outputs[-1][1]
            if len(outputs) > WIDEST:
                raise SQLError("Too many columns")
        return outputs

    def _position(self, item: exp.Expression, node: exp.Select, where: str) -> exp.Expression:
        """GROUP BY 2 and ORDER BY 2 mean the second column selected."""
        if isinstance(item, exp.Literal) and not item.is_string:
            number = int(item.this) if item.this.isdigit() else 0
            starred = any(e.is_star for e in node.expressions)
            if not starred and not 1 <= number <= len(node.expressions):
                raise SQLError(f"Unknown column '{item.this}' in '{where}'")
            return item if starred else node.expressions[number - 1].unalias()
        return item

    def _having(self, node: exp.Expression, select: exp.Select, block: Block, groups: list, ctes: dict) -> None:
        """HAVING knows what is selected and grouped by; inside an aggregate, every column."""
        self._expression(node, block, "having clause", ctes, names=True)
        shown = {place_of(e) for item in (*select.expressions, *groups) for e in item.find_all(exp.Column)}
        starred = any(e.is_star for e in select.expressions)
        for column in node.find_all(exp.Column):
            bare = place_of(column) is not None and column.meta["block"] is block
            inside = column.find_ancestor(exp.AggFunc, exp.Select)
            if bare and not starred and place_of(column) not in shown and not isinstance(inside, exp.AggFunc):
                raise SQLError(f"Unknown column '{_written(column)}' in 'having clause'")

    # --- expressions ------------------------------------------------------------------------------

    def _expression(self, node: exp.Expression, block: Block, where: str, ctes: dict, names: bool = False) -> None:
        """Resolves every column under `node`; `names`: the select list's aliases count too."""
        if isinstance(node, exp.Column):
            self._column(node, block, where, names)
        elif isinstance(node, (exp.Select, exp.SetOperation, exp.Subquery)):
            outputs = self._query(node, block, ctes)
            if len(outputs) != 1 and not isinstance(node.parent, (exp.Exists, exp.In)):
                raise SQLError("Operand should contain 1 column(s)")
            node.meta["kind"] = outputs[0][1]
        elif isinstance(node, exp.In) and node.args.get("query"):
            self._expression(node.this, block, "IN/ALL/ANY subquery", ctes, names)
            inner = node.args["query"].unnest()
            wanted = len(node.this.expressions) if isinstance(node.this, exp.Tuple) else 1
            if len(self._query(inner, block, ctes)) != wanted:
                raise SQLError(f"Operand should contain {wanted} column(s)")
        else:
            for child in node.iter_expressions():
                self._expression(child, block, where, ctes, names)

    def _column(self, column: exp.Column, block: Block, where: str, names: bool) -> None:
        if isinstance(column.this, exp.Star):
            return
        wanted, qualifier = column.name, column.table
        if names and not qualifier and where in ("order clause", "having clause") and wanted.lower() in block.names:
            column.meta["kind"] = block.names[wanted.lower()]
            return
        around: Block | None = block
        while around is not None:
            sources = [s for s in around.sources if not qualifier or s.alias.lower() == qualifier.lower()]
            found = [(s, c) for s in sources if (c := s.find(wanted))]
            if len(found) > 1 and not qualifier and wanted.lower() not in around.merged:
                raise SQLError(f"Column '{wanted}' in {where} is ambiguous")
            if found:
                source, (name, kind) = found[0]
                column.meta.update(kind=kind, block=around, place=(source.alias.lower(), name.lower()), name=name)
                column.meta["table"] = source.table.name.lower() if source.table else ""
                return
            around = around.outer
        if names and not qualifier and wanted.lower() in block.names:
            column.meta["kind"] = block.names[wanted.lower()]
            return
        raise SQLError(f"Unknown column '{_written(column)}' in '{where}'")


def _renamed(columns: list[tuple[str, str]], item: exp.Expression) -> list[tuple[str, str]]:
    """The columns under the names that `AS t (a, b)` gives them, where it does."""
    alias = item.args.get("alias")
    names = [c.name for c in alias.args.get("columns") or ()] if isinstance(alias, exp.TableAlias) else []
    return [(name, kind) for name, (_, kind) in zip(names, columns, strict=False)] if names else columns


def _written_out(query: exp.Expression, ctes: dict[str, tuple[int, int]], column: int = 1) -> tuple[int, int]:
    """How many nodes a query has, and its widest column, when each CTE stands where it is named and each
    column of a derived table as what it is made of: so large does SQLite make it before it looks at a budget.

    column: the most nodes that a column of the blocks around may stand for.
    """
    for cte in query.args["with_"].expressions if query.args.get("with_") else ():
        ctes = {**ctes, cte.alias.lower(): _written_out(cte.this, ctes)}
    start = [query.args["from_"].this] if query.args.get("from_") else []
    sources = [*start, *(join.this for join in query.args.get("joins") or ())]
    if not isinstance(query, exp.Select):  # UNION, parentheses
        sources = [query.this, *sources, *([query.expression] if query.args.get("expression") else [])]
    found = [_written_out(s, ctes) for s in sources if isinstance(s, exp.Query)]
    found += [
        ctes.get(t.name.lower(), (1, 1)) for s in sources for t in s.find_all(exp.Table) if not isinstance(s, exp.Query)
    ]
    column = max([column, *(width for _, width in found)])
    items = [_nodes(item, ctes, column) for item in query.expressions]
    rest = (query.args.get(key) for key in ("where", "group", "having", "order"))
    size = sum(size for size, _ in found) + sum(items) + sum(_nodes(part, ctes, column) for part in rest if part)
    on = [_nodes(join.args["on"], ctes, column) for join in query.args.get("joins") or () if join.args.get("on")]
    return 1 + size + sum(on), max(items, default=column)


def _nodes(node: exp.Expression, ctes: dict[str, tuple[int, int]], column: int) -> int:
    if isinstance(node, (exp.Column, exp.Star)):
        return column
    if isinstance(node, exp.Query):
        return _written_out(node, ctes, column)[0]
    return 1 + sum(_nodes(child, ctes, column) for child in node.iter_expressions())


def _written(column: exp.Column) -> str:
    return ".".join(part.name for part in column.parts)
