"""A child process that does as `CHILD` says: `python -m tests.unit.runtime.child FD …`."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import NoReturn

from lemonade_serve.protocol.framing import Channel
from lemonade_serve.protocol.messages import (
    PROTOCOL_VERSION,
    Cancel,
    Events,
    Failed,
    Finished,
    FinishReason,
    Generate,
    Hello,
    ImportGguf,
    JobDone,
    JobFailed,
    Load,
    LoadFailed,
    Progress,
    Ready,
    Report,
    Started,
    TextPrompt,
    Token,
    Work,
)

NONSENSE = b"\x00\x00\x00\x04\xc1\xc1\xc1\xc1"


class Child:
    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.channel = Channel(sock)

    def hello(self) -> None:
        self.channel.send(Hello(PROTOCOL_VERSION))

    def silent(self) -> None:
        self.channel.receive()

    def deaf(self) -> NoReturn:
        self.hello()
        self._wait_for_ever()

    def mute(self) -> NoReturn:
        self._wait_for_ever()

    def dies(self) -> NoReturn:
        sys.exit(3)

    def killed(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def outdated(self) -> None:
        self.channel.send(Hello(PROTOCOL_VERSION - 1))
        self.channel.receive()

    def rude(self) -> None:
        self.channel.send(Progress("starting", 0.0))
        self.channel.receive()

    def nonsense(self) -> None:
        self.socket.sendall(NONSENSE)
        self.channel.receive()

    def obedient(self) -> None:
        self.hello()
        while self.channel.receive() is not None:
            pass

    def slow_to_load(self) -> None:
        self.obedient()

    def will_not_load(self) -> None:
        self._answer(LoadFailed("model_load_error", "the file is cut"))

    def dies_loading(self) -> None:
        self.hello()
        self.channel.receive()
        sys.exit(9)

    def nonsense_loading(self) -> None:
        self.hello()
        self.channel.receive()
        self.socket.sendall(NONSENSE)
        self.channel.receive()

    def rude_loading(self) -> None:
        self._answer(Progress("loading", 0.5))

    def worker(self) -> None:
        """Does to a request what its prompt says."""
        self.hello()
        load = self.channel.receive()
        assert isinstance(load, Load)
        self.load = load
        self.channel.send(Ready("tiny", "it is tiny", 0.0, 0))
        while (command := self.channel.receive()) is not None:
            match command:
                case Generate(request, Work(TextPrompt(text))):
                    self._generate(request, text)
                case Cancel(request):
                    sys.exit(100 + request)

    def job(self) -> None:
        """Does to a job what the name of its source says."""
        self.hello()
        job = self.channel.receive()
        assert isinstance(job, ImportGguf)
        self.channel.send(Progress("reading", 0.5))
        match job.source:
            case "fine":
                self.channel.send(JobDone("tiny", "int4"))
            case "unsupported":
                self.channel.send(JobFailed("unsupported_model", "no such architecture"))
            case "dies":
                sys.exit(5)
            case "nonsense":
                self.socket.sendall(NONSENSE)
        self.channel.receive()

    def _generate(self, request: int, text: str) -> None:
        self._say(Started(request, 2, 1, 1.0))
        match text:
            case "finish":
                self._say(Token(request, "one", 2.0), Token(request, " two", 3.0))
                self._say(Finished(request, "!", FinishReason.STOP))
            case "at once":
                self._say(Token(request, "one", 2.0), Finished(request, "", FinishReason.LENGTH))
            case "fail":
                self._say(Failed(request, "context_length_exceeded", "too long", "prompt"))
            case "batch of 5":
                done = Finished(request, "", FinishReason.STOP)
                self.channel.send(Events((done,), batch=5, kv_tokens=50))
            case "load":
                said = f"{self.load.kv_cache_tokens} tokens for {self.load.engine}"
                self._say(Token(request, said, 2.0), Finished(request, "", FinishReason.STOP))
            case "lane":
                self._say(Token(request, sys.argv[3], 2.0))
                self._say(Finished(request, "", FinishReason.STOP))
            case "take a turn":
                self._say(Token(request, self._take_a_turn(), 2.0))
                self._say(Finished(request, "", FinishReason.STOP))
            case "die":
                sys.exit(7)
            case "nonsense":
                self.socket.sendall(NONSENSE)
            case "rude":
                self.channel.send(Progress("loading", 0.5))
                self._say(Finished(request, "", FinishReason.STOP))

    def _take_a_turn(self) -> str:
        turnstile, lane = int(sys.argv[2]), int(sys.argv[3])
        try:
            fcntl.lockf(turnstile, fcntl.LOCK_EX | fcntl.LOCK_NB, 2, 2 * lane)
        except BlockingIOError:
            return "another's turn"
        return "my turn"

    def _say(self, *events: Started | Token | Finished | Failed) -> None:
        self.channel.send(Events(events))

    def _answer(self, report: Report) -> None:
        self.hello()
        self.channel.receive()
        self.channel.send(report)
        self.channel.receive()

    def _wait_for_ever(self) -> NoReturn:
        signal.alarm(60)  # but not longer than whoever started it
        while True:
            signal.pause()


def main() -> None:
    child = Child(socket.socket(fileno=int(sys.argv[1])))
    does: Callable[[], None] = getattr(child, os.environ["CHILD"])
    does()


if __name__ == "__main__":
    main()
