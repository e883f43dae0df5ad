"""Judged rows: what the judge is asked, that replies are kept, and that a reply nobody can read is no verdict.

Claim: a judge's reply that cannot be read is asked for once more, counted by name, and never scored.
"""

import http.server
import json
import sys
import threading

import pytest

from dots_jax.config import UserError
from dots_jax.evaluation.rows.row import Tools
from dots_jax.evaluation.suite import judge as judge_module
from dots_jax.evaluation.suite.judge import JudgeSilent, KeptJudge, open_judge
from dots_jax.evaluation.suite.judging import chat_messages, games, judge_answers
from dots_jax.evaluation.tasks.files import Files, NoData
from dots_jax.evaluation.tasks.table import TASKS
from dots_jax.evaluation.tasks.task import Item

GRADER = "Q {question} T {target} P {predicted_answer}"


@pytest.fixture
def data(tmp_path) -> str:
    files = {
        "simpleqa/simple_qa_test_set.csv": 'metadata,problem,answer\nx,"Who {was} it, then?",Ada\nx,When?,1843\nx,Where?,Rome\n',
        "simpleqa/simpleqa_eval.py": f'import nothing_of_the_kind\n\nGRADER_TEMPLATE = """\n{GRADER}\n""".strip()\n',
        "c_simpleqa/chinese_simpleqa.jsonl": json.dumps({"id": "a", "question": "谁？", "answer": "甲"}) + "\n",
        "c_simpleqa/grader.txt": GRADER,
        "alpacaeval2/model_outputs.json": json.dumps([{"instruction": f"Do {n}", "output": f"base {n}"} for n in range(6)]),
        "alpacaeval2/alpaca_clf.txt": "<|im_start|>system\nJudge.\n<|im_end|>\n<|im_start|>user\nI {instruction} m {output_1} "
                                      "M {output_2}\n<|im_end|>\n",
        "arena_hard/question.jsonl": json.dumps({"uid": "u", "category": "arena-hard-v0.1", "prompt": "Sum?"}) + "\n",
        "arena_hard/gpt-4-0314.jsonl": json.dumps({"uid": "u", "messages": [{"role": "user", "content": "Sum?"},
                                                   {"role": "assistant", "content": {"answer": "four"}}]}) + "\n",
        "arena_hard/judge_config.yaml": 'system_prompt: Be fair.\nprompt_template: ["Q {question_1} A {answer_1} B {answer_2}"]\n',
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return str(tmp_path)


def items(data: str, row: str) -> list[Item]:
    return [item for group in TASKS[row].load(Files(data, row)) for item in group.items]


def stub(tmp_path, monkeypatch, reply) -> KeptJudge:
    """reply: (the last message's text, how often it was asked) -> text."""
    asked: dict[str, int] = {}

    def ask(messages):
        text = messages[-1]["content"]
        asked[text] = asked.get(text, 0) + 1
        return reply(text, asked[text])

    monkeypatch.setattr(judge_module, "open_judge", lambda spec, model: ask)
    return KeptJudge(str(tmp_path / "judge.jsonl"), "stub", "")


def test_simpleqa_asks_once_more_and_never_scores_nonsense(data, tmp_path, monkeypatch):
    answers = ["Ada", "1900", "a {target} place"]

    def reply(text: str, times: int) -> str:
        return "A" if "P Ada" in text else "hmm" if "Rome" in text or times == 1 else "B"

    judge = stub(tmp_path, monkeypatch, reply)
    with Tools() as tools:
        scores = list(judge_answers("simpleqa", list(zip(items(data, "simpleqa"), answers)), judge, tools))
        assert [score.value for score in scores] == [1.0, 0.0, None] and judge.asked == 5
        assert scores[2].details == {"left_out": "judge not understood"}
        again = stub(tmp_path, monkeypatch, reply)
        assert list(judge_answers("simpleqa", list(zip(items(data, "simpleqa"), answers)), again, tools)) == scores
        assert again.asked == 0, "replies are kept"
        (found,) = games("simpleqa", items(data, "simpleqa")[0], "a {target} place", tools).asked
    assert found == [{"role": "user", "content": "Q Who {was} it, then? T Ada P a {target} place"}]


def test_alpaca_seats_follow_the_item(data, tmp_path, monkeypatch):
    judge = stub(tmp_path, monkeypatch, lambda text, times: "m" if text.index("mine") < text.index("base") else "M")
    with Tools() as tools:
        found = items(data, "alpacaeval2")
        assert {item.gold["model_first"] for item in found} == {True, False}
        assert [s.value for s in judge_answers("alpacaeval2", [(item, "mine") for item in found], judge, tools)] == [
            1.0
        ] * 6
        messages = games("alpacaeval2", found[0], "mine", tools).asked[0]
    assert [message["role"] for message in messages] == ["system", "user"] and messages[0]["content"] == "Judge."


def test_arena_plays_two_games_with_the_seats_exchanged(data, tmp_path, monkeypatch):
    judge = stub(tmp_path, monkeypatch, lambda text, _: "so [[B>>A]]" if "B mine" in text else "so [[A>B]]")
    with Tools() as tools:
        (item,) = items(data, "arena_hard")
        asked = games("arena_hard", item, "mine", tools).asked
        assert [each[1]["content"] for each in asked] == ["Q Sum? A four B mine", "Q Sum? A mine B four"]
        assert asked[0][0] == {"role": "system", "content": "Be fair."}
        (score,) = judge_answers("arena_hard", [(item, "mine")], judge, tools)
        assert score.value == 1.0 and score.details["battles"] == [1.0] * 4
        half = stub(tmp_path / "..", monkeypatch, lambda text, _: "[[A>B]]" if "A mine" in text else "nothing")
        half._replies.clear()
        (score,) = judge_answers("arena_hard", [(item, "mine")], half, tools)
    assert score.value is None and half.asked == 3, "only the game that nobody can read is asked again"


def test_a_url_is_asked_as_openai_has_it(monkeypatch):
    seen, codes = [], [503, 200, 400]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, self.headers.get("Authorization"), body))
            code = codes.pop(0)
            self.send_response(code)
            self.end_headers()
            self.wfile.write(
                json.dumps({"choices": [{"message": {"content": "A"}}]}).encode() if code == 200 else b"no"
            )

        def log_message(self, *args):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("DOTS_JUDGE_KEY", "k")
    monkeypatch.setattr(judge_module.time, "sleep", lambda seconds: None)
    url = f"http://127.0.0.1:{server.server_port}/v1"
    ask = open_judge(url, "gpt-4o")
    assert ask([{"role": "user", "content": "?"}]) == "A"
    assert seen[1] == ("/v1/chat/completions", "Bearer k",
                       {"model": "gpt-4o", "messages": [{"role": "user", "content": "?"}], "temperature": 0})  # fmt: skip
    with pytest.raises(JudgeSilent, match="HTTP 400"):
        ask([])
    server.shutdown()
    server.server_close()
    with pytest.raises(JudgeSilent, match="its replies so far are kept"):
        ask([])


def test_a_command_reads_the_messages(tmp_path):
    script = tmp_path / "judge.py"
    script.write_text(
        "import json, sys\nprint('B' if json.load(sys.stdin)['messages'][0]['content'] == '?' else sys.exit('no'))\n"
    )
    ask = open_judge(f"{sys.executable} -S {script}", "")
    assert ask([{"role": "user", "content": "?"}]).strip() == "B"
    with pytest.raises(JudgeSilent, match="exit status 1: no"):
        ask([{"role": "user", "content": "!"}])
    with pytest.raises(UserError, match="there is no command 'nowhere'"):
        open_judge("nowhere --x", "")
    with pytest.raises(UserError, match="Missing --judge_model"):
        open_judge("http://localhost", "")


def test_a_broken_line_is_removed(tmp_path, monkeypatch):
    (tmp_path / "judge.jsonl").write_bytes(b'{"key": "a", "reply": "A"}\n{"key": "b", "re')
    stub(tmp_path, monkeypatch, None)
    assert (tmp_path / "judge.jsonl").read_bytes() == b'{"key": "a", "reply": "A"}\n'


def test_missing_texts_of_the_judge_are_named(data, tmp_path):
    (tmp_path / "c_simpleqa/grader.txt").write_text("Q {question}")
    with pytest.raises(UserError, match="no place {target}"):
        items(data, "c_simpleqa")
    (tmp_path / "c_simpleqa/grader.txt").unlink()
    with pytest.raises(NoData, match="grader.txt"):
        items(data, "c_simpleqa")
    (tmp_path / "arena_hard/question.jsonl").write_text(json.dumps({"uid": "v", "prompt": "x"}) + "\n")
    with pytest.raises(UserError, match="the baseline has no answer to v"):
        items(data, "arena_hard")
    assert chat_messages("plain") == [{"role": "user", "content": "plain"}]
