"""dots.llm1's chat template: messages -> text, or tokens and which of them are learned. Standard library only.

    <|system|>{system}<|endofsystem|><|userprompt|>{user}<|endofuserprompt|><|response|>{assistant}<|endofresponse|>...

No token before it, no separators; a system message is there if the data has one, or a default for those without. Contents are
text: one that spells a special token is encoded as those letters, so it cannot end its turn or begin another.
"""

import json
from typing import Protocol

# role -> the tokens around its content
TURNS = {
    "system": ("<|system|>", "<|endofsystem|>"),
    "user": ("<|userprompt|>", "<|endofuserprompt|>"),
    "assistant": ("<|response|>", "<|endofresponse|>"),
}
CHAT_TOKENS = tuple(token for turn in TURNS.values() for token in turn)
GENERATION_PROMPT = "<|response|>"  # what follows a conversation that the model is to answer

# The same as a Jinja template, which is the form that transformers and inference servers read.
JINJA = (
    "{% for message in messages %}"
    "{% if message.role == 'system' %}<|system|>{{ message.content }}<|endofsystem|>"
    "{% elif message.role == 'user' %}<|userprompt|>{{ message.content }}<|endofuserprompt|>"
    "{% elif message.role == 'assistant' %}<|response|>{{ message.content }}<|endofresponse|>"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|response|>{% endif %}"
)


class MalformedConversation(ValueError):
    """What is wrong, as the second half of a sentence; who knows the record's place writes the first.

    reason: the same without numbers and names, one of few, to be counted. complete: it names the field already, or needs
    none; else `field`, set by who knows it, stands in front.
    """

    def __init__(self, sentence: str, reason: str = "", complete: bool = False):
        super().__init__(sentence)
        self.reason, self.complete, self.field = reason or sentence, complete, ""

    def in_field(self, field: str) -> "MalformedConversation":
        self.field = field
        return self

    def counted(self, field: str = "") -> str:
        """The reason with the field. field: if the error has none of its own."""
        field = self.field or field
        return self.reason if self.complete or not field else f"in field {field!r} {self.reason}"


class ChatVocabulary(Protocol):
    """What is needed of a vocabulary: `tokenizer.TokenizerVocabulary` has it."""

    def encode_batch(self, texts: list[str]) -> list[list[int]]: ...

    def special_id(self, name: str) -> int: ...


def parse(record: str | bytes) -> list[dict[str, str]]:
    """The messages of a record, a JSON list of {"role", "content"}; other keys are ignored.

    Raises MalformedConversation for what cannot be trained on.
    """
    try:
        messages = json.loads(record)
    except (ValueError, RecursionError):
        raise MalformedConversation("it is not JSON") from None
    check(messages)
    return messages


def check(messages: object, answered: bool = True) -> None:
    """Raises MalformedConversation unless these are messages; with `answered`, at least one of them the assistant's."""
    if not isinstance(messages, list) or not messages:
        raise MalformedConversation("it is not a list of messages")
    for number, message in enumerate(messages):
        at = f"message {number}"
        if not isinstance(message, dict):
            raise MalformedConversation(f"{at} is not an object with role and content", "a message is not an object")
        role = message.get("role")
        if not isinstance(role, str) or role not in TURNS:
            known = ", ".join(TURNS)
            raise MalformedConversation(
                f"{at} has the role {role!r}, not one of {known}", f"a message has another role than {known}"
            )
        if not isinstance(message.get("content"), str):
            raise MalformedConversation(f"{at} has no text as its content", "a message has no text as its content")
        try:
            message["content"].encode()
        except UnicodeEncodeError:
            raise MalformedConversation(
                f"{at} has half of a surrogate pair, which is no character", "a message is not UTF-8"
            ) from None
        if role == "system" and number > 0:
            raise MalformedConversation(
                f"{at} is a system message, which can only be the first", "a system message is not the first"
            )
    if answered and not any(message["role"] == "assistant" for message in messages):
        raise MalformedConversation("it has no turn of the assistant, so there is nothing to learn")


def with_system(messages: list[dict], default_system: str) -> list[dict]:
    """The messages, with the system message `default_system` in front where they have none and it is not empty."""
    if not default_system or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": default_system}, *messages]


def jinja(default_system: str) -> str:
    """JINJA for a model that was trained with a default system message."""
    if not default_system:
        return JINJA
    system = f"{{{{ {json.dumps(default_system, ensure_ascii=False)} }}}}"
    begin, end = TURNS["system"]
    return f"{{% if messages[0].role != 'system' %}}{begin}{system}{end}{{% endif %}}{JINJA}"


def render(messages: list[dict[str, str]], add_generation_prompt: bool = False) -> str:
    """The conversation as text."""
    turns = [TURNS[m["role"]][0] + m["content"] + TURNS[m["role"]][1] for m in messages]
    return "".join(turns) + (GENERATION_PROMPT if add_generation_prompt else "")


def encode(messages: list[dict], vocabulary: ChatVocabulary) -> tuple[list[int], list[int]]:
    """(ids, weights) of a conversation; weights are 1 on the assistant's contents and their `<|endofresponse|>`, which
    the model learns to write, and 0 on all that it is given, answers with `learn` = False included."""
    ids, weights = [], []
    for message, content in zip(messages, vocabulary.encode_batch([m["content"] for m in messages])):
        begin, end = (vocabulary.special_id(token) for token in TURNS[message["role"]])
        ids += [begin, *content, end]
        learn = message.get("learn", message["role"] == "assistant")
        weights += [0, *[int(learn)] * (len(content) + 1)]
    return ids, weights
