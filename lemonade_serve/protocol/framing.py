"""Frames on a stream socket: an unsigned 32-bit big-endian length, then that much MessagePack."""

from __future__ import annotations

import socket
import struct
from typing import Generic, TypeVar

import msgspec

from lemonade_serve.protocol.messages import Command, Report

MAX_FRAME_BYTES = 64 * 1024 * 1024
"""A longer frame is a fault of the peer, never a message."""

_LENGTH = struct.Struct(">I")
_encoder = msgspec.msgpack.Encoder()
_M = TypeVar("_M")


class FrameError(Exception):
    """The peer sent something that is not a frame of this protocol."""


def encode(message: Command | Report) -> bytes:
    """One frame. Raises FrameError for a message longer than MAX_FRAME_BYTES."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {len(body)} bytes is over the bound of {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


def _body_length(header: bytes | bytearray) -> int:
    length: int = _LENGTH.unpack(header)[0]
    if length > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {length} bytes is over the bound of {MAX_FRAME_BYTES}")
    return length


class _Decoder(Generic[_M]):
    def __init__(self, types: object) -> None:
        self._decoder: msgspec.msgpack.Decoder[_M] = msgspec.msgpack.Decoder(types)

    def __call__(self, body: bytes | bytearray) -> _M:
        try:
            return self._decoder.decode(body)
        except msgspec.DecodeError as error:
            raise FrameError(str(error)) from error


_command: _Decoder[Command] = _Decoder(Command)
_report: _Decoder[Report] = _Decoder(Report)


class ReportParser:
    """The daemon's side: cuts what a child sent into frames, however the bytes come."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Report]:
        """The frames that are complete by now. Raises FrameError for nonsense."""
        self._buffer += data
        reports, at = [], 0
        while len(self._buffer) >= at + _LENGTH.size:
            begin = at + _LENGTH.size
            end = begin + _body_length(self._buffer[at:begin])
            if len(self._buffer) < end:
                break
            reports.append(_report(self._buffer[begin:end]))
            at = end
        del self._buffer[:at]
        return reports


class Channel:
    """The child's side of the socket: blocking, one reader thread and one writer thread."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._stream = sock.makefile("rb")

    def send(self, message: Report) -> None:
        """Raises OSError when the daemon is gone."""
        self._socket.sendall(encode(message))

    def receive(self) -> Command | None:
        """The next frame of the daemon, or None at end of file. Raises FrameError for nonsense."""
        try:
            header = self._stream.read(_LENGTH.size)
            if len(header) < _LENGTH.size:
                return None
            length = _body_length(header)
            body = self._stream.read(length)
        except ConnectionError:  # it hung up on frames that it had not read
            return None
        return _command(body) if len(body) == length else None
