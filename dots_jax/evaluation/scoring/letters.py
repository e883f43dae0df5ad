"""Multiple choice: the letter, or the letters, that an answer settles on.

Statements count ("the answer is B", "故选B", a box), the last of them wins, since answers change in mid-thought; without one, an
answer that begins with a letter, or ends with a line of nothing else. A letter somewhere in the text is no answer, and there is
no credit for guessing.
"""

import re
from collections.abc import Collection

from dots_jax.evaluation.scoring.answer_text import half_width, last_box, this_item, without_emphasis
from dots_jax.evaluation.scoring.score import Score

MOST_LETTERS = 20_000  # of a prediction: its beginning and its end
# After a letter: no further letter, no lower-case word that makes it the article A or the pronoun I, no "is wrong".
REASONS = r"because|since|as\b|is\b|and\b|or\b|for\b|which\b|due\b|based\b|not\b"
END = rf"(?![A-Za-z0-9'’])(?!\s+(?!{REASONS})[a-z])(?!\s*(?:不正确|不对|错))"
OPEN = (
    r"(?:(?:option|choice|letter|答案|选项|是|为)\s*)*[\s(\[{\"'“‘《【$<:]*"
    r"(?:\\(?:text|mathrm|mathbf|textbf|boxed)\s*\{\s*\(?)*"
)
IS = r"(?:\s*(?:is|are|was|be|would be|should be|must be|will be|=|:|->|→))+"
SURELY = r"(?:therefore|thus|then|hence|clearly|indeed|probably|(?:most )?likely|definitely|actually|obviously)"
STATEMENTS = (
    r"(?i:answers?|choice|option|solution|antwort|réponse|respuesta)"
    r"(?i:\s+(?:to (?:this|the) (?:question|problem)|here|choice|option|letter))?[\"']?(?i:,?\s*{SURELY},?)?(?i:{IS})\s*"
    r"(?i:{SURELY},?\s+)?(?:{OPEN})({LETTER}){END}",
    r"<answer>\s*\(?({LETTER}){END}",
    r"(?i:answer|therefore|thus|hence|so|finally),?\s+(?i:option |choice )?\(?({LETTER})[).]*\s*$",
    r"(?i:(?:it|that|this)(?:'s|’s| is| must be| should be| has to be| would be))\s+"
    r"(?i:actually |really |therefore |definitely )?{OPEN}({LETTER}){END}",
    r"(?i:choose|choosing|pick|picking|select|selecting|go with|going with|settle on|think|believe|guess|say)\s+"
    r"(?i:it's |it is |the answer is )?{OPEN}({LETTER}){END}",
    r"[(\[]?(?<![A-Za-z])({LETTER})[)\]]?\s*(?i:is|was|must be|should be|seems|looks)\s+"
    r"(?i:the |a |most |likely |therefore |indeed |thus |clearly )*"
    r"(?i:correct|right|best|answer|true|appropriate|suitable|accurate)",
    r"(?:答案|答|选项|选择|回答|结论)(?:应该|应当|应|就|只能|显然|最终)?(?:是|为|选|选择|:|】|\]|\s)*{OPEN}({LETTER}){END}",
    r"(?:故|应|应该|因此|所以|本题|此题|因而|综上|可|就|只能|我|我会|当|则|,|。|^|\s)\s*[,:]?\s*(?:应该|应|我)?(?:正确)?"
    r"(?:选择|选项是|选项为|选)(?!项)\s*[:为是]?\s*{OPEN}({LETTER}){END}",
    r"(?:(?<=,)是|而是|应该是|应为|应是|改为|改选|正确的是|正确的应是|对的是)\s*{OPEN}({LETTER}){END}",
    r"(?:选项|只有|只有选项|答案)\s*[(]?({LETTER})[)]?\s*(?:项|选项)?\s*(?:才)?(?:是|为)?(?:正确|对|符合题意|最佳|最合适)",
    r"(?<![不A-Za-z])[(]?({LETTER})[)]?\s*(?:项|选项)?\s*(?:才)?(?:是|为)?(?:唯一)?(?:正确|对的|符合题意|最佳答案)",
)
BEGINNING = (
    r"^[\s(\[{{\"'“$:#>*-]*({LETTER})(?:[)\]}}.:,;、。\"'”$]|\s*$|\s*\n|\s+(?:because|since)\b|\s+(?![a-z])(?=\S))"
)
LAST_LINE = r"(?:^|\n)[\s(\[{{\"'“$*]*({LETTER})[\s)\]}}.\"'”$*。]*$"
OFFICIAL_MMLU_PRO = re.compile(r"answer is \(?([A-J])\)?")
SEPARATORS = r"(?:\s*(?:,|、|;|/|和|与|及|&|and|\+)?\s*)"


def _patterns(letters: str, several: bool) -> list[re.Pattern]:
    one = f"[{letters}]"
    letter = f"{one}(?:{SEPARATORS}{one}(?![a-z]))*" if several else one
    fill = lambda text: (
        text.replace("{SURELY}", SURELY)
        .replace("{IS}", IS)
        .replace("{OPEN}", OPEN)
        .replace("{LETTER}", letter)
        .replace("{END}", END)
    )
    statements = [re.compile(fill(text), re.MULTILINE) for text in STATEMENTS]
    rest = [re.compile(text.format(LETTER=letter)) for text in (BEGINNING, LAST_LINE)]
    return [*statements, *rest]


_made: dict[tuple[str, bool], list[re.Pattern]] = {}


def find_letter(prediction: str, letters: str = "ABCD", several: bool = False) -> str | None:
    """The letter that the prediction answers with; with several, all of them in order, as "ACD". None without an answer."""
    text = without_emphasis(half_width(this_item(prediction)))
    text = re.sub(r"(?:\n ?){3,}", "\n\n", re.sub(r"[ \t]+", " ", text))  # long runs of space cost quadratic time
    text = text if len(text) <= MOST_LETTERS else text[: MOST_LETTERS // 10] + "\n" + text[-MOST_LETTERS:]
    key = (letters, several)
    if key not in _made:
        _made[key] = _patterns(letters, several)
    *statements, beginning, last_line = _made[key]
    tidy = lambda found: "".join(sorted(set(re.findall(f"[{letters}]", found))))
    box = last_box(text)
    if box is not None:
        content = re.sub(r"^(?:\\(?:textbf|textrm|text|mathrm|mathbf)\s*|[\s({$])+", "", box)
        if re.match(rf"[{letters}](?![a-z])", content):
            return tidy(re.match(rf"[{letters},、;\s]+", content)[0]) if several else content[0]
    found = [match for pattern in statements for match in pattern.finditer(text) if not _negated(text, match.start())]
    if found:
        last = max(found, key=lambda match: (match.end(1), -match.start(1)))
        return tidy(last[1])
    match = beginning.search(text.lstrip()) or last_line.search(text.rstrip())
    return tidy(match[1]) if match else None


def _negated(text: str, start: int) -> bool:
    """As in 不选B, "not choose B"."""
    before = text[max(0, start - 12) : start + 1]
    return re.search(r"(?:不|不能|不应|排除|not|n't|never|wrong|incorrect)\s*(?:\w+\s)?.?$", before) is not None


def find_letter_mmlu_pro(prediction: str) -> str | None:
    """The first of the official patterns alone: what the published outputs' `pred` holds. No random letter without one."""
    match = OFFICIAL_MMLU_PRO.search(prediction)
    return match[1] if match else None


def score_letter(prediction: str, gold: str, letters: str = "ABCD") -> Score:
    """gold: a letter."""
    found = find_letter(prediction, letters)
    return Score(found, float(found == gold))


def score_letters(prediction: str, gold: Collection[str], letters: str = "ABCD") -> Score:
    """All of the right letters and no other, as AGIEval's jec-qa wants."""
    found = find_letter(prediction, letters, several=True)
    return Score(found, float(found is not None and set(found) == set(gold)))


def score_mmlu_pro(prediction: str, gold: str) -> Score:
    found = find_letter_mmlu_pro(prediction)
    return Score(found, float(found == gold))
