"""What an expression is made of: numbers, letters, groups, functions with their arguments."""

from __future__ import annotations

from abc import ABC, abstractmethod

from deepscaler.answers.expressions.applied import is_argument
from deepscaler.answers.expressions.arrangements import ARRANGING, arranged
from deepscaler.answers.expressions.cursor import Cursor
from deepscaler.answers.expressions.derivatives import derivative_at
from deepscaler.answers.render import tree_text
from deepscaler.answers.tokens.brackets import closing
from deepscaler.answers.tokens.lexer import Token, UnreadableError
from deepscaler.answers.trees import (
    CONSTANTS,
    FIGURES,
    FUNCTIONS,
    GREEK,
    OPENING,
    TEN,
    TWO,
    VERBATIM,
    Tree,
    constant,
    is_digits,
    named_figure,
    number,
    product,
    with_bound_scripts,
)


class Atoms(Cursor, ABC):
    """The part of the parser below powers and products, which `parser` adds."""

    @abstractmethod
    def expression(self) -> Tree: ...

    @abstractmethod
    def group(self) -> Tree: ...

    @abstractmethod
    def _term(self) -> Tree: ...

    @abstractmethod
    def _power(self) -> Tree: ...

    @abstractmethod
    def _exponent(self) -> Tree: ...

    @abstractmethod
    def _starts_atom(self) -> bool: ...

    @abstractmethod
    def _juxtaposed(self, factors: list[Tree]) -> None: ...

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
            return self._quotient()
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

    def _quotient(self) -> Tree:
        derivative = derivative_at(self.tokens, self.position)
        if derivative is None:
            return ("div", self._argument(), self._argument())
        self.position += derivative[0]
        return ("sym", derivative[1])

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
        """`{}^{10}P_3` and `_{10}P_3`: the first number precedes the letter."""
        if mark == "{":
            self.position += 2
        above = self._script_tree()
        letter = self.peek()
        self.position += 1
        self.take("_")
        known = letter is not None and letter.kind == "letters" and letter.value in ARRANGING
        tree = arranged(letter.value, above, self._script_tree()) if letter is not None and known else None
        if tree is None:
            raise UnreadableError("scripts before something other than a number of choices")
        return tree

    def _script_tree(self) -> Tree:
        return self._braced() if self.value() == "{" else self._atom()

    def _between_scripts(self, letter: str) -> Tree | None:
        """`C_5^2` and `C^2_5`; None, at the same position, for anything else."""
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
            raise UnreadableError("a sum over something other than a variable")
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
