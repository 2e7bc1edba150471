"""The wire's messages: a round trip loses nothing, and what is no message is refused with its
text.
"""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.bridge import protocol
from engine.bridge.protocol import (
    MAX_LINE,
    Done,
    Failed,
    Hello,
    Progress,
    ProtocolError,
    Quit,
    Start,
    decode,
    encode,
)

ROOT = Path(__file__).resolve().parents[3]

texts = st.text(
    st.characters(exclude_categories=())
)  # lone surrogates too: that is how Python names undecodable files
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
by_type = {str: texts, int: st.integers(), dict: st.dictionaries(texts, plain, max_size=5)}


def messages(kind: type) -> st.SearchStrategy:
    hints = {k: typing.get_origin(h) or h for k, h in typing.get_type_hints(kind).items()}
    return st.builds(kind, **{name: by_type[hint] for name, hint in hints.items()})


any_message = st.one_of([messages(kind) for kind in typing.get_args(protocol.Message)])


@given(any_message)
def test_decode_is_the_inverse_of_encode(message):
    line = encode(message)
    assert decode(line) == message
    assert type(decode(line)) is type(message)


@given(any_message)
def test_a_message_is_one_line_of_ascii(message):
    line = encode(message)
    assert line.endswith(b"\n") and line.count(b"\n") == 1 and b"\r" not in line
    assert line.isascii()


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_protocol_error(line):
    try:
        message = decode(line)
    except ProtocolError:
        return
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"hello",
        b"null",
        b"[]",
        b"{}",
        b'{"type": 3}',
        b'{"type": "Explode"}',
        b'{"type": "Cancel"}',
        b'{"type": "Cancel", "job": 3}',
        b'{"type": "Cancel", "job": null}',
        b'{"type": "Cancel", "job": "a", "more": 1}',
        b'{"type": "Cancel", "job": "a", "job": "b"}',
        b'{"type": "Quit"} {"type": "Quit"}',
        b'{"type": "Progress", "job": "a", "stage": "s", "done": true, "total": 2}',
        b'{"type": "Progress", "job": "a", "stage": "s", "done": 1.0, "total": 2}',
        b'{"type": "Progress", "job": "a", "stage": "s", "done": NaN, "total": 2}',
        b'{"type": "Done", "job": "a", "outputs": {"psnr": NaN}}',
        b'{"type": "Done", "job": "a", "outputs": {"psnr": -Infinity}}',
        b'{"type": "Done", "job": "a", "outputs": {"psnr": 1e999}}',
        b'{"type": "Done", "job": "a", "outputs": []}',
        b'{"type": "Done", "job": "a", "outputs": {"n": ' + b"9" * 5000 + b"}}",
        b'{"type": "Done", "job": "a", "outputs": {"n": ' + b"[" * 50 + b"]" * 50 + b"}}",
        b"[" * 100_000,
        b'\xff\xfe{"type": "Quit"}',
    ],
)
def test_what_is_no_message_is_refused_with_its_beginning(line):
    with pytest.raises(ProtocolError) as refusal:
        decode(line)
    quoted = repr(line[:200].decode("utf-8", "replace"))
    assert quoted in str(refusal.value)
    assert len(str(refusal.value)) < 1500


def test_a_line_longer_than_allowed_is_refused_on_both_sides():
    big = "x" * MAX_LINE
    with pytest.raises(ValueError, match="at most"):
        encode(Failed("j", big))
    line = json.dumps({"type": "Failed", "job": "j", "error": big}).encode()
    with pytest.raises(ProtocolError, match="more than"):
        decode(line)
    longest = big[: MAX_LINE - len(encode(Failed("j", "")))]
    assert decode(encode(Failed("j", longest))) == Failed("j", longest)


@pytest.mark.parametrize(
    "message",
    [
        "a text",
        Done("j", {"psnr": float("nan")}),
        Done("j", {"psnr": float("inf")}),
        Done("j", {"path": Path("x")}),
        Done("j", {3: "x"}),
        Done("j", {"t": (1, 2)}),
        Progress("j", "s", 1.5, 2),  # type: ignore[arg-type]
        Start("j", "k", Path("x")),  # type: ignore[arg-type]
    ],
)
def test_what_could_not_be_read_back_is_not_written(message):
    with pytest.raises(ValueError):
        encode(message)


def test_fields_with_a_default_may_be_left_out_and_others_may_not():
    assert decode(b'{"type": "Failed", "job": "j", "error": "e"}') == Failed("j", "e", "")
    assert decode(b'{"type": "Quit"}') == Quit()
    with pytest.raises(ProtocolError, match="device is missing"):
        decode(b'{"type": "Hello", "protocol": 1, "engine": "x"}')


def test_messages_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Hello(1, "e", "d").engine = "x"  # type: ignore[misc]


@given(st.text(max_size=200), st.integers(20, 100))
def test_shortened_text_keeps_its_ends_and_its_limit(text, limit):
    short = protocol.shortened(text, limit)
    assert len(short) <= limit
    assert short == text or (
        len(text) > limit and text.startswith(short[:5]) and text.endswith(short[-5:])
    )


def test_the_product_has_one_version():
    pattern = rf'^version = "{re.escape(protocol.ENGINE_VERSION)}"$'
    for name in ("pyproject.toml", "blender_manifest.toml"):
        if (ROOT / name).exists():
            assert re.search(pattern, (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE), name
