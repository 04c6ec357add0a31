"""How hard a query is, in Spider's four levels: what the forms of `ipr_lite/envs/sql/questions.py` say they are."""

from __future__ import annotations

import sqlglot
from sqlglot import exp


def hardness(query: str) -> str:
    """Spider's level of a query (Yu et al. 2018, `evaluation.py`): counts of clauses, of whatever comes
    twice, and of nested or joined queries."""
    tree = sqlglot.parse_one(query, read="mysql")
    select = tree
    while isinstance(select, (exp.SetOperation, exp.Subquery)):
        select = select.this
    joins, where = select.args.get("joins") or [], select.args.get("where")
    having, group, order = (select.args.get(name) for name in ("having", "group", "order"))
    conditions = [clause.this for clause in (where, having) if clause] + [
        j.args["on"] for j in joins if j.args.get("on")
    ]
    ors = sum(len(_outside(c, exp.Or)) for c in conditions)
    likes = sum(len(_outside(c, exp.Like)) for c in conditions)
    clauses = sum(map(bool, (where, group, order, select.args.get("limit")))) + len(joins) + ors + likes
    nested = len(list(tree.find_all(exp.SetOperation)))
    nested += sum(1 for c in conditions for s in c.find_all(exp.Select) if s.find_ancestor(exp.Select) is select)
    aggregates = sum(len(_outside(e, exp.AggFunc)) for e in select.expressions)
    aggregates += sum(len(_outside(c, exp.AggFunc)) for c in (having, order, group, where) if c)
    parts = len(_outside(where.this, exp.Connector)) + 1 if where else 0
    groups = len(group.expressions) if group else 0
    others = (aggregates > 1) + (len(select.expressions) > 1) + (parts > 1) + (groups > 1)
    if clauses <= 1 and others == 0 and nested == 0:
        return "easy"
    if nested == 0 and ((others <= 2 and clauses <= 1) or (clauses <= 2 and others < 2)):
        return "medium"
    if nested == 0 and ((others > 2 and clauses <= 2) or (2 < clauses <= 3 and others <= 2)):
        return "hard"
    if clauses <= 1 and others == 0 and nested <= 1:
        return "hard"
    return "extra"


def _outside(node: exp.Expression, kind: type) -> list[exp.Expression]:
    """Nodes of a kind under `node`, those of subqueries left out."""
    if isinstance(node, (exp.Subquery, exp.Select)):
        return []
    found = [node] if isinstance(node, kind) else []
    return found + [n for child in node.iter_expressions() for n in _outside(child, kind)]
