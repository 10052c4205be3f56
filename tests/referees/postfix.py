"""Debian's postfix on a free port of 127.0.0.1, with the certificate in fixtures/tls, that relays for whom it has a login of.

SMTP_TLS in the environment: `starttls` or `implicit`. First line out: the port. Then a line of JSON for each mail that postfix passed
on to the server behind it: what Python's strict email policy makes of it, and what postfix wrote of its sender into `Received`.
Needs root: postfix drops it itself. Everything it writes lies in a temporary folder, and it ends with this script.
"""

import asyncio
import email
import json
import os
import pathlib
import pwd
import socket
import subprocess
import sys
import tempfile

from aiosmtpd.smtp import SMTP

from strict_mail import judged

IMPLICIT = os.environ["SMTP_TLS"] == "implicit"
PROGRAMS = pathlib.Path("/usr/lib/postfix/sbin")
FIXTURES = pathlib.Path(__file__).parent.parent / "fixtures" / "tls"
READY = 30  # seconds

MAIN = """
compatibility_level = 3.6
myhostname = mail.test
mydestination =
mynetworks =
alias_maps =
inet_protocols = ipv4
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
relayhost = [127.0.0.1]:{behind}
smtp_tls_security_level = none
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_client_restrictions = permit_sasl_authenticated, reject
smtpd_sasl_auth_enable = yes
smtpd_sasl_path = smtpd
smtpd_sasl_local_domain = mail.test
smtpd_sasl_authenticated_header = yes
smtpd_tls_security_level = encrypt
smtpd_tls_auth_only = yes
smtpd_tls_wrappermode = {wrapped}
smtpd_tls_received_header = yes
smtpd_tls_cert_file = {fixtures}/ca.pem
smtpd_tls_key_file = {fixtures}/key.pem
"""

# Nothing runs in a chroot, which would have to be filled.
MASTER = """
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""

SASL = """
pwcheck_method: auxprop
auxprop_plugin: sasldb
sasldb_path: {folder}/sasldb
mech_list: PLAIN LOGIN
"""


class Behind:
    """The server that postfix hands its mails to."""

    async def handle_DATA(self, server, session, envelope):
        found = judged(envelope.original_content)
        received = email.message_from_bytes(envelope.original_content)["Received"] or ""
        found |= {
            # Postfix sorts them as it likes.
            "rcpt": sorted(envelope.rcpt_tos),
            "authenticated": "Authenticated sender: relay@mail.test" in received,
            "tls": "using TLSv1" in received and "with ESMTPSA" in received,
        }
        print(json.dumps(found), flush=True)
        return "250 2.0.0 taken"


def free_port() -> int:
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def set_up(folder: pathlib.Path, port: int, behind: int) -> None:
    values = {"folder": folder, "port": port, "behind": behind, "fixtures": FIXTURES, "wrapped": "yes" if IMPLICIT else "no"}
    postfix = pwd.getpwnam("postfix")
    folder.chmod(0o755)
    for name in ["etc", "etc/sasl", "queue", "data"]:
        (folder / name).mkdir()
    os.chown(folder / "data", postfix.pw_uid, postfix.pw_gid)
    (folder / "etc" / "main.cf").write_text(MAIN.format(**values))
    (folder / "etc" / "master.cf").write_text(MASTER.format(**values))
    # Where Debian's postfix looks, whatever `cyrus_sasl_config_path` says.
    (folder / "etc" / "sasl" / "smtpd.conf").write_text(SASL.format(**values))
    login = ["saslpasswd2", "-p", "-c", "-f", folder / "sasldb", "-u", "mail.test", "relay"]
    subprocess.run(login, input="päss wörd".encode(), check=True)
    os.chown(folder / "sasldb", postfix.pw_uid, postfix.pw_gid)
    # Makes the folders of the queue.
    subprocess.run(["postfix", "-c", folder / "etc", "check"], check=True, stderr=subprocess.DEVNULL)


def tidy_afterwards(master: subprocess.Popen, folder: pathlib.Path) -> None:
    """However this script ends, its end of a pipe closes: then postfix is stopped and its folder goes."""
    script = 'read -r _; kill "$1"; sleep 1; rm -rf "$2"'
    command = ["sh", "-c", script, "tidy", str(master.pid), folder]
    # Kept from being collected, which would close it.
    tidy_afterwards.pipe = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


async def listens(port: int) -> bool:
    try:
        (await asyncio.open_connection("127.0.0.1", port))[1].close()
    except OSError:
        return False
    return True


async def main() -> None:
    behind = await asyncio.get_running_loop().create_server(
        lambda: SMTP(Behind(), hostname="behind.test", enable_SMTPUTF8=True), "127.0.0.1", 0
    )
    folder = pathlib.Path(tempfile.mkdtemp(prefix="hookyard-postfix-"))
    port = free_port()
    set_up(folder, port, behind.sockets[0].getsockname()[1])
    master = subprocess.Popen([PROGRAMS / "master", "-s", "-c", folder / "etc"])
    tidy_afterwards(master, folder)
    for _ in range(READY * 10):
        if await listens(port):
            break
        if master.poll() is not None:
            break
        await asyncio.sleep(0.1)
    else:
        master.kill()
    if master.poll() is not None:
        log = folder / "log"
        sys.exit(f"postfix does not start: {log.read_text() if log.exists() else master.returncode}")
    print(port, flush=True)
    await behind.serve_forever()


asyncio.run(main())
