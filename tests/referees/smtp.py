"""A mail server (aiosmtpd) behind TLS on a free port of 127.0.0.1, with the certificate in fixtures/tls, that wants a login.

SMTP_TLS in the environment: `starttls` or `implicit`. First line out: the port. Then a line of JSON for each mail it took, which says
what Python's strict email policy makes of it: a mail with any defect is reported with `defects`.
"""

import asyncio
import email.policy
import json
import os
import pathlib
import ssl
from email import message_from_bytes
from email.headerregistry import AddressHeader

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

TLS = os.environ["SMTP_TLS"]
POLICY = email.policy.strict.clone(utf8=False)


def authenticate(_server, _session, _envelope, _mechanism, data):
    good = isinstance(data, LoginPassword) and data == LoginPassword(b"relay", b"p\xc3\xa4ss w\xc3\xb6rd")
    return AuthResult(success=good, handled=False)


def judged(content: bytes) -> dict:
    lines = content.split(b"\r\n")
    message = message_from_bytes(content, policy=POLICY)
    parts = [part for part in message.walk() if not part.is_multipart()]
    defects = [str(defect) for part in message.walk() for defect in part.defects]
    for name, value in message.items():
        defects += [f"{name}: {defect}" for defect in value.defects]
    if any(998 < len(line) for line in lines) or b"\n" in content.replace(b"\r\n", b"") or b"\r" in content.replace(b"\r\n", b""):
        defects.append("a line too long, or a bare CR or LF")
    to = message["to"]
    assert isinstance(to, AddressHeader)
    return {
        "headers": sorted({name.lower() for name in message.keys()}),
        "repeated": len(message.keys()) - len({name.lower() for name in message.keys()}),
        "subject": str(message["subject"]),
        "from": str(message["from"]),
        "to": [[address.display_name, address.addr_spec] for address in to.addresses],
        "date": message["date"].datetime.isoformat(),
        "message_id": str(message["message-id"]),
        "types": [part.get_content_type() for part in parts],
        "bodies": [part.get_content() for part in parts],
        "defects": defects,
    }


class Handler:
    async def handle_DATA(self, server, session, envelope):
        try:
            found = judged(envelope.original_content)
        except Exception as error:  # the strict policy raises
            found = {"defects": [f"{type(error).__name__}: {error}"]}
        found |= {"rcpt": envelope.rcpt_tos, "authenticated": session.authenticated, "tls": session.ssl is not None or TLS == "implicit"}
        print(json.dumps(found), flush=True)
        return "250 2.0.0 taken"


async def main() -> None:
    folder = pathlib.Path(__file__).parent.parent / "fixtures" / "tls"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    implicit = TLS == "implicit"

    def server() -> SMTP:
        return SMTP(
            Handler(),
            hostname="mail.test",
            authenticator=authenticate,
            auth_required=True,
            auth_require_tls=not implicit,
            require_starttls=not implicit,
            tls_context=None if implicit else context,
            enable_SMTPUTF8=True,
        )

    listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0, ssl=context if implicit else None)
    print(listening.sockets[0].getsockname()[1], flush=True)
    await listening.serve_forever()


asyncio.run(main())
