"""60 pairs of (solution, gold, verdict), Chinese and English; the second half of each part are traps."""

ENGLISH = [
    (r"So the value is $\boxed{42}$.", "42", "correct"),
    (r"\boxed{\frac{3}{4}}", "3/4", "correct"),
    (r"\boxed{0.75}", r"\frac{3}{4}", "correct"),
    (r"The final answer is $2\sqrt{3}$. I hope it is correct.", r"2\sqrt{3}", "correct"),
    (r"\boxed{\sqrt{12}}", r"2\sqrt{3}", "correct"),
    (r"\boxed{x^2+2x+1}", r"(x+1)^2", "correct"),
    (r"\boxed{(3, \frac{\pi}{2})}", r"\left( 3, \frac{\pi}{2} \right)", "correct"),
    (r"\boxed{\{1, 2\}}", r"\{2, 1\}", "correct"),
    (r"\boxed{10^3}", "1000", "correct"),
    (r"\boxed{8{,}000}", "8000", "correct"),
    (r"\boxed{12\text{ cm}^2}", "12", "correct"),
    (r"\boxed{y = 2x + 1}", "y = 1 + 2x", "correct"),
    (r"\boxed{\text{Tuesday}}", "Tuesday", "correct"),
    (r"#### 18", "18", "correct"),
    (r"\boxed{41}", "42", "wrong"),
    (r"\boxed{\frac{1}{3}}", r"\frac{1}{2}", "wrong"),
    (r"\boxed{2\sqrt{2}}", r"2\sqrt{3}", "wrong"),
    (r"\boxed{\text{Monday}}", "Tuesday", "wrong"),
    (r"We compute 7 + 8 = 15 and stop", "15", "no_answer"),
    (r"I am not sure.", "5", "no_answer"),
]
ENGLISH_TRAPS = [
    (r"\boxed{3}. Wait, that is wrong. \boxed{4}", "4", "correct"),
    (r"\boxed{4}. Wait, that is wrong. \boxed{3}", "4", "wrong"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{3}", "wrong"),  # a box that ends at the first brace makes them equal
    (r"\boxed{(1, 2)}", "(2, 1)", "wrong"),
    (r"\boxed{(1, 2)}", "[1, 2]", "wrong"),
    (r"\boxed{-5}", "5", "wrong"),
    (r"\boxed{1,2}", "12", "wrong"),
    (r"The answer is $\frac{3}{4}$, and not $\frac{1}{4}$.", r"\frac{1}{4}", "wrong"),
    (r"<think>The answer is 7.</think> The answer is 8.", "7", "wrong"),
    (r"\boxed{\boxed{5}}", "5", "correct"),
    (r"\boxed{50\%}", "0.5", "correct"),
    (r"\boxed{5", "5", "no_answer"),
    (r"\boxed{}", "0", "no_answer"),
]
CHINESE = [
    (r"因此答案是12。", "12", "correct"),
    (r"答案为：$\frac{2}{3}$", r"\frac{2}{3}", "correct"),
    (r"所以，最终答案是 \boxed{36}。", "36", "correct"),
    (r"答案是１２．５", "12.5", "correct"),
    (r"答案：3个", "3", "correct"),
    (r"答：5元", "5", "correct"),
    (r"综上，\boxed{2\sqrt{5}}", r"\sqrt{20}", "correct"),
    (r"因此 $\boxed{x=3}$。", "3", "correct"),
    (r"答案是：$\left[1, 3\right)$。", "[1,3)", "correct"),
    (r"\boxed{\text{甲}}", "甲", "correct"),
    (r"\boxed{1，2}", "1,2", "correct"),
    (r"答案是15。", "16", "wrong"),
    (r"\boxed{\text{甲}}", "乙", "wrong"),
    (r"答案为π", "3", "wrong"),
    (r"这道题不会做。", "5", "no_answer"),
    (r"由题意可得方程，但无法求解。", "7", "no_answer"),
]
CHINESE_TRAPS = [
    (r"答案是3，不对，再算一遍，答案是4。", "4", "correct"),
    (r"答案是4，不对，再算一遍，答案是3。", "4", "wrong"),
    (r"第1步得到5，第2步得到6，共有7种情形", "7", "no_answer"),
    (r"答案不是3。答案是5。", "3", "wrong"),
    (r"\boxed{2}是错的，应为\boxed{6}", "6", "correct"),
    (r"\boxed{２０}", "20", "correct"),
    (r"\boxed{-\frac{1}{2}}", r"\frac{1}{2}", "wrong"),
    (r"答案是−7", "-7", "correct"),
    (r"答案是1,234", "1234", "correct"),
    (r"\boxed{x>2}", "x<2", "wrong"),
    (r"答案为$3$或$-3$", "3,-3", "correct"),
]
PAIRS = ENGLISH + ENGLISH_TRAPS + CHINESE + CHINESE_TRAPS
assert len(PAIRS) == 60 and len(ENGLISH_TRAPS) + len(CHINESE_TRAPS) >= 20
HANGS = r"\boxed{\dfrac{5^{\left(5^{\left(5^{\left(5^5\right)}\right)} - 4\right)} - 5}{16}}"
