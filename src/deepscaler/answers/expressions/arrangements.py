r"""Numbers of choices and of arrangements as they are written beside `\binom`: `C_5^2`, `{}^5C_2`, `P(5,2)`."""

from __future__ import annotations

from fractions import Fraction

from deepscaler.answers.trees import INTEGER_LETTERS, Tree, is_whole

ARRANGING = frozenset("CPA")
ZERO = Fraction(0)


def arranged(letter: str, n: Tree, k: Tree) -> Tree | None:
    """The number of choices of k from n for the letter C, of arrangements for P and A; None for a power.

    `C_1^2` is a constant squared, since nobody chooses two from one; so are letters other than n, m, k and their like.
    """
    if is_whole(n) and is_whole(k):
        if not ZERO <= k[1] <= n[1]:
            return None
    elif letter != "C" or not (_counts(n) and (_counts(k) or is_whole(k))):
        return None
    if letter == "C":
        return ("call", "binom", n, k)
    return ("div", ("call", "factorial", n), ("call", "factorial", ("add", n, ("neg", k))))


def _counts(tree: Tree) -> bool:
    """Whether the tree is made of whole numbers and letters for whole numbers."""
    if tree[0] == "sym":
        return tree[1] in INTEGER_LETTERS
    if tree[0] == "num":
        return is_whole(tree)
    return tree[0] in ("add", "mul", "neg") and all(map(_counts, tree[1:]))
