"""Runs the seed's Flask receiver (seed/flask_app.py, as written) on a free port of 127.0.0.1.

Around it stands only what the seed leaves to its reader: the functions its handler calls, and a server.
Secret: INTERACTOR_WEBHOOK_SECRET. First line out: the port. Then whatever the receiver prints, and its calls.
"""

import functools
import pathlib

from werkzeug.serving import make_server

CALLED = [
    "notify_user_to_reconnect",
    "notify_user_of_pending_approval",
    "process_completed_workflow",
    "handle_workflow_failure",
    "forward_message_to_client",
]


def called(name: str, *args: object) -> None:
    print(f"called {name} {args}", flush=True)


path = pathlib.Path(__file__).parent / "seed" / "flask_app.py"
seed: dict = {"__name__": "seed"} | {name: functools.partial(called, name) for name in CALLED}
exec(compile(path.read_text(), str(path), "exec"), seed)

server = make_server("127.0.0.1", 0, seed["app"], threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
