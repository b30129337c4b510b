"""Runs SQL of Athena over records of CloudTrail: reads {"table": DDL, "queries": [SQL],
"records": [...]} from standard input and writes the rows of each query, as objects.

Athena's own dialect is what parses, Hive's for the table and Trino's for the queries.
DuckDB runs what sqlglot makes of both. As CloudTrail's tables do, keys are found in any
case, what the table lacks is left out, and an object in a column of text is its JSON.
"""

import json
import sys

import duckdb
import sqlglot
from sqlglot import exp


def main():
    task = json.load(sys.stdin)
    table = sqlglot.parse_one(task["table"], dialect="athena")
    schema = table.this
    columns = {column.name.lower(): column.args["kind"] for column in schema.expressions}
    partitions = [
        column.name.lower()
        for by in table.find_all(exp.PartitionedByProperty)
        for column in by.find_all(exp.ColumnDef)
    ]
    database = duckdb.connect()
    definitions = [f'"{name}" {kind.sql("duckdb")}' for name, kind in columns.items()]
    definitions += [f'"{name}" TEXT' for name in partitions]
    database.execute(f'CREATE TABLE "{schema.this.name}" ({", ".join(definitions)})')
    for record in task["records"]:
        given = {key.lower(): value for key, value in record.items()}
        row = [fit(given.get(name), kind) for name, kind in columns.items()]
        # Of a path .../2026/11/25/, which says the same day as the record.
        row += [record["eventTime"][:10].replace("-", "/") for _ in partitions]
        places = ", ".join("?" for _ in row)
        database.execute(f'INSERT INTO "{schema.this.name}" VALUES ({places})', row)
    print(json.dumps([run(database, query) for query in task["queries"]]))


def fit(value, kind):
    """The value as the column's type has it."""
    if value is None:
        return None
    if kind.is_type("struct"):
        given = {key.lower(): inner for key, inner in value.items()}
        return {
            field.name.lower(): fit(given.get(field.name.lower()), field.args["kind"])
            for field in kind.expressions
        }
    if kind.is_type("array"):
        return [fit(inner, kind.expressions[0]) for inner in value]
    if kind.is_type("map"):
        return value
    return value if isinstance(value, str) else json.dumps(value)


def run(database, query):
    parsed = sqlglot.parse(query, dialect="athena")
    assert len(parsed) == 1, f"{len(parsed)} statements in one block"
    found = database.execute(parsed[0].sql("duckdb"))
    names = [column[0] for column in found.description]
    return [dict(zip(names, row)) for row in found.fetchall()]


main()
