"""Frames, whole, cut and false."""

from __future__ import annotations

import itertools
import socket
import struct
import types
import typing
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lemonade_serve.protocol import messages
from lemonade_serve.protocol.framing import (
    MAX_FRAME_BYTES,
    Channel,
    FrameError,
    ReportParser,
    encode,
)

COMMANDS = typing.get_args(messages.Command)
REPORTS = typing.get_args(messages.Report)

texts = st.text(max_size=40)
integers = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False)
_LEAVES: dict[object, st.SearchStrategy[typing.Any]] = {
    str: texts,
    bytes: st.binary(max_size=40),
    int: integers,
    float: floats,
    bool: st.booleans(),
    types.NoneType: st.none(),
}


def any_of(kind: typing.Any) -> st.SearchStrategy[typing.Any]:
    """Every value of a type of the protocol."""
    if kind in _LEAVES:
        return _LEAVES[kind]
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return st.one_of([any_of(one) for one in typing.get_args(kind)])
    if typing.get_origin(kind) is tuple:
        first, *others = typing.get_args(kind)
        if others == [...]:
            return st.lists(any_of(first), max_size=4).map(tuple)
        return st.tuples(*map(any_of, (first, *others)))
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = {field.name: any_of(field.type) for field in msgspec.structs.fields(kind)}
        return st.builds(kind, **fields)
    words = typing.get_args(kind)  # of a Literal; an Enum is its own members
    return st.sampled_from(words or kind)


class _Socket(socket.socket):
    """A socket that takes its files along when it is closed."""

    def makefile(self, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        self._file = super().makefile(*args, **kwargs)
        return self._file

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def pair() -> Iterator[tuple[socket.socket, Channel]]:
    """The daemon's raw end, and the child's channel."""
    ours, theirs = socket.socketpair()
    with ours, _Socket(fileno=theirs.detach()) as end:
        yield ours, Channel(end)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, Channel]]:
    with pair() as both:
        yield both


def reports_in(*pieces: bytes) -> list[messages.Report]:
    """What the daemon reads out of some bytes."""
    parser = ReportParser()
    return [report for piece in pieces for report in parser.feed(piece)]


@pytest.mark.parametrize("kind", REPORTS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_the_daemon_reads_every_report_as_it_was_sent(
    kind: type[msgspec.Struct], data: st.DataObject
) -> None:
    report = data.draw(any_of(kind))
    assert reports_in(encode(report)) == [report]


@pytest.mark.parametrize("kind", COMMANDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_a_child_reads_every_command_as_it_was_sent(
    kind: type[msgspec.Struct], data: st.DataObject
) -> None:
    command = data.draw(any_of(kind))
    with pair() as (ours, channel):
        ours.sendall(encode(command))
        assert channel.receive() == command


def test_the_daemon_reads_what_a_channel_sends(ends: tuple[socket.socket, Channel]) -> None:
    ours, channel = ends
    sent = [messages.Hello(1), messages.Progress("reading", 0.25)]
    channel.send(messages.Hello(1))
    channel.send(messages.Progress("reading", 0.25))
    assert reports_in(ours.recv(1 << 16)) == sent


def test_frames_that_arrive_in_pieces_are_whole(ends: tuple[socket.socket, Channel]) -> None:
    ours, channel = ends
    frame = encode(messages.Cancel(7)) + encode(messages.Cancel(8))
    for byte in frame:
        ours.send(bytes([byte]))
    assert [channel.receive(), channel.receive()] == [messages.Cancel(7), messages.Cancel(8)]


@given(
    st.lists(any_of(messages.Hello) | any_of(messages.Progress), max_size=4),
    st.lists(st.integers(0, 200), max_size=6),
)
def test_reports_are_the_same_however_their_bytes_are_cut(
    reports: list[messages.Report], cuts: list[int]
) -> None:
    stream = b"".join(map(encode, reports))
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[begin:end] for begin, end in itertools.pairwise(edges)]
    assert reports_in(*pieces) == reports


@pytest.mark.parametrize("kept", [0, 1, 3, 4, 5, 8])
def test_a_cut_stream_is_its_end(ends: tuple[socket.socket, Channel], kept: int) -> None:
    frame = encode(messages.Progress("reading", 0.25))[:kept]
    assert reports_in(frame) == []
    ours, channel = ends
    ours.sendall(frame)
    ours.close()
    assert channel.receive() is None


def test_a_daemon_that_hung_up_on_unread_frames_is_an_end(
    ends: tuple[socket.socket, Channel],
) -> None:
    ours, channel = ends
    channel.send(messages.Hello(1))
    ours.close()
    assert channel.receive() is None


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", b"\x00", b"garbage", msgspec.msgpack.encode(["Nobody", 1]), b"\x92\xa5Hello"],
)
def test_what_is_no_message_is_a_fault_of_the_peer(
    ends: tuple[socket.socket, Channel], body: bytes
) -> None:
    frame = struct.pack(">I", len(body)) + body
    with pytest.raises(FrameError):
        reports_in(frame)
    ours, channel = ends
    ours.sendall(frame)
    with pytest.raises(FrameError):
        channel.receive()


def test_each_side_knows_only_what_the_other_may_say(ends: tuple[socket.socket, Channel]) -> None:
    with pytest.raises(FrameError):
        reports_in(encode(messages.Cancel(1)))
    ours, channel = ends
    ours.sendall(encode(messages.Hello(1)))
    with pytest.raises(FrameError):
        channel.receive()


def test_a_length_over_the_bound_is_refused_before_it_is_read(
    ends: tuple[socket.socket, Channel],
) -> None:
    header = struct.pack(">I", MAX_FRAME_BYTES + 1)
    with pytest.raises(FrameError, match="over the bound"):
        reports_in(header)
    ours, channel = ends
    ours.sendall(header)
    with pytest.raises(FrameError, match="over the bound"):
        channel.receive()


def test_a_message_over_the_bound_is_not_sent() -> None:
    with pytest.raises(FrameError, match="over the bound"):
        encode(messages.LoadFailed("", "x" * MAX_FRAME_BYTES))


def test_the_longest_message_is_sent() -> None:
    overhead = len(encode(messages.LoadFailed("", "x" * 65536))) - 65536 - 4
    assert len(encode(messages.LoadFailed("", "x" * (MAX_FRAME_BYTES - overhead)))) == (
        MAX_FRAME_BYTES + 4
    )


@given(st.binary(max_size=64))
def test_any_bytes_are_reports_or_a_fault(garbage: bytes) -> None:
    try:
        reports = reports_in(garbage)
    except FrameError:
        return
    assert all(isinstance(report, REPORTS) for report in reports)
