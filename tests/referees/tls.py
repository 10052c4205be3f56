"""A receiver behind TLS on a free port of 127.0.0.1, with the certificate in fixtures/tls, which no authority has signed.

First line out: the port. Answers 200 and prints the path of each request.
"""

import http.server
import pathlib
import ssl


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        print(f"received {self.path}", flush=True)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


folder = pathlib.Path(__file__).parent.parent / "fixtures" / "tls"
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
