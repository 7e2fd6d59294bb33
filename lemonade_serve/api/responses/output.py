"""The items of an answer, while they are made."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from lemonade_serve.api.answer import Drawn
from lemonade_serve.api.openai.logprobs import chat_logprobs
from lemonade_serve.api.responses import schemas


class MessageItem:
    """Text, as it comes."""

    def __init__(self) -> None:
        self.id = f"msg_{secrets.token_hex(24)}"
        self._pieces: list[str] = []
        self._drawn: list[Drawn] = []

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def add(self, text: str, drawn: Sequence[Drawn]) -> None:
        self._pieces.append(text)
        self._drawn += drawn

    def part(self) -> schemas.OutputText:
        return schemas.OutputText(text=self.text, logprobs=chat_logprobs(self._drawn).content)

    def shown(self, status: schemas.ItemStatus) -> schemas.OutputMessage:
        content = [] if status == "in_progress" else [self.part()]
        return schemas.OutputMessage(id=self.id, status=status, content=content)


class CallItem:
    """A call of a function, as it comes."""

    def __init__(self, call_id: str, name: str) -> None:
        self.id = f"fc_{secrets.token_hex(24)}"
        self._call_id = call_id
        self._name = name
        self._pieces: list[str] = []

    @property
    def arguments(self) -> str:
        return "".join(self._pieces)

    def add(self, arguments: str) -> None:
        self._pieces.append(arguments)

    def shown(self, status: schemas.ItemStatus) -> schemas.FunctionCall:
        return schemas.FunctionCall(
            id=self.id,
            status=status,
            call_id=self._call_id,
            name=self._name,
            arguments="" if status == "in_progress" else self.arguments,
        )


Item = MessageItem | CallItem


def shown(items: Sequence[Item], last: schemas.ItemStatus) -> list[schemas.OutputItem]:
    """All of them; whether the last one is complete is said, the others are."""
    return [item.shown("completed" if item is not items[-1] else last) for item in items]
