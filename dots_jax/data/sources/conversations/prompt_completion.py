"""TRL's {"prompt", "completion"}, each a text or a list of messages. Only the completion is learned."""

from collections.abc import Mapping

from dots_jax.data.sources.conversations import fields
from dots_jax.data.sources.conversations.turns import Conversation, finish, list_of, message
from dots_jax.data.tokenizers.chat import MalformedConversation


def read_prompt_completion(record: Mapping, field: str = "prompt", completion: str = "completion") -> Conversation:
    noted: set[str] = set()
    given = _side(record, field, "user", noted)
    if any(one["learn"] for one in given):
        noted.add("answers of the prompt are not learned")
    answers = _side(record, completion, "assistant", noted)
    return finish([*({**one, "learn": False} for one in given), *answers], noted)


def _side(record: Mapping, field: str, role: str, noted: set[str]) -> list[dict]:
    found = record.get(field)
    if not isinstance(found, list):
        return [message(role, fields.answer(record, field) if role == "assistant" else fields.text(record, field))]
    try:
        return list_of(found, noted)
    except MalformedConversation as error:
        raise error.in_field(field)  # noqa: B904  the same error
