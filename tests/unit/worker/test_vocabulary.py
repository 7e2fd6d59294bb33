"""Prompts into tokens, as a checkpoint's own files say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import AddedToken

from lemonade_serve import errors
from lemonade_serve.protocol.messages import ChatPrompt, Message, TextPrompt, TokensPrompt
from lemonade_serve.worker.vocabulary import Vocabulary
from tests.unit.worker.conftest import MakeVocabulary
from tests.unit.worker.vocabularies import BOS, EOS, add_bos, byte_level, eos_of, sentencepiece

TURNS = (Message("system", "Be brief."), Message("user", "Hi"))
CHATML = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


class TestPrompts:
    def test_a_text_is_read_as_the_tokenizer_reads_it(
        self, make_vocabulary: MakeVocabulary
    ) -> None:
        vocabulary = make_vocabulary()
        assert vocabulary.decode(vocabulary.encode(TextPrompt("two words"))) == "two words"

    def test_a_text_begins_as_the_tokenizer_wants(self, make_vocabulary: MakeVocabulary) -> None:
        tokenizer = add_bos(byte_level())
        ids = make_vocabulary(tokenizer=tokenizer).encode(TextPrompt("a"))
        assert ids[0] == tokenizer.token_to_id(BOS)
        assert len(ids) == 2

    def test_a_chat_begins_as_the_template_wants_and_only_so(
        self, make_vocabulary: MakeVocabulary
    ) -> None:
        tokenizer = add_bos(byte_level())
        vocabulary = make_vocabulary(
            tokenizer=tokenizer,
            template="{{ bos_token }}{{ messages[0]['content'] }}",
            config={"bos_token": BOS},
        )
        ids = vocabulary.encode(ChatPrompt((Message("user", "a"),)))
        assert ids == vocabulary.encode(TextPrompt("a"))

    def test_token_ids_are_taken_as_they_are(self, make_vocabulary: MakeVocabulary) -> None:
        assert make_vocabulary().encode(TokensPrompt((5, 0, 5))) == [5, 0, 5]

    def test_a_token_that_only_the_tokenizer_knows_is_refused(
        self, make_vocabulary: MakeVocabulary
    ) -> None:
        whole = make_vocabulary().size
        assert make_vocabulary(vocab_size=whole + 64).size == whole
        vocabulary = make_vocabulary(vocab_size=whole - 1)
        assert vocabulary.encode(TokensPrompt((whole - 2,))) == [whole - 2]
        with pytest.raises(errors.InvalidRequest, match=f"0 to {whole - 2}"):
            vocabulary.encode(TokensPrompt((whole - 1,)))
        last = byte_level().id_to_token(whole - 1)
        assert isinstance(last, str)
        with pytest.raises(errors.InvalidRequest, match="knows no") as raised:
            vocabulary.encode(TextPrompt(last))
        assert raised.value.param == "prompt"

    def test_a_token_id_outside_the_vocabulary_is_refused(
        self, make_vocabulary: MakeVocabulary
    ) -> None:
        vocabulary = make_vocabulary()
        assert vocabulary.encode(TokensPrompt((vocabulary.size - 1,))) == [vocabulary.size - 1]
        for id in (vocabulary.size, -1):
            with pytest.raises(errors.InvalidRequest, match="token ids are 0 to") as raised:
                vocabulary.encode(TokensPrompt((0, id)))
            assert raised.value.param == "prompt"

    @pytest.mark.parametrize("prompt", [TokensPrompt(()), TextPrompt("")])
    def test_an_empty_prompt_is_refused(
        self, make_vocabulary: MakeVocabulary, prompt: TextPrompt | TokensPrompt
    ) -> None:
        with pytest.raises(errors.InvalidRequest, match="empty"):
            make_vocabulary().encode(prompt)

    def test_control_tokens_are_not_text(self, make_vocabulary: MakeVocabulary) -> None:
        tokenizer = byte_level()
        vocabulary = make_vocabulary(tokenizer=tokenizer)
        assert vocabulary.decode([*vocabulary.encode(TextPrompt("a")), eos_of(tokenizer)]) == "a"

    def test_a_tokenizer_that_truncates_or_pads_is_kept_from_it(
        self, make_vocabulary: MakeVocabulary
    ) -> None:
        tokenizer = byte_level()
        tokenizer.enable_truncation(3)
        tokenizer.enable_padding(length=10)
        vocabulary = make_vocabulary(tokenizer=tokenizer)
        assert len(vocabulary.encode(TextPrompt("12345"))) == 5
        assert len(vocabulary.encode(TextPrompt("1"))) == 1


INFILL = [
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # noqa: RUF001, as DeepSeek spells them
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
]


class TestSuffixes:
    @pytest.mark.parametrize("words", INFILL)
    def test_what_lies_between_is_asked_for_in_the_models_own_words(
        self, make_vocabulary: MakeVocabulary, words: tuple[str, str, str]
    ) -> None:
        tokenizer = byte_level()
        tokenizer.add_special_tokens([AddedToken(word, special=True) for word in words])
        prefix, suffix, middle = map(tokenizer.token_to_id, words)
        a, b, z = (tokenizer.encode(letter).ids[0] for letter in "abz")
        vocabulary = make_vocabulary(tokenizer=tokenizer)
        assert vocabulary.encode(TextPrompt("ab", "z")) == [prefix, a, b, suffix, z, middle]
        assert vocabulary.encode(TextPrompt("", "z")) == [prefix, suffix, z, middle]
        assert vocabulary.encode(TextPrompt("ab")) == [a, b]

    def test_it_begins_as_the_tokenizer_wants(self, make_vocabulary: MakeVocabulary) -> None:
        tokenizer = byte_level()
        tokenizer.add_special_tokens([AddedToken(word, special=True) for word in INFILL[0]])
        ids = make_vocabulary(tokenizer=add_bos(tokenizer)).encode(TextPrompt("a", "z"))
        assert [ids.count(tokenizer.token_to_id(BOS)), ids[0]] == [1, tokenizer.token_to_id(BOS)]

    def test_a_model_that_fills_in_nothing_says_so(self, make_vocabulary: MakeVocabulary) -> None:
        with pytest.raises(errors.InvalidRequest, match="no tokens for that") as raised:
            make_vocabulary().encode(TextPrompt("a", "z"))
        assert raised.value.param == "suffix"


class TestTemplates:
    def test_a_chat_is_rendered_open_for_the_assistant(
        self, make_vocabulary: MakeVocabulary
    ) -> None:
        vocabulary = make_vocabulary(template=CHATML)
        assert vocabulary.render(ChatPrompt(TURNS)) == "<system>Be brief.\n<user>Hi\n<assistant>"
        assert vocabulary.decode(vocabulary.encode(ChatPrompt(TURNS))) == vocabulary.render(
            ChatPrompt(TURNS)
        )

    def test_without_a_template_a_chat_is_refused(self, make_vocabulary: MakeVocabulary) -> None:
        vocabulary = make_vocabulary()
        with pytest.raises(errors.NoChatTemplate) as raised:
            vocabulary.encode(ChatPrompt(TURNS))
        assert raised.value.param == "messages"

    def test_a_template_may_stand_in_the_tokenizer_configuration(
        self, make_vocabulary: MakeVocabulary
    ) -> None:
        assert make_vocabulary(config={"chat_template": "here"}).render(ChatPrompt(TURNS)) == "here"

    def test_a_template_file_is_preferred(self, make_vocabulary: MakeVocabulary) -> None:
        vocabulary = make_vocabulary(config={"chat_template": "here"}, template="there")
        assert vocabulary.render(ChatPrompt(TURNS)) == "there"

    def test_of_several_named_templates_the_default_one_counts(
        self, make_vocabulary: MakeVocabulary
    ) -> None:
        named = [
            {"name": "tool_use", "template": "tools"},
            {"name": "default", "template": "plain"},
        ]
        assert make_vocabulary(config={"chat_template": named}).render(ChatPrompt(TURNS)) == "plain"
        with pytest.raises(errors.NoChatTemplate):
            make_vocabulary(config={"chat_template": named[:1]}).render(ChatPrompt(TURNS))

    def test_special_tokens_are_known_to_it_in_either_form(
        self, make_vocabulary: MakeVocabulary
    ) -> None:
        config = {"bos_token": {"content": BOS}, "eos_token": EOS, "unk_token": None}
        vocabulary = make_vocabulary(config=config, template="{{ bos_token }}|{{ eos_token }}")
        assert vocabulary.render(ChatPrompt(TURNS)) == f"{BOS}|{EOS}"

    def test_json_is_written_as_models_know_it(self, make_vocabulary: MakeVocabulary) -> None:
        vocabulary = make_vocabulary(template="{{ messages[0] | tojson }}")
        rendered = vocabulary.render(ChatPrompt((Message("user", "<é> & 'x'"),)))
        assert rendered == """{"role": "user", "content": "<é> & 'x'"}"""

    def test_json_is_written_as_the_template_wants(self, make_vocabulary: MakeVocabulary) -> None:
        how = "ensure_ascii=False, indent=None, separators=(',', ':'), sort_keys=True"
        vocabulary = make_vocabulary(template=f"{{{{ messages[1] | tojson({how}) }}}}")
        assert vocabulary.render(ChatPrompt(TURNS)) == '{"content":"Hi","role":"user"}'

    def test_it_may_mark_what_was_generated(self, make_vocabulary: MakeVocabulary) -> None:
        template = "{% generation %}x{% endgeneration %}"
        assert make_vocabulary(template=template).render(ChatPrompt(TURNS)) == "x"

    def test_it_sees_that_there_are_no_tools(self, make_vocabulary: MakeVocabulary) -> None:
        template = "{% if tools is not none or documents is not none %}tools{% endif %}"
        assert make_vocabulary(template=template).render(ChatPrompt(TURNS)) == ""

    def test_blocks_leave_no_lines_behind(self, make_vocabulary: MakeVocabulary) -> None:
        template = (
            "{% for m in messages %}\n  {% if loop.first %}\n{{ m.content }}\n  {% endif %}\n"
            "{% endfor %}"
        )
        assert make_vocabulary(template=template).render(ChatPrompt(TURNS)) == "Be brief.\n"

    def test_loops_may_break(self, make_vocabulary: MakeVocabulary) -> None:
        template = "{% for m in messages %}{{ m.content }}{% break %}{% endfor %}"
        assert make_vocabulary(template=template).render(ChatPrompt(TURNS)) == "Be brief."

    def test_it_may_ask_for_the_date(self, make_vocabulary: MakeVocabulary) -> None:
        assert make_vocabulary(template="{{ strftime_now('%%') }}").render(ChatPrompt(TURNS)) == "%"

    @pytest.mark.parametrize(
        "template",
        [
            "{{ {}[messages[0].content].at.all }}",
            "{{ nothing.at.all }}",
            "{{ 'a' + 1 }}",
            "{{ 1 / 0 }}",
            "{{ range(10**7) }}",
            "{{ [1, 'a'] | sort }}",
        ],
    )
    def test_a_template_that_fails_is_an_invalid_request_and_quotes_nothing(
        self, make_vocabulary: MakeVocabulary, template: str
    ) -> None:
        with pytest.raises(errors.InvalidRequest, match=r"fails on these messages: \w+$") as raised:
            make_vocabulary(template=template).render(ChatPrompt(TURNS))
        assert raised.value.param == "messages"
        assert raised.value.__cause__ is None

    def test_a_template_may_refuse_a_chat_and_say_why(
        self, make_vocabulary: MakeVocabulary
    ) -> None:
        template = "{{ raise_exception('no system turn, please') }}"
        with pytest.raises(errors.InvalidRequest, match=r"refuses .*: no system turn, please"):
            make_vocabulary(template=template).render(ChatPrompt(TURNS))

    @pytest.mark.parametrize(
        "template",
        [
            "{{ messages.__class__.__mro__[1].__subclasses__() }}",
            "{{ raise_exception.__globals__['json'] }}",
            "{{ messages.append(1) }}",
        ],
    )
    def test_a_template_does_not_leave_its_sandbox(
        self, make_vocabulary: MakeVocabulary, template: str
    ) -> None:
        with pytest.raises(errors.InvalidRequest):
            make_vocabulary(template=template).render(ChatPrompt(TURNS))

    def test_a_template_that_is_none_is_a_load_error(self, make_vocabulary: MakeVocabulary) -> None:
        with pytest.raises(errors.ModelLoadError, match="the chat template in"):
            make_vocabulary(template="{% for %}")


class TestFiles:
    @pytest.mark.parametrize(("eos", "expected"), [(3, {3}), ([3, 5], {3, 5})])
    def test_one_or_several_tokens_may_end_a_sequence(
        self, make_vocabulary: MakeVocabulary, eos: object, expected: set[int]
    ) -> None:
        vocabulary = make_vocabulary(eos=eos, context_length=2048)
        assert vocabulary.eos_ids == expected
        assert vocabulary.context_length == 2048

    def test_a_model_may_have_no_end_of_sequence(
        self, checkpoint_directory: Callable[..., Path]
    ) -> None:
        directory = checkpoint_directory()
        (directory / "genai_config.json").write_text('{"model": {"context_length": 8}}')
        assert Vocabulary(directory).eos_ids == frozenset()

    def test_any_tokenizer_will_do(self, make_vocabulary: MakeVocabulary) -> None:
        vocabulary = make_vocabulary(tokenizer=sentencepiece())
        assert vocabulary.decode(vocabulary.encode(TextPrompt("hello 😀"))) == "hello 😀"

    @pytest.mark.parametrize("name", ["genai_config.json", "tokenizer.json"])
    @pytest.mark.parametrize("content", [None, "", "{", "[]", '{"model": {}}'])
    def test_a_file_that_is_missing_or_broken_is_a_load_error_that_names_it(
        self, checkpoint_directory: Callable[..., Path], name: str, content: str | None
    ) -> None:
        directory = checkpoint_directory()
        (directory / name).unlink()
        if content is not None:
            (directory / name).write_text(content)
        with pytest.raises(errors.ModelLoadError, match=name):
            Vocabulary(directory)

    def test_a_broken_tokenizer_configuration_is_a_load_error(
        self, checkpoint_directory: Callable[..., Path]
    ) -> None:
        directory = checkpoint_directory()
        (directory / "tokenizer_config.json").write_text(json.dumps([1]))
        with pytest.raises(errors.ModelLoadError, match="tokenizer_config"):
            Vocabulary(directory)


def test_the_bytes_of_a_texts_tokens_are_the_texts(make_vocabulary: MakeVocabulary) -> None:
    vocabulary = make_vocabulary(tokenizer=byte_level())
    text = "naïve café 東京 👩‍👩‍👧 \n\t 1,000"
    tokens = vocabulary.encode(TextPrompt(text))
    assert b"".join(map(vocabulary.bytes_of, tokens)).decode() == text
    assert any(len(vocabulary.bytes_of(token)) < 3 for token in tokens)
