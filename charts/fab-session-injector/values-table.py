#!/usr/bin/env python3
"""Writes the table of values in README.md: descriptions from the schema, defaults from values.yaml."""

import json
import pathlib

import yaml  # PyYAML

CHART = pathlib.Path(__file__).parent
BEGIN, END = "<!-- values: begin -->\n", "<!-- values: end -->\n"


def rows(schema, values, key=""):
    for name, child in schema["properties"].items():
        path = f"{key}.{name}" if key else name
        # The parts of a component have no value of their own, but a default.
        value = values.get(name, child.get("default"))
        if name == "global":
            continue
        if path == "config.components":
            names = ", ".join(f"`{component['name']}`" for component in value)
            yield path, names, child["description"]
            yield from rows(child["items"], {}, f"{path}[]")
        elif value and "properties" in child:
            if "null" in child["type"]:
                yield path, "as below", child["description"]
            yield from rows(child, value, path)
        else:
            yield path, "" if value is None else f"`{json.dumps(value)}`", child["description"]


def main():
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    lines = [f"| `{path}` | {shown} | {text} |" for path, shown, text in rows(schema, values)]
    table = "\n".join(["| key | default | description |", "| --- | --- | --- |", *lines]) + "\n"
    readme = CHART / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    _, after = rest.split(END)
    readme.write_text(before + BEGIN + table + END + after)


if __name__ == "__main__":
    main()
