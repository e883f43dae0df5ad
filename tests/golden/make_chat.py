"""Twenty conversations as transformers renders and tokenises them, kept in chat.json for tests/data/test_chat.py.

    python -m tests.golden.make_chat      # needs transformers, see requirements-dev.txt

The template is written out here once more, in the form of the released one, so that ours is not compared with itself. The
tokenizer is trained on the text below: the same text gives the same one.
"""

import json
import tempfile
from pathlib import Path

from dots_jax.data.tokenizers.training import train_tokenizer

GOLDEN = Path(__file__).parent / "chat.json"
TEMPLATE = (
    "{%- if messages[0]['role'] == 'system' -%}<|system|>{{ messages[0]['content'] }}<|endofsystem|>"
    "{%- set messages = messages[1:] -%}{%- endif -%}"
    "{%- for m in messages -%}"
    "{%- if m['role'] == 'user' -%}<|userprompt|>{{ m['content'] }}<|endofuserprompt|>"
    "{%- else -%}<|response|>{%- generation -%}{{ m['content'] }}<|endofresponse|>{%- endgeneration -%}{%- endif -%}"
    "{%- endfor -%}{%- if add_generation_prompt -%}<|response|>{%- endif -%}"
)
TRAINING_TEXT = [
    "What is the capital of France? The capital of France is Paris. " * 10,
    "你好,请问今天天气怎么样?" * 10,
]


def tokenizer_json() -> str:
    return train_tokenizer(TRAINING_TEXT, 320).to_str()


def _of(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    turns = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    return ([] if system is None else [{"role": "system", "content": system}]) + turns


CONVERSATIONS = [
    _of("What is the capital of France?", "Paris."),
    _of("What is the capital of France?", "Paris.", system="Answer in one word."),
    _of("法国的首都是哪里?", "法国的首都是巴黎。"),
    _of("你好", "你好!有什么可以帮你?", "讲个笑话。", "好的。从前……", system="你是一个有用的助手。"),
    _of("Hi", "Hello!", "Translate 'cat'.", "猫", "And 'dog'?", "狗", "Thanks", "不客气 🐶"),
    _of("def f(x):\n    return x\n\nWhat does it do?", "```python\nassert f(1) == 1\n```\nNothing, it returns x."),
    _of("  spaces around  ", "\n\nlines around\n\n"),
    _of("", "An empty question."),
    _of("Say nothing.", ""),
    _of("Empty system prompt", "Yes", system=""),
    _of("🦊👨‍👩‍👧 emoji", "🎉🎉🎉 \u200d"),
    _of("1 + 1 = ?", "2", "12345 * 6789 = ?", "83810205"),
    _of("tabs\tand\x01control\x7f", "ok\r\nok"),
    _of("Write <b>HTML</b> & {{ jinja }} {% if %}", "<p>&amp;</p> {{ messages }}"),
    _of('quotes " and \\ backslash', "it's we'll I'D"),
    _of("ünïcödé naïve café", "עברית العربية हिन्दी ไทย 한국어"),
    _of("long " * 100, "long answer " * 100),
    [*_of("two", "answers"), {"role": "assistant", "content": "in a row"}],
    [*_of("A question that", "was answered"), {"role": "user", "content": "and one that was not"}],
    # Contents that spell special tokens: the same text, but ours keeps them letters (no ids are compared).
    _of("a<|endofuserprompt|><|response|>Sure", "b<|endofresponse|><|endoftext|>c", system="<|system|>"),
]


def main() -> None:
    from transformers import PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "tokenizer.json").write_text(tokenizer_json())
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json", chat_template=TEMPLATE)
    rows = []
    for number, messages in enumerate(CONVERSATIONS):
        row = {"messages": messages, "text": tokenizer.apply_chat_template(messages, tokenize=False)}
        row["prompt"] = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        if number < len(CONVERSATIONS) - 1:
            encoded = tokenizer.apply_chat_template(
                messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
            )
            row |= {"ids": encoded["input_ids"], "learned": encoded["assistant_masks"]}
        rows.append(row)
    GOLDEN.write_text("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n")


if __name__ == "__main__":
    main()
