"""What a client of the benchmarks reads from the bytes that came, against a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from benchmarks.streams import NO_TEXT, Answer, Exchange, Server, ask
from benchmarks.traffic import Ask, Target, arriving, closed

USAGE = b'{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}'
Reply = Callable[[asyncio.StreamWriter], Awaitable[None]]


def piece(text: str, index: int = 0, reason: str = "null") -> bytes:
    return (
        f'{{"choices":[{{"index":{index},"text":"{text}","finish_reason":{reason}}}]}}'
    ).encode()


WHOLE = [piece("a"), piece("b"), piece("", reason='"length"'), USAGE, b"[DONE]"]


def chunked(events: Sequence[bytes], *, newline: bytes = b"\n") -> bytes:
    """As one chunk each."""
    body = b""
    for event in events:
        data = b"data: " + event + newline * 2
        body += b"%x\r\n%s\r\n" % (len(data), data)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    return head + b"\r\n" + body + b"0\r\n\r\n"


def sending(*parts: bytes) -> Reply:
    """Each in a packet of its own, or nearly so."""

    async def reply(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0)

    return reply


@asynccontextmanager
async def answering(reply: Reply) -> AsyncGenerator[Server]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.split(b"\r\n") if line.startswith(b"Content-Length"))
        await reader.readexactly(int(length.split()[1]))
        await reply(writer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield Server(f"http://127.0.0.1:{port}/v1")


def read(*parts: bytes) -> Answer:
    async def once() -> Answer:
        async with answering(sending(*parts)) as server:
            return await ask(server, {"prompt": [1]}, 60)

    return asyncio.run(once())


def test_a_whole_stream_says_what_and_when() -> None:
    answer = read(chunked(WHOLE))
    assert answer.problem == ""
    assert answer.texts == {0: "ab"}
    assert (answer.prompt_tokens, answer.completion_tokens) == (7, 3)
    assert answer.reasons == {0: "length"}
    assert answer.began < answer.times[0] <= answer.times[1] <= answer.ended


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_events_that_are_cut_anywhere_are_read_the_same(newline: bytes) -> None:
    sent = chunked(WHOLE, newline=newline)
    answer = read(*(sent[at : at + 1] for at in range(len(sent))))
    assert (answer.problem, answer.texts) == ("", {0: "ab"})
    assert answer.times == sorted(answer.times)


def test_a_stream_that_is_not_chunked_is_read_to_its_end() -> None:
    events = b"".join(b"data: " + event + b"\n\n" for event in WHOLE)
    assert read(b"HTTP/1.1 200 OK\r\n\r\n" + events).problem == ""


def test_choices_are_told_apart() -> None:
    ends = [piece("", 0, '"length"'), piece("", 1, '"stop"'), USAGE, b"[DONE]"]
    answer = read(chunked([piece("a", 0), piece("x", 1), piece("b", 0), *ends]))
    assert answer.texts == {0: "ab", 1: "x"}
    assert len(answer.gaps) == 1
    assert answer.reasons == {0: "length", 1: "stop"}


def test_an_answer_that_is_not_streamed_is_one_event() -> None:
    body = (
        b'{"choices":[{"index":0,"text":"ab","finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":7,"completion_tokens":2}}'
    )
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
    answer = read(head + body)
    assert (answer.problem, answer.texts, answer.completion_tokens) == ("", {0: "ab"}, 2)
    assert read(head + body[:-5]).problem == "the stream broke off"


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (b"HTTP/1.1 429 Too Many Requests\r\n\r\nlater", "HTTP/1.1 429 Too Many Requests later"),
        (chunked(WHOLE[:-1]), "the stream broke off"),
        (chunked(WHOLE)[:150], "the stream broke off"),
        (b"", " "),
        (chunked([*WHOLE[:3], b"[DONE]"]), "no usage, or no finish_reason"),
        (chunked([*WHOLE[:2], *WHOLE[3:]]), "no usage, or no finish_reason"),
        (chunked([*WHOLE[2:]]), NO_TEXT),
        (chunked([b'{"error":{"code":"worker_lost"}}']), "an error event"),
    ],
)
def test_what_is_not_whole_has_a_problem(sent: bytes, problem: str) -> None:
    assert read(sent).problem.startswith(problem)


def test_a_client_that_hangs_up_keeps_what_came() -> None:
    async def leave() -> tuple[bool, Answer]:
        left = asyncio.Event()

        async def reply(writer: asyncio.StreamWriter) -> None:
            writer.write(chunked(WHOLE)[:-80])
            await left.wait()

        async with answering(reply) as server:
            exchange = await Exchange.begin(server, {"prompt": [1]})
            await exchange.heard(1)
            exchange.hang_up()
            await exchange.over(60)
            left.set()
            return exchange.hung_up, exchange.read()

    hung_up, answer = asyncio.run(leave())
    assert hung_up
    assert answer.texts[0].startswith("a")
    assert answer.problem == "the stream broke off"


def test_a_closed_loop_keeps_so_many_in_flight() -> None:
    async def load() -> tuple[int, int]:
        in_flight = most = 0
        full = asyncio.Event()

        async def reply(writer: asyncio.StreamWriter) -> None:
            nonlocal in_flight, most
            in_flight += 1
            most = max(most, in_flight)
            if most == 3:
                full.set()
            await full.wait()
            writer.write(chunked(WHOLE))
            in_flight -= 1

        async with answering(reply) as server:
            asks = [Ask(Target(server, "model"), [1], 3)] * 10
            exchanges = await closed(asks, 3, 60)
        return most, sum(not exchange.read().problem for exchange in exchanges)

    assert asyncio.run(load()) == (3, 10)


def test_an_open_loop_waits_for_nobody_and_counts_from_the_arrival() -> None:
    async def load() -> list[Answer]:
        everybody = asyncio.Event()
        waiting = 0

        async def reply(writer: asyncio.StreamWriter) -> None:
            nonlocal waiting
            waiting += 1
            if waiting == 4:
                everybody.set()
            await everybody.wait()
            writer.write(chunked(WHOLE))

        async with answering(reply) as server:
            asks = [Ask(Target(server, "model"), [1], 3)] * 4
            exchanges = await arriving(asks, [0, 0.001, 0.002, 0.003], 60)
        return [exchange.read() for exchange in exchanges]

    answers = asyncio.run(load())
    assert not any(answer.problem for answer in answers)
    began = [answer.began - answers[0].began for answer in answers]
    assert began == pytest.approx([0, 0.001, 0.002, 0.003])
