"""What Python's strict email policy makes of a mail."""

import email.policy
from email import message_from_bytes
from email.headerregistry import AddressHeader

POLICY = email.policy.strict.clone(utf8=False)


def judged(content: bytes) -> dict:
    """The mail as a reader sees it; anything wrong with it is in `defects`."""
    try:
        return read(content)
    except Exception as error:  # the strict policy raises
        return {"defects": [f"{type(error).__name__}: {error}"]}


def read(content: bytes) -> dict:
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
