"""PyPI `standardwebhooks` verifies requests as they were received.

Standard input: a JSON list of {"headers": {name: value}, "body": base64, "secret": text}.
Standard output: a JSON list with null for each that verifies, else what the library said.
"""

import base64
import json
import sys

from standardwebhooks.webhooks import Webhook


def verdict(request: dict) -> str | None:
    try:
        Webhook(request["secret"]).verify(base64.b64decode(request["body"]), request["headers"])
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


json.dump([verdict(request) for request in json.load(sys.stdin)], sys.stdout)
