"""Holds a running relay to its OpenAPI document: openapi-spec-validator on the document, schemathesis over every operation.

Takes [{"url", "token", "known": {<beginning of paths>: [<ids>]}}] and answers [{"status", "said", "operations", "tested", "never_succeeded"}].

What schemathesis is given is the relay's document made stricter: objects in answers are closed, so that a field nobody documents fails.
Streams and requests that wait are bounded (`bounded`). Ids in paths are half the time ones that are there (`known`), else made up. The seed is fixed.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from openapi_spec_validator import validate

SEED = 20260120
# What schemathesis may make of an operation at most, beside the cases that it enumerates.
EXAMPLES = 8
# Operations whose bodies name things that must be there, or fit one another, as no schema can say: their valid data may be refused.
MEANING_DECIDES = [
    ("POST", "/api/v1/explain"),
    ("POST", "/api/v1/mutes"),
    ("POST", "/api/v1/erasures"),
    ("POST", "/api/v1/replays"),
    ("POST", "/api/v1/tokens"),
    ("POST", "/api/v1/webhooks"),
    ("PUT", "/api/v1/webhooks/{id}"),
    ("PATCH", "/api/v1/webhooks/{id}"),
    ("POST", "/api/v1/webhooks/{id}/test"),
    ("POST", "/api/webhooks"),
    ("GET", "/api/v1/webhooks/samples"),
    ("POST", "/api/v1/secrets/rekey"),
    ("GET", "/api/v1/deliveries"),
    ("GET", "/api/v1/events"),
    ("POST", "/api/sse-token"),
]


def merged(schema, schemas):
    """An `allOf` of objects as one object."""
    if "$ref" in schema:
        return merged(schemas[schema["$ref"].rsplit("/", 1)[1]], schemas)
    parts = [merged(part, schemas) for part in schema.get("allOf", [])] + [schema]
    properties = {name: value for part in parts for name, value in part.get("properties", {}).items()}
    required = [name for part in parts for name in part.get("required", [])]
    return {"type": "object", "properties": properties, "required": required}


def closed(schema, schemas):
    """`schema` whose objects have no other fields than those that are listed."""
    if isinstance(schema, list):
        return [closed(item, schemas) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "allOf" in schema:
        schema = merged(schema, schemas)
    schema = {key: closed(value, schemas) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        schema["additionalProperties"] = False
    return schema


def stricter(document):
    components = document["components"]
    schemas = {name: closed(schema, components["schemas"]) for name, schema in components["schemas"].items()}
    return bounded({**document, "components": {**components, "schemas": schemas}})


def bounded(document):
    """What would wait, does not: a stream begins at the oldest event, without filters, and ends after a few; no list is asked to `wait`.

    Filters that fit nothing would hold each call as long as it may last. Tests of their own (`follow.rs`, `stream.rs`) wait.
    """
    document = json.loads(json.dumps(document))
    stream = document["paths"]["/api/v1/stream"]["get"]
    stream["parameters"] = [it for it in stream["parameters"] if it["name"] == "after"]
    events = document["paths"]["/api/v1/events"]["get"]
    events["parameters"] = [it for it in events["parameters"] if it["name"] != "wait"]
    return document


def quoted(value):
    return json.dumps(value)


def config(document, asked, folder):
    """schemathesis.toml: ids that are there, and which valid data may be refused."""
    lines = [f"seed = {SEED}", "workers = 1", "continue-on-failure = true", 'request-timeout = 20', ""]
    lines += ["[generation]", 'database = "none"', f"max-examples = {EXAMPLES}", "no-shrink = true", ""]
    lines += ["[auth.openapi.token]", f"bearer = {quoted(asked['token'])}", ""]
    lines += ["[checks]", "positive_data_acceptance.expected-statuses = [\"2xx\", 404, 409]"]
    lines += ["negative_data_rejection.expected-statuses = [400, 401, 404, 409, 413, 422]", ""]
    for number, ids in enumerate(asked["known"].values()):
        lines += [f"[dictionaries.known{number}]", f"values = {quoted(ids)}", ""]
    for path, item in document["paths"].items():
        for method in item:
            block = []
            for number, beginning in enumerate(asked["known"]):
                name = re.search(r"\{(\w+)\}", path)
                if name and path.startswith(beginning + "/"):
                    block = ["[operations.parameters]"]
                    block += [f"\"path.{name[1]}\" = {{ dictionary = \"known{number}\", probability = 0.6 }}"]
                    break
            if path == "/api/v1/stream":
                lines += ["[[operations]]", 'include-path = "/api/v1/stream"', "max-stream-events = 3"]
                lines += ["[operations.parameters]", '"query.after" = "0"', ""]
            if (method.upper(), path) in MEANING_DECIDES:
                block += ["[operations.checks]", 'positive_data_acceptance.expected-statuses = ["2xx", 400, 404, 409]']
            if block:
                lines += ["[[operations]]", f"include-name = {quoted(method.upper() + ' ' + path)}", *block, ""]
    (folder / "schemathesis.toml").write_text("\n".join(lines))


def never_succeeded(document, report):
    """The operations of which no call was answered by 2xx."""
    never = {f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item}
    with report.open() as lines:
        for scenario in filter(None, (json.loads(line).get("ScenarioFinished") for line in lines)):
            recorder = scenario["recorder"]
            answers = (interaction["response"] or {} for interaction in recorder.get("interactions", {}).values())
            if any(200 <= int(answer.get("status_code", 0)) < 300 for answer in answers):
                never.discard(recorder["label"])
    return sorted(never)


def judge(asked):
    with urllib.request.urlopen(asked["url"] + "/api/openapi.json") as answer:
        document = json.load(answer)
    validate(document)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "openapi.json").write_text(json.dumps(stricter(document)))
        config(document, asked, folder)
        report = folder / "report.ndjson"
        command = [Path(sys.executable).with_name("schemathesis"), "--config-file", folder / "schemathesis.toml", "run"]
        command += [folder / "openapi.json", "--url", asked["url"], "--report", "ndjson", "--report-ndjson-path", report]
        command += ["--checks", "all", "--no-color", "--warnings", "off"]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
        if keep := os.environ.get("HOOKYARD_SCHEMATHESIS"):
            subprocess.run(["cp", "-r", f"{folder}/.", keep], check=True)
            (Path(keep) / "said.txt").write_text(done.stdout)
        tested = re.search(r"Tested: +(\d+)", done.stdout)
        return {
            "status": done.returncode,
            "said": done.stdout[-20000:],
            "operations": sum(len(item) for item in document["paths"].values()),
            "tested": int(tested[1]) if tested else 0,
            "never_succeeded": never_succeeded(document, report),
        }


if __name__ == "__main__":
    print(json.dumps([judge(asked) for asked in json.load(sys.stdin)]))
