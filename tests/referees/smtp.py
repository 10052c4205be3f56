"""A mail server (aiosmtpd) behind TLS on a free port of 127.0.0.1, with the certificate in fixtures/tls, that wants a login.

SMTP_TLS in the environment: `starttls` or `implicit`. First line out: the port. Then a line of JSON for each mail it took, which says
what Python's strict email policy makes of it: a mail with any defect is reported with `defects`.
"""

import asyncio
import json
import os
import pathlib
import ssl

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

from strict_mail import judged

TLS = os.environ["SMTP_TLS"]


def authenticate(_server, _session, _envelope, _mechanism, data):
    good = isinstance(data, LoginPassword) and data == LoginPassword(b"relay", b"p\xc3\xa4ss w\xc3\xb6rd")
    return AuthResult(success=good, handled=False)


class Handler:
    async def handle_DATA(self, server, session, envelope):
        found = judged(envelope.original_content)
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
