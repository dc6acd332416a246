"""Recursive descent from tokens to an expression tree. Nothing is evaluated here."""

from __future__ import annotations

from collections.abc import Sequence

from deepscaler.answers.expressions.arrangements import arranged
from deepscaler.answers.expressions.atoms import Atoms
from deepscaler.answers.tokens.lexer import Token, UnreadableError
from deepscaler.answers.trees import (
    PLUS_MINUS,
    UNKNOWN_FUNCTIONS,
    Tree,
    is_operand,
    is_proper,
    is_whole,
    number,
    product,
    subscripted,
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


class _Parser(Atoms):
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
