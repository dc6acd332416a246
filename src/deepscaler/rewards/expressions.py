"""Recursive descent from tokens to an expression tree. Nothing is evaluated here."""

from __future__ import annotations

from collections.abc import Sequence

from deepscaler.rewards.applied import is_argument
from deepscaler.rewards.arrangements import ARRANGING, arranged
from deepscaler.rewards.brackets import closing
from deepscaler.rewards.cursor import Cursor
from deepscaler.rewards.derivatives import derivative_at
from deepscaler.rewards.showing import tree_text
from deepscaler.rewards.tokens import Token, UnreadableError
from deepscaler.rewards.trees import (
    CONSTANTS,
    FIGURES,
    FUNCTIONS,
    GREEK,
    OPENING,
    PLUS_MINUS,
    TEN,
    TWO,
    UNKNOWN_FUNCTIONS,
    VERBATIM,
    Tree,
    constant,
    is_digits,
    is_operand,
    is_proper,
    is_whole,
    named_figure,
    number,
    product,
    subscripted,
    with_bound_scripts,
)

MAX_POSTFIX = 8  # of one atom: x'''!^2…
MAX_QUOTIENTS = 30  # of one term: a/b/c…


def parse_expression(tokens: Sequence[Token]) -> Tree:
    """The tree of one expression. Raises UnreadableError."""
    parser = _Parser(tokens)
    tree = parser.group()
    if parser.position != len(parser.tokens):
        raise UnreadableError(f"left over: {parser.tokens[parser.position].value!r}")
    return tree


class _Parser(Cursor):
    # Sums and products -------------------------------------------------------------------------------------------

    def expression(self) -> Tree:
        self.deeper()
        terms = [self._signed_term()]
        while self.value() in ("+", "-", "pm", "mp"):
            terms.append(self._signed_term())
        self.depth -= 1
        return terms[0] if len(terms) == 1 else ("add", *terms)

    def group(self) -> Tree:
        r"""An expression, or the two of `n \choose k` and `a \over b`."""
        tree = self.expression()
        if self.accept("choose"):
            return ("call", "binom", tree, self.expression())
        return ("div", tree, self.expression()) if self.accept("over") else tree

    def _signed_term(self) -> Tree:
        plus_minus = negative = False
        for _ in range(3):
            sign = self.value()
            if sign not in ("+", "-", "pm", "mp"):
                break
            negative ^= sign in ("-", "mp")
            plus_minus |= sign in ("pm", "mp")
            self.position += 1
        term = self._term()
        if plus_minus:
            term = ("mul", PLUS_MINUS, term)
        return ("neg", term) if negative else term

    def _term(self) -> Tree:
        factors = [self._factor()]
        quotients = 0
        while True:
            operator = self.value()
            if operator in ("*", "times", "cdot"):
                self.position += 1
                factors.append(self._factor())
            elif operator in ("/", "mod"):
                quotients += 1
                if quotients > MAX_QUOTIENTS:
                    raise UnreadableError("too many quotients")
                self.position += 1
                left, right = product(factors), self._factor()
                factors = [("div", left, right) if operator == "/" else ("call", "mod", left, right)]
            elif self._starts_atom():
                self._juxtaposed(factors)
            else:
                return product(factors)

    def _starts_atom(self) -> bool:
        token = self.peek()
        if token is None or token.kind == "prose":
            return False
        if token.kind in ("num", "letters"):
            return True
        if token.value == "|":
            return self.bars == 0
        return token.value in ("(", "[", "{") or (token.kind == "cmd" and is_operand(token.value))

    def _juxtaposed(self, factors: list[Tree]) -> None:
        """A factor without an operator: a product, or the fraction of a mixed number."""
        before, token, left = self.tokens[self.position - 1], self.peek(), factors[-1]
        assert token is not None
        if before.kind == "num" and token.value in ("C", "P") and self._is_whole_number(1):
            self.position += 2
            tree = arranged(token.value, left, number(self.tokens[self.position - 1].value))
            if tree is None:
                raise UnreadableError("a number of choices that does not exist")
            factors[-1] = tree
            return
        if token.kind == "num":
            if before.kind == "num" and self.tokens[self.position - 2].value == "^" and token.spaced:
                factors.append(self._power())  # 2^3 3^2
                return
            if before.kind == "num":
                factors[-1] = self._mixed_in_line(left)
                return
            if before.value not in (")", "}", "]", "|", "!"):
                raise UnreadableError("a number follows without an operation")
        if before.kind == "num" and token.value == "frac" and is_whole(left):
            right = self._power()
            inner = right[2] if right[:2] in (("call", "degree"), ("call", "percent")) else right
            if is_proper(inner):
                mixed: Tree = ("add", left, inner)
                factors[-1] = mixed if inner is right else (*right[:2], mixed)
                return
        else:
            right = self._power()
        factors.append(right)

    def _is_whole_number(self, ahead: int) -> bool:
        token = self.peek(ahead)
        return token is not None and token.kind == "num" and token.value.isdigit()

    def _mixed_in_line(self, left: Tree) -> Tree:
        """`1 1/4`: whole, space, numerator / denominator."""
        top, bottom = self.peek(), self.peek(2)
        assert top is not None
        if not (top.spaced and self.value(1) == "/" and bottom is not None and bottom.kind == "num"):
            raise UnreadableError("two numbers side by side")
        fraction: Tree = ("div", number(top.value), number(bottom.value))
        if not (is_whole(left) and is_proper(fraction)):
            raise UnreadableError("two numbers side by side")
        self.position += 3
        return ("add", left, fraction)

    def _factor(self) -> Tree:
        negative = False
        while self.value() in ("-", "+"):
            negative ^= self.value() == "-"
            self.position += 1
        tree = self._power()
        return ("neg", tree) if negative else tree

    # Powers and what else is written behind an atom ----------------------------------------------------------------

    def _power(self) -> Tree:
        tree = self._atom()
        for _ in range(MAX_POSTFIX):
            sign = self.value()
            if sign == "^":
                self.position += 1
                tree = self._raised(tree)
            elif sign == "_":
                self.position += 1
                tree = subscripted(tree, self._script())
            elif sign == "!":
                self.position += 1
                tree = ("call", "factorial2" if self.accept("!") else "factorial", tree)
            elif sign in ("%", "circ"):
                self.position += 1
                tree = ("call", "percent" if sign == "%" else "degree", tree)
            elif sign == "'":
                self.position += 1
                tree = subscripted(tree, "'")
            else:
                break
            if self.value() == "(":
                tree = self._scripted_function(tree)
        return tree

    def _scripted_function(self, tree: Tree) -> Tree:
        """`f'(x)`, `f_1(x)`, `f^{-1}(x)`, `f^2(x)`."""
        if tree[0] == "sym":
            return self._applied(tree, tree[1].rstrip("'*+-").partition("_")[0])
        power_of_function = tree[0] == "pow" and tree[1][0] == "sym" and tree[1][1] in UNKNOWN_FUNCTIONS
        return self._applied(tree, tree[1][1]) if power_of_function else tree

    def _raised(self, base: Tree) -> Tree:
        braced = self.value() == "{"
        inside = self.value(1) if braced else self.value()
        letter = self.peek(1) if braced else self.peek()
        degrees = is_whole(base) and letter is not None and letter.kind == "letters" and letter.value == "o"
        if (inside == "circ" or degrees) and (not braced or self.value(2) == "}"):
            self.position += 3 if braced else 1
            return ("call", "degree", base)
        if inside == "'" or (inside in ("*", "+", "-") and (not braced or self.value(2) == "}")):
            self.position += braced
            marks = ""
            while self.value() in ("'", "*", "+", "-"):
                marks += self.value()
                self.position += 1
            if braced:
                self.take("}")
            return subscripted(base, marks)
        exponent = self._exponent()
        if self.accept("_"):  # v^2_0 is v_0 squared
            base = subscripted(base, self._script())
        return ("pow", base, exponent)

    def _exponent(self) -> Tree:
        self.deeper()
        if self.value() in ("-", "+"):
            negative = self.value() == "-"
            self.position += 1
            tree = self._exponent()
            tree = ("neg", tree) if negative else tree
        elif self.value() == "{":
            tree = self._braced()
        else:
            tree = self._atom()
            if self.accept("^"):  # a tower without braces: 2^3^2
                tree = ("pow", tree, self._exponent())
        self.depth -= 1
        return tree

    def _script(self) -> str:
        """A subscript as text."""
        token = self.peek()
        if token is None:
            raise UnreadableError("nothing below the line")
        if self.value() != "{":
            self.position += 1
            return token.value
        end, depth = self.position, 0
        while end < len(self.tokens):
            depth += {"{": 1, "}": -1}.get(self.tokens[end].value, 0)
            end += 1
            if depth == 0:
                break
        text = "".join(t.value for t in self.tokens[self.position + 1 : end - 1] if t.value not in ("{", "}"))
        self.position = end
        return text

    # Atoms ---------------------------------------------------------------------------------------------------------

    def _atom(self) -> Tree:
        self.deeper()
        tree = self._undivided()
        self.depth -= 1
        return tree

    def _undivided(self) -> Tree:
        token = self.peek()
        if token is None:
            raise UnreadableError("an operand is missing")
        self.position += 1
        if token.kind == "num":
            return number(token.value)
        if token.kind == "letters":
            return self._letter(token.value)
        name = token.value
        if token.kind == "prose":
            raise UnreadableError(f"prose: {name!r}")
        if name in ("^", "_") or (name == "{" and self.value() == "}" and self.value(1) in ("^", "_")):
            return self._behind_scripts(name)
        if name in OPENING:
            return self._enclosed(name)
        if name == "|":
            self.bars += 1
            tree = self.expression()
            self.take("|")
            self.bars -= 1
            return ("call", "abs", tree)
        if name == "frac":
            derivative = derivative_at(self.tokens, self.position)
            if derivative is not None:
                self.position += derivative[0]
                return ("sym", derivative[1])
            return ("div", self._argument(), self._argument())
        if name == "binom":
            return ("call", "binom", self._argument(), self._argument())
        if name in CONSTANTS:
            return ("sym", CONSTANTS[name])
        if name in FIGURES:
            return self._figure(name)
        if name in GREEK:
            return self._applied(("sym", name), name)
        if name in VERBATIM or is_digits(name):
            return ("sym", name)
        if name in ("sum", "prod"):
            return self._series(name)
        if name in FUNCTIONS:
            return self._function(name)
        raise UnreadableError(f"unknown {name!r}")

    def _figure(self, name: str) -> Tree:
        r"""`\angle ABC` is one name, whichever end is read first; `2\angle 60^\circ` a complex number by its angle."""
        before = self.tokens[self.position - 2] if self.position > 1 else None
        token = self.peek()
        if token is not None and token.kind == "num":
            if before is not None and (before.kind == "num" or before.value in (")", "}")):
                return ("call", "cis", self._power())
            self.position += 1
            return ("sym", name + token.value)
        corners: list[str] = []
        while (token := self.peek()) is not None and token.kind == "letters":
            self.position += 1
            corners.append(token.value)
            while corners and self.accept("'"):
                corners[-1] += "'"
        return ("sym", named_figure(name, corners))

    def _behind_scripts(self, mark: str) -> Tree:
        """`{}^{10}P_3` and `_{10}P_3`: the first number stands before the letter."""
        if mark == "{":
            self.position += 2
        above = self._script_tree()
        letter = self.peek()
        self.position += 1
        self.take("_")
        known = letter is not None and letter.kind == "letters" and letter.value in ARRANGING
        tree = arranged(letter.value, above, self._script_tree()) if letter is not None and known else None
        if tree is None:
            raise UnreadableError("scripts before what is no number of choices")
        return tree

    def _script_tree(self) -> Tree:
        return self._braced() if self.value() == "{" else self._atom()

    def _between_scripts(self, letter: str) -> Tree | None:
        """`C_5^2` and `C^2_5`; None, at the same place, for what is no number of choices."""
        start, tokens = self.position, list(self.tokens)
        scripts: dict[str, Tree] = {}
        while self.value() in ("_", "^") and self.value() not in scripts and self.value(1) not in ("'", "*", "circ"):
            mark = self.value()
            self.position += 1
            try:
                scripts[mark] = self._script_tree()
            except UnreadableError:
                break
        tree = arranged(letter, scripts["_"], scripts["^"]) if len(scripts) == 2 else None
        if tree is None:
            self.position, self.tokens = start, tokens
        return tree

    def _letter(self, name: str) -> Tree:
        if name in ARRANGING and self.value() in ("_", "^"):
            tree = self._between_scripts(name)
            if tree is not None:
                return tree
        if name == "C" and self.value() == "(":
            start = self.position
            arguments = self._arguments()
            if len(arguments) == 2:
                return ("call", "binom", *arguments)
            self.position = start
        return self._applied(("sym", name), name)

    def _applied(self, tree: Tree, stem: str) -> Tree:
        """The value of a function where brackets behind a letter, with its scripts, hold an argument; else the letter.

        `stem` is the letter without scripts. `I(0)` is a value of I, not I times 0.
        """
        if self.value() != "(":
            return tree
        end = closing(self.tokens, self.position)
        if is_argument(stem, self.tokens[self.position + 1 : end]):
            name = tree[1] if tree[0] == "sym" else f"{tree[1][1]}^{tree_text(tree[2])}"
            return ("call", f"unknown {name}", *self._arguments())
        return tree

    def _enclosed(self, opening: str) -> Tree:
        bars, self.bars = self.bars, 0
        tree = self.group() if opening == "{" else self.expression()
        self.bars = bars
        self.take(OPENING[opening])
        if opening in ("lfloor", "lceil"):
            return ("call", opening[1:], tree)
        return tree

    def _braced(self) -> Tree:
        self.take("{")
        return self._enclosed("{")

    def _argument(self) -> Tree:
        r"""What `\frac` and `\binom` take: a group, or a single digit, letter or command."""
        token = self.peek()
        if token is None:
            raise UnreadableError("an argument is missing")
        if token.kind == "num" and len(token.value) > 1:
            if not token.value.isdigit():
                raise UnreadableError("a fraction of a decimal without braces")
            self.tokens[self.position] = Token("num", token.value[1:])
            return number(token.value[0])
        return self._atom()

    def _series(self, name: str) -> Tree:
        """Sum or product with a bound variable: its body is the term that follows."""
        self.deeper()
        self.take("_")
        self.take("{")
        index = self.peek()
        if index is None or index.kind != "letters":
            raise UnreadableError("a sum over what is no variable")
        self.position += 1
        self.take("=")
        low = self.expression()
        self.take("}")
        self.take("^")
        high = self._exponent()
        body = with_bound_scripts(self._term(), index.value)
        self.depth -= 1
        return ("call", name, ("sym", index.value), low, high, body)

    def _function(self, name: str) -> Tree:
        if name == "sqrt":
            degree = self._enclosed("[") if self.accept("[") else TWO
            return ("call", "root", self._atom(), degree)
        base: Tree | None = None
        power: Tree | None = None
        while self.value() in ("_", "^"):
            self.position += 1
            if self.tokens[self.position - 1].value == "_":
                base = self._exponent()
            else:
                power = self._exponent()
        arguments = self._arguments()
        if name in ("log", "lg") or base is not None:
            if name not in ("log", "lg") or len(arguments) != 1:
                raise UnreadableError(f"{name} with a base")
            tree: Tree = ("call", "log", arguments[0], base or TEN)
        elif len(arguments) != 1 and name not in ("max", "min", "gcd", "lcm"):
            raise UnreadableError(f"{name} of several values")
        elif name in ("max", "min") and len(arguments) == 1 and constant(arguments[0]) is None:
            tree = ("call", f"unknown {name}", *arguments)  # of a function, over all there is
        else:
            tree = ("call", name, *arguments)
        if power is None:
            return tree
        if constant(power) == -1:
            return ("call", "arc" + name, *arguments)
        return ("pow", tree, power)

    def _arguments(self) -> list[Tree]:
        r"""One value or several in brackets, a group, or the product that follows: `\sin 2x`."""
        opening = self.value()
        if opening in ("(", "[", "{", "\\{"):
            self.position += 1
            bars, self.bars = self.bars, 0
            arguments = [self.expression()]
            while self.accept(","):
                arguments.append(self.expression())
            self.bars = bars
            self.take(OPENING[opening])
            return arguments
        self.deeper()
        if self.accept("-"):
            arguments = [("neg", self._arguments()[0])]
        else:
            factors = [self._power()]
            while (
                self._starts_atom() and self.value() not in FUNCTIONS and self.value() not in ("(", "[", "sum", "prod")
            ):
                self._juxtaposed(factors)
            arguments = [product(factors)]
        self.depth -= 1
        return arguments
