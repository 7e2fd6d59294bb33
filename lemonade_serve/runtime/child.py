"""A child process at the other end of a socket pair: how it is started, and how it ends."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from signal import Signals

import structlog

from lemonade_serve.protocol import framing
from lemonade_serve.protocol.messages import PROTOCOL_VERSION, Command, Hello, Report

log = structlog.get_logger()

_PIECE_BYTES = 4096

Listener = Callable[[Report | None], None]
"""Takes the child's frames as they come; None is the end of file."""


class ChildError(Exception):
    """The child did not come up, or did not speak as it should."""


class Child(asyncio.Protocol):
    """`python -m module FD …`, speaking frames. End of file tells either side that the other died.

    Frames wait for `receive` until somebody listens; a listener gets them in the very turn of the
    event loop in which they arrive. A child that talks nonsense is hung up on.
    """

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process
        self._overhearing: asyncio.Task[None]
        self._transport: asyncio.Transport
        self._parser = framing.ReportParser()
        self._unheard: asyncio.Queue[Report | None] = asyncio.Queue()
        self._listener: Listener = self._unheard.put_nowait
        self._fault: framing.FrameError | None = None

    @classmethod
    async def start(
        cls,
        module: str,
        *,
        handshake_timeout_s: float,
        arguments: Sequence[str] = (),
        inherited: Sequence[int] = (),
        python: str | None = None,
    ) -> Child:
        """Start it and wait for its Hello. Raises ChildError; leaves no process then.

        `arguments` follow the number of its socket; `inherited` are files that it shares with us,
        under the same numbers. `python` is an interpreter that has the module, or
        ours.
        """
        child = cls()
        ours, theirs = socket.socketpair()
        child._transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: child, sock=ours
        )
        try:
            child._process = process = await asyncio.create_subprocess_exec(
                python or sys.executable,
                "-P",  # what lies in the current directory is nobody's module
                "-m",
                module,
                str(theirs.fileno()),
                *arguments,
                pass_fds=(theirs.fileno(), *inherited),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
        except BaseException:
            child._transport.close()
            raise
        finally:
            theirs.close()
        if process.stderr:
            child._overhearing = asyncio.create_task(_overhear(process.pid, process.stderr))
        try:
            async with asyncio.timeout(handshake_timeout_s):
                await child._shake_hands()
        except TimeoutError:
            await child.kill()
            raise ChildError(f"no handshake within {handshake_timeout_s:g} s") from None
        except BaseException:
            await child.kill()
            raise
        return child

    def data_received(self, data: bytes) -> None:
        try:
            for report in self._parser.feed(data):
                self._listener(report)
        except framing.FrameError as error:
            self._fault = error
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener(None)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, command: Command) -> None:
        """Hand a frame to the event loop; to a child that is gone it goes nowhere."""
        if not self._transport.is_closing():
            self._transport.write(framing.encode(command))

    async def receive(self) -> Report | None:
        """The next frame, or None when the child is gone."""
        return await self._unheard.get()

    def listen(self, listener: Listener) -> None:
        """From now on, frames go to `listener`; those that nobody has received yet come first."""
        while not self._unheard.empty():
            listener(self._unheard.get_nowait())
        self._listener = listener

    async def reap(self) -> str:
        """Wait for the process to end; says how it did."""
        code = await self._process.wait()
        self._transport.close()
        await asyncio.shield(self._overhearing)
        how = f"killed by {Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{self._fault}; {how}" if self._fault else how

    async def kill(self) -> str:
        """SIGKILL, and reap, whatever happens to the caller meanwhile."""
        with suppress(ProcessLookupError):
            self._process.kill()
        return await asyncio.shield(self.reap())

    async def stop(self, timeout_s: float) -> str:
        """Close the socket, which ends an obedient child; kill it after `timeout_s`."""
        self._transport.close()
        try:
            async with asyncio.timeout(timeout_s):
                return await self.reap()
        except TimeoutError:
            return await self.kill()

    async def _shake_hands(self) -> None:
        hello = await self.receive()
        if hello is None:
            raise ChildError(f"the process ended at start: {await self.reap()}")
        if not isinstance(hello, Hello) or hello.version != PROTOCOL_VERSION:
            raise ChildError(
                "the installed package is not the one this daemon runs: restart the daemon"
            )


async def _overhear(pid: int, stderr: asyncio.StreamReader) -> None:
    """What a child writes to standard error is for the log, a piece at a time."""
    while piece := await stderr.read(_PIECE_BYTES):
        log.warning("child_output", pid=pid, text=piece.decode(errors="replace"))
