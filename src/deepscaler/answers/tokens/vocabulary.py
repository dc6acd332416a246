"""Words and signs of answers: Unicode as LaTeX, synonyms of commands, words that mean nothing.

Data only. `lexer` and the grammar say where each table is used.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


UNICODE = {
    "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": "/",
    "∕": "/", "⁄": "/", "√": r"\sqrt ", "∛": r"\sqrt[3]", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
    "⩽": r"\le ", "⩾": r"\ge ", "≈": r"\approx ", "°": r"^\circ ", "º": r"^\circ ", "∪": r"\cup ", "∩": r"\cap ",
    "∈": r"\in ", "±": r"\pm ", "∓": r"\mp ", "∅": r"\emptyset ", "Ø": r"\emptyset ", "ℝ": r"\R ", "ℤ": r"\Z ",
    "ℕ": r"\N ", "ℚ": r"\Q ", "ℂ": r"\C ", "∖": r"\setminus ", "′": "'", "″": "''", "。": ".", "、": ",", "，": ",",
    "：": ":", "；": ";", "€": r"\text{ euro }", "£": r"\text{ pound }", "¥": r"\text{ yen }", "¢": r"\text{ cents }",
    "₹": r"\text{ rupees }", "∠": r"\angle ",
    "△": r"\triangle ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "ε": r"\epsilon ",
    "θ": r"\theta ", "λ": r"\lambda ", "μ": r"\mu ", "µ": r"\mu ", "ν": r"\nu ", "π": r"\pi ", "ρ": r"\rho ",
    "σ": r"\sigma ", "τ": r"\tau ", "φ": r"\phi ", "ϕ": r"\phi ", "ψ": r"\psi ", "ω": r"\omega ", "Ω": r"\Omega ",
    "Δ": r"\Delta ", "ħ": r"\hbar ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ",
    "\u00a0": " ", "\u200b": "", "\ufeff": "", "\u2009": " ", "\u202f": " ", "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}",
    "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅕": r"\frac{1}{5}", "⅖": r"\frac{2}{5}",
    "⅗": r"\frac{3}{5}", "⅘": r"\frac{4}{5}", "⅙": r"\frac{1}{6}", "⅚": r"\frac{5}{6}", "⅛": r"\frac{1}{8}",
    "⅜": r"\frac{3}{8}", "⅝": r"\frac{5}{8}", "⅞": r"\frac{7}{8}", "→": r"\to ", "…": r"\ldots ", "⟨": "(", "⟩": ")",
    "“": '"', "”": '"', "’": "'", "∧": r"\text{ and }", "∨": r"\text{ or }", "％": "%", "∑": r"\sum ", "∏": r"\prod ",
    "ⅈ": "i", "∶": ":", "≡": r"\equiv ", "∼": r"\approx ", "∣": "|", "‖": "|",
}  # fmt: skip

# Commands that say the same; the right side is the token's value.
SAME_COMMAND = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "nicefrac": "frac", "sfrac": "frac", "dbinom": "binom",
    "tbinom": "binom", "leq": "le", "geq": "ge", "leqslant": "le", "geqslant": "ge", "leqq": "le", "geqq": "ge",
    "neq": "ne", "lt": "<", "gt": ">", "less": "<", "varnothing": "emptyset", "ast": "cdot", "star": "cdot",
    "bullet": "cdot", "degree": "circ", "textdegree": "circ", "lbrace": "\\{", "rbrace": "\\}", "lvert": "|",
    "rvert": "|", "vert": "|", "lVert": "|", "rVert": "|", "mid": "|", "colon": ":", "backslash": "setminus",
    "wedge": "and", "land": "and", "lor": "or", "vee": "or", "div": "/", "lbrack": "[", "rbrack": "]",
    "arctg": "arctan", "tg": "tan", "ctg": "cot", "cosec": "csc", "varphi": "phi", "varepsilon": "epsilon",
    "vartheta": "theta", "varrho": "rho", "langle": "(", "rangle": ")", "lparen": "(", "rparen": ")", "prime": "'",
    "dots": "ldots", "cdots": "ldots", "vdots": "ldots", "dotsc": "ldots", "R": "ℝ", "reals": "ℝ", "Reals": "ℝ",
    "Z": "ℤ", "N": "ℕ", "Q": "ℚ", "C": "ℂ", "smallsetminus": "setminus", "sim": "approx", "simeq": "approx",
    "cong": "approx", "thickapprox": "approx", "doteq": "approx", "iff": "and", "bmod": "mod", "imath": "i",
    "infin": "infty", "operatorname*": "operatorname", "newline": "\\\\", "cr": "\\\\", "tabularnewline": "\\\\",
    "isin": "in", "Pi": "Pi", "deg": "circ", "notin": "notin", "lnot": "not", "neg": "not", "top": "T", "jmath": "j",
}  # fmt: skip
NUMBER_SETS = {"R": "ℝ", "Z": "ℤ", "N": "ℕ", "Q": "ℚ", "C": "ℂ"}

# Upright text inside; words stay words.
UPRIGHT = _words("text textbf textit textrm textup textnormal textsf texttt textsc mathrm mbox hbox mathsf mathtt "
                    "operatorname emph")  # fmt: skip
# The content of the group is taken literally.
TRANSPARENT = _words(
    "boxed fbox underline overline bar boldsymbol bm mathbf mathit mathcal mathfrak vec overrightarrow hat widehat "
    "tilde ensuremath displaylines overset underbrace overbrace mathop smash mathrel mathbin mathord pmb bold"
)
DOTTED = {"dot": 1, "ddot": 2}
# The group that follows is no part of the answer.
DROPPED = _words("color textcolor hspace vspace phantom hphantom vphantom label tag cssId class style")

# Counted nouns, also without \text: 100 dollars, 28 percentage.
COUNTED = _words(
    "people person persons student students child children boys girls men women ways way apples oranges books balls "
    "marbles cards coins stamps cars pages words steps times points point games teams solutions values pairs triangles "
    "squares edges vertices faces sides digits tickets pounds pound euro euros percent percents percentage degree "
    "degrees square cubic sq cu per squared cubed pm am total each items integers numbers sq kmh kph eggs houses "
    "deg pct flowers trees candies players mph cookies chairs tables boxes bottles pencils more km"
)
# Words that tie parts of an answer together; behind a number they are not its unit.
CONNECTING = _words(
    "and or not if then else when where with without but for every is are was be in on at to from by than "
    "less greater even odd positive negative prime wrong correct such that so because except only either neither nor "
    "between some each real complex point plus minus times divided fails fail excluded invalid "
    "以上 以下 以内 以外 左右 未满 未満"
)
# Words with which a sentence does not state a value: it denies it, doubts it, or makes it depend on something.
REFUSING = _words(
    "not no never cannot can't isn't aren't doesn't or nor neither either if unless except wrong incorrect false "
    "untrue impossible guess maybe perhaps possibly may might could unlikely suppose"
)
# Words that make what follows them a condition or a second statement.
SUBORDINATE = _words("when where while because since but which than whether assuming provided between")
LINKING = frozenset(["is", "are", "equals", "equal", "was", "be", "becomes", "est", "ist", "sind", "es", "son", "sono"])
FOREIGN_LINKS = ("是", "为", "為", "等于", "等於", "は", "은", "는")
FOREIGN_REFUSING = (
    "不",
    "非",
    "没",
    "未",
    "或",
    "至少",
    "至多",
    "小于",
    "大于",
    "多于",
    "少于",
    "约",
    "若",
    "当",
    "可能",
    "也许",
    "大概",
    "超过",
)
LEADS = _words(
    "答 解 共 共有 一共 一共有 总共 总共有 故 即 则 所以 因此 得 解得 答案 答案是 答案为 答え 答 정답 답 ответ получаем"
)
CLOSING_WORDS = frozenset(
    [
        *(
            "only",
            "alone",
            "exactly",
            "overall",
            "altogether",
            "in total",
            "total",
            "in all",
            "as required",
            "respectively",
        ),
        *(
            "as desired",
            "as claimed",
            "as expected",
            "final answer",
            "is correct",
            "is the answer",
            "works",
            "suffices",
        ),
        *("です", "입니다"),
    ]
)
# Words in front of a condition under which a formula holds. `if` is none: who says it has not decided.
CONDITIONING = _words("for where with provided assuming given whenever since as because such where forall")
KINDS_OF_NUMBERS = _words(
    "is are a an any all every each real complex integer integers whole natural number numbers constant constants "
    "arbitrary some positive nonnegative parameter parameters reals values value of the being with"
)
SAME_AGAIN = _words(
    "or i.e. ie i e that is approximately approx about roughly equivalently equals also namely as decimal in form"
)
AND, OR = _words("and und et 和 与 與 及 以及 и と 와 과 그리고"), _words("or oder ou 或 或者 или または 또는")
CHECK_MARKS = frozenset(["checkmark", "blacksquare", "qed", "Box", "blacklozenge", "✓", "✔", "✅", "∎", "■", "□"])
LEADING = _words(
    "answer ans the is exactly equals equal final value thus so therefore hence total approximately about result a an "
    "of it it's there are answers solution get we have only roughly just option choice rs usd eur us"
)
ARTICLES = frozenset(["the", "a", "an"])
NUMBER_WORDS = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "sixteen": 16,
}  # fmt: skip
ORDINAL_WORDS = {
    "first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8, "ninth": 9,
    "tenth": 10, "eleventh": 11, "twelfth": 12,
}  # fmt: skip
CHINESE_DIGITS = {c: i for i, c in enumerate("零一二三四五六七八九十")}
EVERY_REAL = frozenset(
    [
        "all real numbers",
        "all reals",
        "real numbers",
        "every real number",
        "all real number",
        "any real number",
        "reals",
    ]
)
NO_SOLUTION = frozenset(
    [
        "no solution",
        "no solutions",
        "no real solutions",
        "no real solution",
        "empty set",
        "no such numbers exist",
        "no real roots",
        "no roots",
        "no solutions exist",
        "no solution exists",
        "no real solutions exist",
        "no real root",
        "none",
    ]
)
SAME_WORDS = {
    "all integers": "ℤ", "integers": "ℤ", "set of all integers": "ℤ",
    "all rational numbers": "ℚ", "rational numbers": "ℚ", "all complex numbers": "ℂ", "complex numbers": "ℂ",
    "all natural numbers": "ℕ", "natural numbers": "ℕ",
    "all positive integers": "positive integers", "every positive integer": "positive integers",
    "all nonnegative integers": "nonnegative integers", "all negative integers": "negative integers",
    "all non negative integers": "nonnegative integers", "non negative integers": "nonnegative integers",
    "dne": "does not exist", "doesn t exist": "does not exist", "limit does not exist": "does not exist",
    "undefined": "does not exist", "not exist": "does not exist", "infinitely many": "∞",
    "infinite": "∞", "infinitely many solutions": "∞",
    "there are infinitely many solutions": "∞", "infinity": "∞", "positive infinity": "∞",
}  # fmt: skip
