"""The template that came with weights, next to ours.

The forms are those of published weights of dots.llm1 and of servers that know it, by what they say of them: llama.cpp's turns;
ms-swift's default system message "You are a helpful assistant.", which the released tokenizer_config is said to insert.
"""

import json

import pytest

from dots_jax.data.tokenizers import chat
from dots_jax.data.tokenizers.chat_template import PROBES, difference, template_of

HELPFUL = "You are a helpful assistant."
TURNS = (
    "{%- for m in messages -%}"
    "{%- if m['role'] == 'user' -%}<|userprompt|>{{ m['content'] }}<|endofuserprompt|>"
    "{%- elif m['role'] == 'assistant' -%}<|response|>{{ m['content'] }}<|endofresponse|>{%- endif -%}"
    "{%- endfor -%}"
)
ANSWER = "{%- if add_generation_prompt -%}<|response|>{%- endif -%}"
# The system message first, a default without it.
DEFAULT = (
    "{%- if messages[0]['role'] == 'system' -%}<|system|>{{ messages[0]['content'] }}<|endofsystem|>{%- else -%}"
    "<|system|>" + HELPFUL + "<|endofsystem|>{%- endif -%}" + TURNS + ANSWER
)
# The same, in ms-swift's order: a variable with a default, in front of everything.
VARIABLE = (
    "{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else '" + HELPFUL + "' %}"
    "<|system|>{{ system }}<|endofsystem|>" + TURNS + ANSWER
)
# llama.cpp: every message in its turn, none by default.
PLAIN = (
    "{%- for m in messages -%}{%- if m.role == 'system' -%}<|system|>{{ m.content }}<|endofsystem|>"
    "{%- elif m.role == 'user' -%}<|userprompt|>{{ m.content }}<|endofuserprompt|>"
    "{%- else -%}<|response|>{% generation %}{{ m.content }}<|endofresponse|>{% endgeneration %}{%- endif -%}"
    "{%- endfor -%}" + ANSWER
)


def test_the_probes_are_six():
    assert len(PROBES) == 6 and len({json.dumps(probe[1:]) for probe in PROBES}) == 6


@pytest.mark.parametrize("template", [DEFAULT, VARIABLE])
def test_a_default_system_message_is_named_with_its_setting(template):
    found = difference(template)
    assert found.default_system == HELPFUL and repr(HELPFUL) in found.sentence
    assert difference(template, found.default_system) is None
    assert difference(template, "Another.").default_system == HELPFUL


def test_the_plain_form_is_ours():
    assert difference(PLAIN) is None
    assert difference(PLAIN, HELPFUL).default_system == ""


@pytest.mark.parametrize("system", ["", HELPFUL, 'He said "{{ hi }}" \\ 你好\n{% if %}'])
def test_an_exported_template_is_that_of_the_run(system):
    assert difference(chat.jinja(system), system) is None


@pytest.mark.parametrize(
    "template, words",
    [
        (PLAIN.replace("{{ m.content }}<|endofuser", "{{ m.content | trim }}<|endofuser"), "differs in 4 of 6"),
        (PLAIN.replace("<|response|>{% gen", "<|response|>\n{{ '\n' }}{% gen"), "differs in 4 of 6"),
        ("{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{% endfor %}", "it renders a question as"),
        ("{% if %}", "it cannot be rendered (Expected an expression"),
        ("{{ raise_exception('only tools') }}", "it cannot be rendered (only tools)"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "it cannot be rendered (access to attribute"),
        ("{% for i in range(10**9) %}x{% endfor %}", "it cannot be rendered (Range too big"),
        ("{% do messages.append(1) %}", "it cannot be rendered"),
        ("{% include '/etc/passwd' %}", "it cannot be rendered"),
        ("x" * (1 << 21), "it cannot be rendered (it has 2,097,152 characters)"),
    ],
)
def test_other_templates_are_told_apart(template, words):
    assert words in difference(template).sentence


def test_a_template_changes_no_probe():
    before = json.dumps(PROBES)
    difference("{{ messages.pop() }}")
    assert json.dumps(PROBES) == before


def test_where_a_template_is_found(tmp_path):
    assert template_of(str(tmp_path)) is None
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": PLAIN}))
    assert template_of(str(tmp_path / "tokenizer.json")) == PLAIN
    named = [{"name": "tools", "template": "x"}, {"name": "default", "template": DEFAULT}]
    config.write_text(json.dumps({"chat_template": named}))
    assert template_of(str(tmp_path)) == DEFAULT
    (tmp_path / "chat_template.jinja").write_text(VARIABLE)
    assert template_of(str(tmp_path)) == VARIABLE
    (tmp_path / "chat_template.jinja").unlink()
    for text in ("{", "[]", json.dumps({"chat_template": 3})):
        config.write_text(text)
        assert template_of(str(tmp_path)) is None
