"""COIG's parts, each with field names of its own: conversations, exams, and translated instructions."""

from collections.abc import Mapping

from dots_jax.data.sources.conversations import fields
from dots_jax.data.sources.conversations.turns import Conversation, finish, message
from dots_jax.data.tokenizers.chat import MalformedConversation


def read_coig(record: Mapping, field: str = "conversations") -> Conversation:
    """{"instruction", "conversations": [{"question", "answer"}, ...]}; an exam's {"textbox_question", "textbox_answer", ...};
    {"trans_instruction", "trans_input", "trans_output"}. The instruction of a conversation is its system message."""
    if record.get("trans_instruction") is not None:
        asked = fields.joined(record, "trans_instruction", "trans_input")
        return finish([message("user", asked), message("assistant", fields.answer(record, "trans_output"))])
    if record.get("textbox_question") is not None:
        return _exam(record)
    system, messages = fields.optional(record, "instruction"), []
    for number, turn in enumerate(fields.items(record, field)):
        if not isinstance(turn, Mapping):
            raise MalformedConversation(f"turn {number} is no object", "a turn is no object").in_field(field)
        for role, key in (("user", "question"), ("assistant", "answer")):
            if not isinstance(turn.get(key), str):
                raise MalformedConversation(
                    f"turn {number} has no text as its {key}", f"a turn has no text as its {key}"
                ).in_field(field)
            messages.append(message(role, turn[key]))
    return finish([*([message("system", system)] if system else []), *messages])


def _exam(record: Mapping) -> Conversation:
    """The answer, and its analysis in the next line if there is one."""
    asked = fields.joined(record, "textbox_q_instruction", "textbox_q_context", "textbox_question")
    fields.answer(record, "textbox_answer")
    return finish(
        [
            message("user", asked),
            message("assistant", fields.joined(record, "textbox_answer", "textbox_answer_analysis")),
        ]
    )
