"""The worker's loop, on a scripted engine and a real vocabulary."""

from __future__ import annotations

import math
import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import pytest

from lemonade_serve import errors
from lemonade_serve.protocol.messages import (
    Adapter,
    Cancel,
    ChatPrompt,
    Command,
    Echo,
    Event,
    Events,
    Failed,
    Finished,
    FinishReason,
    Generate,
    Load,
    Message,
    Prompt,
    Queued,
    Report,
    ResolvedParams,
    Started,
    TextPrompt,
    Token,
    TokensPrompt,
    Work,
)
from lemonade_serve.worker.loop import Inbox, Loop
from lemonade_serve.worker.vocabulary import Vocabulary
from tests.engines import FakeEngine
from tests.fakes import FakeClock
from tests.unit.worker.conftest import MakeVocabulary
from tests.unit.worker.vocabularies import byte_level, eos_of, id_of

TOKENIZER = byte_level()
EOS = eos_of(TOKENIZER)


class Over(Exception):
    """Every command is obeyed and the engine is idle."""


class FiniteInbox(Inbox):
    """Ends the loop where it would wait for ever."""

    def get(self, block: bool = True, timeout: float | None = None) -> Command:
        try:
            return super().get(block=False)
        except queue.Empty:
            if block:
                raise Over from None
            raise


class Conversation:
    """Runs a loop on some commands until it would wait, and keeps what it sent.

    The engine's tokens spell `answer`, over and over, then end the sequence.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        answer: str,
        *,
        sequence_slots: int = 2,
        kv_cache_tokens: int = 4096,
    ) -> None:
        self.vocabulary = vocabulary
        self.answer = answer
        self.engine = FakeEngine(
            self._next,
            sequence_slots=sequence_slots,
            kv_cache_tokens=kv_cache_tokens,
            cached_tokens=1,
        )
        self.turns = 0
        self.inbox = FiniteInbox()
        self.frames: list[Events] = []
        self.when: dict[int, Callable[[], None]] = {}
        """What happens after so many frames."""

    def run(self, *commands: Command) -> list[Event]:
        for command in commands:
            self.inbox.put(command)
        with pytest.raises(Over):
            self.loop().run()
        return [event for frame in self.frames for event in frame.events]

    def loop(self) -> Loop:
        return Loop(
            self.engine,
            self.vocabulary,
            self.inbox,
            self._send,
            turn=self._turn,
            clock=FakeClock(),
        )

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Nothing computes outside of one."""
        assert self.engine.steps == self.turns
        yield
        self.turns += 1
        assert self.engine.steps == self.turns

    def _send(self, report: Report) -> None:
        assert isinstance(report, Events)
        self.frames.append(report)
        self.when.get(len(self.frames), lambda: None)()

    def _next(self, tokens: list[int]) -> int:
        """Prompts end with `:`; what stands behind it was generated."""
        colon = id_of(TOKENIZER, ":")
        if colon not in tokens:
            return EOS
        said = len(tokens) - 1 - tokens.index(colon)
        if tokens[0] == id_of(TOKENIZER, "!") and said == 1:
            raise RuntimeError("the kernel failed")
        if tokens[0] == id_of(TOKENIZER, "?") and said == 1:
            raise MemoryError("there is no memory")
        answer = TOKENIZER.encode(self.answer).ids
        return int(answer[said]) if said < len(answer) else EOS


def generate(
    request: int,
    prompt: str | Prompt = "say:",
    *,
    n: int = 1,
    client: str = "anyone",
    weight: float = 1.0,
    **params: object,
) -> Generate:
    given = TextPrompt(prompt) if isinstance(prompt, str) else prompt
    resolved = ResolvedParams(temperature=0.0, **params)  # type: ignore[arg-type]
    return Generate(request, Work(given, resolved, n, client, weight))


def of(request: int, events: list[Event]) -> list[Event]:
    return [event for event in events if event.request == request]


def text(events: list[Event], index: int = 0) -> str:
    spoken = (event for event in events if isinstance(event, Token | Finished))
    return "".join(event.text for event in spoken if event.index == index)


@pytest.fixture
def talk(make_vocabulary: MakeVocabulary) -> Callable[..., Conversation]:
    def start(
        answer: str = "ok",
        *,
        context_length: int = 64,
        slots: int = 2,
        kv_cache_tokens: int = 4096,
    ) -> Conversation:
        vocabulary = make_vocabulary(tokenizer=TOKENIZER, context_length=context_length)
        return Conversation(
            vocabulary, answer, sequence_slots=slots, kv_cache_tokens=kv_cache_tokens
        )

    return start


def test_a_request_starts_speaks_and_finishes(talk: Callable[..., Conversation]) -> None:
    events = talk("ok").run(generate(1))
    assert [type(event) for event in events] == [Started, Token, Token, Token, Finished]
    assert events[0] == Started(1, 4, 1, 1000.0)
    assert [event.at for event in events[1:4] if isinstance(event, Token)] == [1002, 1004, 1006]
    assert text(events) == "ok"
    assert events[-1] == Finished(1, "", FinishReason.STOP)


def test_a_prompt_begins_when_the_step_that_reads_it_does(
    talk: Callable[..., Conversation],
) -> None:
    conversation = talk("ok")
    (started, *_) = conversation.run(generate(1), generate(2))
    assert isinstance(started, Started)
    assert started == Started(1, 4, 1, 1000.0)
    assert conversation.frames[0].events[1] == Started(2, 4, 1, 1000.0)


def echoed(
    request: int, prompt: Prompt, *, n: int = 1, logprobs: int | None = None, max_length: int = 2
) -> Generate:
    params = ResolvedParams(temperature=0.0, logprobs=logprobs, max_length=max_length)
    return Generate(request, Work(prompt, params, n, "anyone", echo=True))


@pytest.mark.parametrize(
    "prompt", [TextPrompt("say:"), TokensPrompt(tuple(TOKENIZER.encode("say:").ids))]
)
def test_an_echo_is_told_before_the_first_token(
    talk: Callable[..., Conversation], prompt: Prompt
) -> None:
    events = talk("ok").run(echoed(1, prompt, n=2))
    assert events[0] == Started(1, 4, 1, 1000.0)
    assert [event for event in events if isinstance(event, Echo)] == [Echo(1, "say:")]
    assert events[1] == Echo(1, "say:")
    assert (text(events, 0), text(events, 1)) == ("ok", "ok")


def test_an_echo_with_log_probabilities_is_told_token_by_token(
    talk: Callable[..., Conversation],
) -> None:
    events = talk("ok").run(echoed(1, TextPrompt("say:"), logprobs=2))
    kinds = [type(event) for event in events]
    assert kinds == [Started, Echo, Echo, Echo, Echo, Token, Token, Finished]
    echoes = [event for event in events if isinstance(event, Echo)]
    assert [echo.text for echo in echoes] == ["", "", "", "say:"]
    assert [bytes(echo.logprobs[0].text) for echo in echoes] == [b"s", b"a", b"y", b":"]
    (first,) = echoes[0].logprobs
    assert math.isnan(first.logprob)
    assert all(len(echo.logprobs) == 3 for echo in echoes[1:])


@pytest.mark.parametrize("logprobs", [None, 0])
def test_an_echo_alone_ends_without_a_token(
    talk: Callable[..., Conversation], logprobs: int | None
) -> None:
    conversation = talk("ok")
    events = conversation.run(echoed(1, TextPrompt("say:"), n=2, logprobs=logprobs, max_length=0))
    assert not [event for event in events if isinstance(event, Token)]
    assert events[-2:] == [
        Finished(1, "", FinishReason.LENGTH, 0),
        Finished(1, "", FinishReason.LENGTH, 1),
    ]
    assert sum(event.text == "say:" for event in events if isinstance(event, Echo)) == 1
    assert conversation.engine.idle


def test_a_step_of_the_engine_is_one_frame(talk: Callable[..., Conversation]) -> None:
    conversation = talk("ok")
    conversation.run(generate(1), generate(2))
    assert [[event.request for event in frame.events] for frame in conversation.frames] == [
        [1, 2],
        [1, 2],
        [1, 2],
        [1, 1, 2, 2],
    ]
    assert conversation.engine.steps == len(conversation.frames)


def test_each_request_has_its_own_parameters_and_text(talk: Callable[..., Conversation]) -> None:
    events = talk("abcdef").run(generate(1, max_length=2), generate(2, stop=("d",)))
    assert (text(of(1, events)), text(of(2, events))) == ("ab", "abc")
    ends = [event.reason for event in events if isinstance(event, Finished)]
    assert ends == [FinishReason.LENGTH, FinishReason.STOP]


def test_an_engine_that_takes_no_adapters_gets_none(talk: Callable[..., Conversation]) -> None:
    command = generate(1)
    adapted = msgspec.structs.replace(command.work, adapter=Adapter("pirate", "/pirate", 1, 0))
    (event,) = talk().run(Generate(1, adapted))
    assert isinstance(event, Failed)
    assert event.code == errors.ModelLoadError.code
    assert event.message.startswith("pirate is of no use to this model")


def test_a_request_that_ended_leaves_the_engine(talk: Callable[..., Conversation]) -> None:
    conversation = talk("abcdef")
    conversation.run(generate(1, stop=("b",)), generate(2, max_length=1), generate(3))
    assert {id.request for id in conversation.engine.released} == {1, 2, 3}
    assert conversation.engine.idle


def test_a_sequence_slot_that_is_given_back_goes_to_the_next(
    talk: Callable[..., Conversation],
) -> None:
    events = talk("ab", slots=1).run(generate(1), generate(2), generate(3))
    assert [event.request for event in events if isinstance(event, Started)] == [1, 2, 3]
    assert [text(of(n, events)) for n in (1, 2, 3)] == ["ab"] * 3


def test_a_cancelled_request_says_nothing_more(talk: Callable[..., Conversation]) -> None:
    conversation = talk("abcdef")
    conversation.when[2] = lambda: conversation.inbox.put(Cancel(1))
    events = conversation.run(generate(1), generate(2))
    assert [type(event) for event in of(1, events)] == [Started, Token]
    assert text(of(2, events)) == "abcdef"


def test_a_waiting_request_can_be_cancelled(talk: Callable[..., Conversation]) -> None:
    conversation = talk("ab", slots=1)
    events = conversation.run(generate(1), generate(2), Cancel(2))
    assert of(2, events) == []
    assert conversation.engine.idle
    assert text(of(1, events)) == "ab"


def test_cancelling_what_has_ended_already_is_nothing(talk: Callable[..., Conversation]) -> None:
    conversation = talk("a")
    conversation.when[3] = lambda: conversation.inbox.put(Cancel(1))
    events = conversation.run(generate(1), Cancel(99))
    assert isinstance(events[-1], Finished)


def test_a_new_request_joins_those_that_run(talk: Callable[..., Conversation]) -> None:
    conversation = talk("abcdef")
    conversation.when[3] = lambda: conversation.inbox.put(generate(2))
    events = conversation.run(generate(1))
    kinds = [(event.request, type(event)) for event in events]
    assert kinds.index((2, Started)) < kinds.index((1, Finished))
    assert text(of(2, events)) == "abcdef"


def test_a_broken_sequence_hurts_no_other(talk: Callable[..., Conversation]) -> None:
    events = talk("abc").run(generate(1, "!bad:"), generate(2), generate(3))
    assert of(1, events)[-1] == Failed(1, "generation_failed", "the kernel failed")
    assert text(of(2, events)) == text(of(3, events)) == "abc"


def test_a_sequence_that_there_is_no_memory_for_may_come_again(
    talk: Callable[..., Conversation],
) -> None:
    events = talk("abc").run(generate(1, "?big:"), generate(2))
    assert of(1, events)[-1] == Failed(1, "no_capacity", "there is no memory")
    assert text(of(2, events)) == "abc"


def test_a_full_context_ends_with_length(talk: Callable[..., Conversation]) -> None:
    events = talk("abcdef", context_length=6).run(generate(1, "say:", max_length=100))
    assert text(events) == "ab"
    assert events[-1] == Finished(1, "", FinishReason.LENGTH)


@pytest.mark.parametrize("length", [8, 9, 100])
def test_a_prompt_that_fills_the_context_is_refused(
    talk: Callable[..., Conversation], length: int
) -> None:
    events = talk(context_length=8).run(generate(1, "x" * length), generate(2))
    (failure,) = of(1, events)
    assert isinstance(failure, Failed)
    assert failure.code == errors.ContextLengthExceeded.code
    # What no tokens could shorten enough is not even tokenised.
    assert f"{length} {'characters' if length == 100 else 'tokens'}" in failure.message
    assert failure.param == "prompt"
    assert text(of(2, events)) == "ok"


@pytest.mark.parametrize("length", [9, 100])
def test_a_chat_that_fills_the_context_is_refused_by_its_own_name(
    make_vocabulary: MakeVocabulary, length: int
) -> None:
    template = "{{ messages[0].content }}"
    vocabulary = make_vocabulary(tokenizer=TOKENIZER, template=template, context_length=8)
    chat = ChatPrompt((Message("user", "x" * length),))
    (failure,) = Conversation(vocabulary, "ok").run(generate(1, chat))
    assert isinstance(failure, Failed)
    assert failure.code == errors.ContextLengthExceeded.code
    assert failure.param == "messages"


@pytest.mark.parametrize(
    ("prompt", "code", "param"),
    [
        (TokensPrompt((1 << 20,)), "invalid_request_error", "prompt"),
        (TextPrompt(""), "invalid_request_error", "prompt"),
        (ChatPrompt((Message("user", "hi"),)), "no_chat_template", "messages"),
    ],
)
def test_a_prompt_that_cannot_work_fails_with_what_is_wrong(
    talk: Callable[..., Conversation], prompt: Prompt, code: str, param: str
) -> None:
    (event,) = talk().run(generate(1, prompt))
    assert isinstance(event, Failed)
    assert (event.code, event.param) == (code, param)


def test_a_command_that_a_serving_worker_cannot_obey_is_a_bug(
    talk: Callable[..., Conversation],
) -> None:
    conversation = talk()
    conversation.inbox.put(Load("/x", "cpu", 1, 1, 64, 16, 1.0, "auto"))
    with pytest.raises(TypeError, match="got Load"):
        conversation.loop().run()


def test_a_request_of_several_sequences_ends_with_the_last_of_them(
    talk: Callable[..., Conversation],
) -> None:
    conversation = talk("abc", slots=3)
    events = conversation.run(generate(1, n=3), generate(2))
    assert [type(event) for event in events].count(Started) == 2
    assert [text(of(1, events), index) for index in range(3)] == ["abc"] * 3
    ended = [event.index for event in of(1, events) if isinstance(event, Finished)]
    assert ended == [0, 1, 2]
    assert conversation.engine.idle


def test_cancelling_a_request_ends_all_its_sequences(talk: Callable[..., Conversation]) -> None:
    conversation = talk("abcdef")
    conversation.when[2] = lambda: conversation.inbox.put(Cancel(1))
    events = conversation.run(generate(1, n=2))
    assert [type(event) for event in events] == [Started, Token, Token]
    assert conversation.engine.idle


def test_a_request_of_which_one_sequence_breaks_fails_once(
    talk: Callable[..., Conversation],
) -> None:
    events = talk("abc").run(generate(1, "!bad:", n=2))
    assert [event for event in events if isinstance(event, Failed)] == [
        Failed(1, "generation_failed", "the kernel failed")
    ]


@pytest.mark.parametrize(
    ("wanted", "code", "param", "said"),
    [
        ({"n": 3}, "invalid_request_error", "n", "worker.sequence_slots is 2"),
        ({"n": 2, "prompt": "x" * 8}, "context_length_exceeded", "prompt", "16 for 2 sequences"),
        ({"prompt": "x" * 16}, "context_length_exceeded", "prompt", "kv_cache_tokens is 16,"),
    ],
)
def test_what_never_fits_is_refused(
    talk: Callable[..., Conversation], wanted: dict[str, object], code: str, param: str, said: str
) -> None:
    (event,) = talk(kv_cache_tokens=16).run(generate(1, **wanted))  # type: ignore[arg-type]
    assert isinstance(event, Failed)
    assert (event.code, event.param) == (code, param)
    assert said in event.message


def test_a_bias_for_what_is_no_token_is_refused(talk: Callable[..., Conversation]) -> None:
    (event,) = talk().run(generate(1, logit_bias=((5, 1.0), (1 << 20, 1.0))))
    assert isinstance(event, Failed)
    assert (event.code, event.param) == ("invalid_request_error", "logit_bias")
    assert str(1 << 20) in event.message


def test_an_answer_may_fill_the_cache_and_ends_with_length(
    talk: Callable[..., Conversation],
) -> None:
    events = talk("abcdefgh", kv_cache_tokens=8).run(generate(1, "say:", max_length=100))
    assert text(events) == "abcd"
    assert events[-1] == Finished(1, "", FinishReason.LENGTH)


def test_what_does_not_fit_waits_and_is_not_overtaken(talk: Callable[..., Conversation]) -> None:
    conversation = talk("ab", slots=3, kv_cache_tokens=20)
    events = conversation.run(
        generate(1, max_length=8), generate(2, max_length=16), generate(3, max_length=1)
    )
    assert [event.request for event in events if isinstance(event, Started)] == [1, 2, 3]
    assert events.index(Finished(1, "", FinishReason.STOP)) < next(
        n for n, event in enumerate(events) if isinstance(event, Started) and event.request == 2
    )


def test_those_who_wait_hear_how_many_are_ahead(talk: Callable[..., Conversation]) -> None:
    events = talk("ab", slots=1).run(generate(1), generate(2), generate(3))
    assert [event.ahead for event in of(3, events) if isinstance(event, Queued)] == [1, 0]
    assert [event.ahead for event in of(2, events) if isinstance(event, Queued)] == [0]
    assert not any(isinstance(event, Queued) for event in of(1, events))


def test_clients_take_turns(talk: Callable[..., Conversation]) -> None:
    many = [generate(request, client="many") for request in range(1, 5)]
    events = talk("ab", slots=1).run(*many, generate(9, client="one"))
    started = [event.request for event in events if isinstance(event, Started)]
    assert started == [1, 9, 2, 3, 4]


def test_a_frame_says_how_many_spoke_and_what_they_hold(talk: Callable[..., Conversation]) -> None:
    conversation = talk("abc")
    conversation.run(generate(1, max_length=4), generate(2, max_length=1))
    assert [frame.batch for frame in conversation.frames] == [0, 2, 1, 1, 1]
    assert [frame.kv_tokens for frame in conversation.frames] == [13, 8, 8, 8, 0]
