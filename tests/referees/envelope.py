"""PyPI `cloudevents` reads requests as they were received: by the HTTP binding where their media type says that they are
CloudEvents, else by the JSON format alone.

Standard input: a JSON list of {"headers": {name: value}, "body": base64}.
Standard output: a JSON list with {"attributes": …, "data": …} for each, or {"error": …}.
"""

import base64
import json
import sys

from cloudevents.core.bindings.http import HTTPMessage, from_http_event, from_structured_event


def reading(request: dict) -> dict:
    try:
        message = HTTPMessage(headers=request["headers"], body=base64.b64decode(request["body"]))
        says_so = request["headers"].get("content-type", "").startswith("application/cloudevents")
        event = from_http_event(message) if says_so else from_structured_event(message)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    attributes = {name: str(value) for name, value in event.get_attributes().items()}
    return {"attributes": attributes, "data": event.get_data()}


json.dump([reading(request) for request in json.load(sys.stdin)], sys.stdout)
