"""PyPI `slack-sdk` reads messages as its block models do, and checks Slack's limits: its own validators, and those that it only knows as
numbers (text objects, fields, the number of blocks).

Standard input: a JSON list of {"text": …, "color": …, "blocks": […]}.
Standard output: a JSON list with {"ok": true, "characters": …} for each, or {"error": …}.
"""

import json
import re
import sys

from slack_sdk.models.attachments import BlockAttachment
from slack_sdk.models.blocks import (
    ActionsBlock,
    Block,
    ButtonElement,
    ContextBlock,
    HeaderBlock,
    MarkdownTextObject,
    PlainTextObject,
    SectionBlock,
)

# Slack's reference: a message has at most 50 blocks; a field of a section 2,000 characters, an element of a context likewise.
BLOCKS_MAX, FIELD_MAX, CONTEXT_MAX = 50, 2000, 2000
# Together about 13,000 characters are refused as `msg_blocks_too_long`.
ALL_MAX = 12_000
KNOWN = (SectionBlock, HeaderBlock, ActionsBlock, ContextBlock)
# What means something to Slack: `<…>`, and `&` that begins no entity.
MARKUP = re.compile(r"<[^>]*>|<|>|&(?!amp;|lt;|gt;)")
# Begins the line of a quote, which is markup we mean.
QUOTE = re.compile(r"^> ", re.MULTILINE)


def texts(block: Block) -> list:
    """The text objects of a block, with the most characters each may have."""
    if isinstance(block, HeaderBlock):
        return [(block.text, HeaderBlock.text_max_length)]
    if isinstance(block, SectionBlock):
        return [(block.text, SectionBlock.text_max_length)] * bool(block.text) + [(field, FIELD_MAX) for field in block.fields or []]
    if isinstance(block, ContextBlock):
        return [(element, CONTEXT_MAX) for element in block.elements]
    return [(element.text, ButtonElement.text_max_length) for element in block.elements]


def check(block: Block, given: dict) -> int:
    assert isinstance(block, KNOWN), f"unknown block {given}"
    block.validate_json()
    if isinstance(block, ActionsBlock):
        for element in block.elements:
            assert isinstance(element, ButtonElement), given
            element.validate_json()
            assert element.url.startswith("https://"), given
    # What the models do not know they drop: nothing may be dropped.
    dropped = without_ids(block.to_dict())
    assert dropped == without_ids(given), f"{dropped} is not {given}"
    length = 0
    for text, most in texts(block):
        assert isinstance(text, (MarkdownTextObject, PlainTextObject)), given
        assert 0 < len(text.text) <= most, f"{len(text.text)} characters of {most}: {given}"
        markup = MARKUP.search(QUOTE.sub("", text.text))
        assert markup is None, f"{markup}: {given}"
        if isinstance(text, MarkdownTextObject):
            assert text.verbatim is True, given
        length += len(text.text)
    return length


def without_ids(value):
    """Ids that the SDK makes up are no difference."""
    if isinstance(value, dict):
        return {key: without_ids(item) for key, item in value.items() if key not in ("action_id", "block_id")}
    return [without_ids(item) for item in value] if isinstance(value, list) else value


def verdict(message: dict) -> dict:
    try:
        assert 0 < len(message["text"]) <= 4000, "text"
        assert MARKUP.search(message["text"]) is None, f"markup in {message['text']}"
        assert message["color"] is None or re.fullmatch("#[0-9a-f]{6}", message["color"]), message["color"]
        assert 0 < len(message["blocks"]) <= BLOCKS_MAX, "blocks"
        BlockAttachment(blocks=Block.parse_all(message["blocks"]), color=message["color"]).validate_json()
        characters = sum(check(Block.parse(dict(block)), block) for block in message["blocks"])
        assert characters <= ALL_MAX, f"{characters} characters in all"
    except Exception as error:  # the test shows it
        return {"error": f"{type(error).__name__}: {error}"}
    return {"ok": True, "characters": characters}


json.dump([verdict(message) for message in json.load(sys.stdin)], sys.stdout)
