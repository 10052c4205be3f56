"""Judges instances by a JSON Schema: reads a list from stdin, the first item {"schema": ...}, the others {"instance": ...}.

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


for request in requests[1:]:
    verdicts.append([said(error) for error in validator.iter_errors(request["instance"])])
json.dump(verdicts, sys.stdout)
