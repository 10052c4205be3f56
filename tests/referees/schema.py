"""Judges instances by a JSON Schema. Reads a list from stdin, the first item {"schema": ...}, the others {"instance": ...};
with {"at": "/properties/..."} too, by that part of the schema.

Answers each with what is wrong: a list of "path: message", empty for what is right. The schema itself is held to draft 7.
"""

import json
import sys

from jsonschema import Draft7Validator, SchemaError

requests = json.load(sys.stdin)
schema = requests[0]["schema"]
try:
    Draft7Validator.check_schema(schema)
    verdicts = [[]]
except SchemaError as error:
    verdicts = [[error.message]]
validator = Draft7Validator(schema)


def said(error):
    return f"{'.'.join(str(step) for step in error.absolute_path)}: {error.message[:300]}"


def part(pointer):
    found = schema
    for step in pointer.split("/")[1:]:
        found = found[int(step)] if isinstance(found, list) else found[step.replace("~1", "/").replace("~0", "~")]
    return found


for request in requests[1:]:
    judge = validator.evolve(schema=part(request.get("at", "")))
    verdicts.append([said(error) for error in judge.iter_errors(request["instance"])])
json.dump(verdicts, sys.stdout)
