"""From a text, or a list of messages, to the tokens that the model is to continue."""

import collections
import sys

from dots_jax.config import UserError
from dots_jax.data.sources.conversations.turns import list_of
from dots_jax.data.tokenizers import chat, chat_template
from dots_jax.inference.text import Vocabulary


def chat_tokens(messages: list[dict], vocabulary: Vocabulary) -> list[int]:
    """A conversation in dots.llm1's template, up to where the model answers."""
    return chat.encode(messages, vocabulary)[0] + [vocabulary.special_id(chat.GENERATION_PROMPT)]


class PromptEncoder:
    """as_chat: a text is the message of a user. default_system: the system message of conversations without one; empty: none.

    noted: what of messages is not in the template, or not as it stood -> how many conversations have it.
    """

    def __init__(self, vocabulary: Vocabulary | None, as_chat: bool = False, default_system: str = ""):
        self._vocabulary, self._as_chat, self._system = vocabulary, as_chat, default_system
        self.conversations = 0  # that were encoded
        self.noted: collections.Counter[str] = collections.Counter()

    def text(self, text: str) -> list[int]:
        if self._as_chat:
            return self.conversation([{"role": "user", "content": text}])
        return self.vocabulary.encode(text)

    def messages(self, messages: object) -> list[int]:
        """OpenAI's list, content parts included, whose last message is the user's.

        Raises:
          MalformedConversation: it is none, or what follows is not an answer.
        """
        noted: set[str] = set()
        found = list_of(messages, noted)
        chat.check(found, answered=False)
        if found[-1]["role"] != "user":
            raise chat.MalformedConversation(
                f"its last message is of the {found[-1]['role']}: the model answers a message of the user"
            )
        self.noted.update(noted)
        return self.conversation(found)

    def conversation(self, messages: list[dict]) -> list[int]:
        """Of messages that are checked."""
        self.conversations += 1
        return chat_tokens(chat.with_system(messages, self._system), self.vocabulary)

    def compare_template(self, tokenizer: str | None) -> None:
        """Says on stderr how the template that came with the tokenizer differs from what conversations were given."""
        if self.conversations and (said := chat_template.warning(tokenizer, self._system, "--default_system=")):
            print(f"warning: {said}", file=sys.stderr)

    @property
    def vocabulary(self) -> Vocabulary:
        if self._vocabulary is None:
            raise UserError("This checkpoint has no tokenizer: give one, as --tokenizer=FILE, or rows of tokens.")
        return self._vocabulary
