"""Rows whose answer is a program: from a prediction to the program, from the published row to its tests, and the verdict.

Sources: human-eval, google-research mbpp, EvalPlus 0.2, BigCodeBench (calibrated), LiveCodeBench, McEval (Python).
"""

import base64
import dataclasses
import json
import pickletools
import re
import warnings
import zlib
from collections.abc import Mapping

from dots_jax.config import UserError
from dots_jax.evaluation.scoring.answer_text import this_item
from dots_jax.evaluation.scoring.score import Score
from dots_jax.sandbox.check import Comparison, ScriptTests, UnitTests, Verdict, check
from dots_jax.sandbox.limits import MIB, Limits
from dots_jax.sandbox.run import Sandbox

FENCE = re.compile(r"```[ \t]*([A-Za-z+#]*)[^\n]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # the Codex paper's
LIMITS = Limits(cpu_seconds=10)
LIMITS_COMPARISON = Limits(cpu_seconds=60)  # the canonical solution's time counts, which takes 20 s for some of MBPP+
LIMITS_LIBRARIES = Limits(cpu_seconds=60, memory_bytes=4096 * MIB, processes=64, file_bytes=256 * MIB)


def fenced(text: str, defines: str | None = None) -> str:
    """The last fenced block, of those that define the name if any does; the text itself without a fence."""
    blocks = [match[2] for match in FENCE.finditer(text) if match[2].strip()]
    if not blocks:
        return re.sub(r"^```\w*\n|\n```\s*$", "", text)
    named = [
        block for block in blocks if defines and re.search(rf"^\s*(?:def|class)\s+{re.escape(defines)}\b", block, re.M)
    ]
    return (named or blocks)[-1]


def _parses(text: str) -> bool:
    try:
        with warnings.catch_warnings(action="ignore"):
            compile(text, "program.py", "exec")  # unlike ast.parse it refuses a `return` outside a function
        return True
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def completed(prompt: str, prediction: str, entry_point: str) -> str:
    """A program of a prompt that ends in a function's docstring, and what continues it: its body, or the function again.

    What follows the function is cut at the official stop strings only if the program does not parse with it.
    """
    prompt = prompt if prompt.endswith("\n") else prompt + "\n"
    text = fenced(prediction.partition("</think>")[2] or prediction, entry_point)
    if re.search(rf"^(?:async )?def\s+{re.escape(entry_point)}\b", text, re.MULTILINE):
        return prompt.rstrip() + "\n\n\n" + text
    for body in (text, "    " + text.lstrip(" "), re.sub(r"(?m)^(?=.)", "    ", text)):
        cut = min([body.find(stop) for stop in STOPS if stop in body], default=len(body))
        for candidate in (body, body[:cut]):
            if _parses(prompt + candidate):
                return prompt + candidate
    return prompt + text


def verdict_score(program: str, verdict: Verdict) -> Score:
    details = {"verdict": verdict.status} | ({"detail": verdict.detail} if verdict.detail else {})
    return Score(program, float(verdict.passed), details)


def _field(gold: Mapping, name: str) -> str:
    if gold.get(name) is None:
        raise UserError(f"The gold of a row of programs needs {name!r}, as its published file has it.")
    return gold[name]


def score_humaneval(prediction: str, gold: Mapping, sandbox: Sandbox) -> Score:
    """gold: prompt, entry_point, test."""
    prompt, entry = gold.get("prompt") or "", _field(gold, "entry_point")
    program = completed(prompt, prediction, entry)
    tests = ScriptTests(setup=prompt, code=_field(gold, "test"), entry_point=entry, call_check=True)
    return verdict_score(program, check(sandbox, program, tests, LIMITS))


def mbpp_program(prediction: str) -> str:
    """Up to [DONE], without [BEGIN] and fences."""
    text = prediction.partition("</think>")[2] or prediction
    text = text.rpartition("[BEGIN]")[2].partition("[DONE]")[0].replace("\r\n", "\n")
    return fenced(text).strip("\n")


def score_mbpp(prediction: str, gold: Mapping, sandbox: Sandbox) -> Score:
    """gold: test_list, and test_setup_code, which may be empty."""
    program = mbpp_program(prediction)
    asserts = _field(gold, "test_list")
    code = asserts if isinstance(asserts, str) else "\n".join(asserts)
    setup = gold.get("test_setup_code") or ""
    return verdict_score(program, check(sandbox, f"{setup}\n{program}", ScriptTests(setup=setup, code=code), LIMITS))


def score_evalplus(prediction: str, gold: Mapping, sandbox: Sandbox) -> Score:
    """MBPP+. gold: prompt, entry_point, canonical_solution, base_input, plus_input, atol. `value` needs base and plus tests."""
    prompt, entry = gold.get("prompt") or "", _field(gold, "entry_point")
    program = fenced(prediction.partition("</think>")[2] or prediction, entry)
    if not re.search(rf"\b{re.escape(entry)}\b", program) and prompt:
        program = completed(prompt, prediction, entry)
    details, passed = {}, True
    for kind in ("base", "plus"):
        inputs = typed_inputs(str(gold.get("task_id", "")), gold.get(f"{kind}_input") or [])
        tests = Comparison(canonical=prompt + _field(gold, "canonical_solution"), entry_point=entry, inputs=inputs,
                           atol=float(gold.get("atol") or 0))  # fmt: skip
        verdict = check(sandbox, program, tests, LIMITS_COMPARISON)
        details[kind] = verdict.status
        if verdict.detail:
            details[f"{kind}_detail"] = verdict.detail
        if not verdict.passed:
            passed = False
            break  # plus tests cannot change the verdict any more
    return Score(program, float(passed), details)


TUPLES_INSIDE = {  # MBPP+ tasks: where JSON's lists are tuples. 1: each argument, 2: what each argument holds, 3: both
    **dict.fromkeys((2, 116, 132, 143, 222, 261, 273, 394, 399, 421, 424, 429, 470, 560, 579, 596, 616, 630, 726, 740, 744,
                     809), 1),
    **dict.fromkeys((63, 64, 70, 94, 120, 237, 272, 299, 400, 409, 417, 438, 473, 614, 780), 2),
    **dict.fromkeys((259, 401, 445), 3),
}  # fmt: skip


def typed_inputs(task_id: str, inputs: list) -> list:
    """Arguments with the types that JSON lost, as EvalPlus restores them for MBPP+ (evalplus/data/mbpp.py)."""
    if not task_id.startswith("Mbpp/"):
        return inputs
    task = int(task_id.removeprefix("Mbpp/"))
    inside = lambda items: [tuple(each) for each in items]
    as_tuple = lambda value: tuple(value) if isinstance(value, list) else value
    if task in TUPLES_INSIDE:
        forms = {1: inside, 2: lambda a: [inside(each) for each in a], 3: lambda a: [tuple(inside(each)) for each in a]}
        return [forms[TUPLES_INSIDE[task]](arguments) for arguments in inputs]
    if task in (75, 413, 444, 753):
        return [[inside(a[0]), a[1]] for a in inputs]
    if task in (106, 750):
        return [[a[0], tuple(a[1])] for a in inputs]
    if task == 115:
        return [[[set(each) if isinstance(each, list) and each else {} for each in a[0]]] for a in inputs]
    if task == 124:
        return [(float(a[0]), complex(a[1])) for a in inputs]
    if task in (250, 405, 446, 617, 720, 763, 808):
        return [[tuple(a[0]), a[1]] for a in inputs]
    if task == 278:
        return [[tuple(as_tuple(each) for each in a[0])] for a in inputs]
    if task == 307:
        return [[tuple(a[0]), a[1], a[2]] for a in inputs]
    if task == 722:
        return [[{key: tuple(value) for key, value in a[0].items()}, *a[1:]] for a in inputs]
    if task == 252:
        return [[complex(a[0])] for a in inputs]
    if task in (580, 615, 791):
        nested = lambda value: tuple(map(nested, value)) if isinstance(value, list) else value
        return [[nested(each) for each in a] for a in inputs]
    return inputs


def score_bigcodebench(prediction: str, gold: Mapping, sandbox: Sandbox) -> Score:
    """Calibrated: the prompt's code with an empty body comes before the answer. gold: code_prompt, test, complete_prompt."""
    entry = gold.get("entry_point") or "task_func"
    text = fenced(prediction.partition("</think>")[2] or prediction, entry)
    if not re.search(rf"^def\s+{re.escape(entry)}\b", text, re.MULTILINE):
        text = completed(gold.get("complete_prompt") or _field(gold, "code_prompt"), prediction, entry)
    start = _field(gold, "code_prompt") + "\n    pass\n"
    program = text if text.startswith(start) else start + text
    return verdict_score(program, check(sandbox, program, UnitTests(code=_field(gold, "test")), LIMITS_LIBRARIES))


def score_mceval(prediction: str, gold: Mapping, sandbox: Sandbox) -> Score:
    """McEval's Python items. The other languages need toolchains that this command does not run."""
    language = str(gold.get("task_id", "")).partition("/")[0]
    if language != "Python":
        raise UserError(
            f"McEval items of {language or 'an unnamed language'} need its toolchain; only Python is judged here."
        )
    prompt, entry = gold.get("prompt") or "", _field(gold, "entry_point")
    program = completed(prompt, prediction, entry)
    code = _field(gold, "test")
    defined, called = (re.search(pattern, code, re.MULTILINE) for pattern in (r"^def check\(", r"^check\("))
    tests = ScriptTests(setup=prompt, code=code, entry_point=entry, call_check=bool(defined and not called))
    return verdict_score(program, check(sandbox, program, tests, LIMITS))


# --- LiveCodeBench -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Case:
    input: str
    output: str
    kind: str  # stdin, functional


def livecodebench_cases(gold: Mapping) -> list[Case]:
    """Public and private tests. Private ones may be base64 of zlib of a pickled text, which is read without unpickling."""
    cases = []
    for name in ("public_test_cases", "private_test_cases"):
        text = gold.get(name) or "[]"
        if isinstance(text, str):
            try:
                text = json.loads(text)
            except ValueError:
                text = json.loads(_pickled_text(zlib.decompress(base64.b64decode(text))))
        cases += [Case(each["input"], each["output"], each.get("testtype", "stdin")) for each in text]
    return cases


def _pickled_text(data: bytes) -> str:
    """The one string of a pickle that holds nothing else. Raises UserError for any other pickle: it could run code."""
    found = []
    for operation, argument, _ in pickletools.genops(data):
        if operation.name in ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"):
            found.append(argument)
        elif operation.name not in ("PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT", "STOP"):
            raise UserError(
                f"The private tests of a row are a pickle with {operation.name}: only a pickled text is read."
            )
    if len(found) != 1:
        raise UserError("The private tests of a row are a pickle of something else than one text.")
    return found[0]


def score_livecodebench(prediction: str, gold: Mapping, sandbox: Sandbox) -> Score:
    """The code of the last fence. gold: public_test_cases, private_test_cases, metadata with func_name for functions."""
    program, cases = fenced(this_item(prediction)), livecodebench_cases(gold)
    if not cases:
        raise UserError("A row of LiveCodeBench has no test cases.")
    functions = [case for case in cases if case.kind == "functional"]
    for number, case in enumerate(case for case in cases if case.kind != "functional"):
        done = sandbox.run(["-", program], case.input.encode(), LIMITS)
        if done.timed_out or done.returncode != 0 or not same_output(done.stdout.decode(errors="replace"), case.output):
            status = "timeout" if done.timed_out else "failed"
            return Score(program, 0.0, {"verdict": status, "detail": f"test {number}: {done.status} {done.returncode}"})
    if functions:
        metadata = gold.get("metadata") or "{}"
        name = (json.loads(metadata) if isinstance(metadata, str) else metadata)["func_name"]
        target = f"Solution().{name}" if re.search(r"^class Solution\b", program, re.MULTILINE) else name
        lines = []
        for case in functions:
            arguments = ", ".join(repr(json.loads(line)) for line in case.input.split("\n") if line.strip())
            lines += [f"value = {target}({arguments})", "value = list(value) if isinstance(value, tuple) else value"]
            lines.append(f"assert value == {json.loads(case.output)!r}")
        setup = "from typing import *\nfrom collections import *\nfrom functools import *\nimport math\n"
        verdict = check(sandbox, setup + program, ScriptTests(code="\n".join(lines)), LIMITS)
        return verdict_score(program, verdict)
    return Score(program, 1.0, {"verdict": "passed"})


def same_output(found: str, wanted: str) -> bool:
    """Line by line without outer white space; lines of numbers may be written otherwise."""
    lines = [[line.strip() for line in text.strip().split("\n")] for text in (found, wanted)]
    if len(lines[0]) != len(lines[1]):
        return False
    return all(a == b or _numbers(a) == _numbers(b) is not None for a, b in zip(*lines))


def _numbers(line: str) -> list[float] | None:
    try:
        return [float(word) for word in line.split()]
    except ValueError:
        return None
