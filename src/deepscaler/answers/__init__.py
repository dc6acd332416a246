r"""Whether two mathematical answers are equal. Usable alone: no torch, no processes, no files, nothing to set up.

>>> from deepscaler.answers import equal, equivalent
>>> equal(r"\frac{1}{2}", "0.5"), equal("x^2-1", "(x-1)(x+1)"), equal("(1,2]", "[1,2]")
(True, True, False)
>>> equivalent("3.14", r"\pi").how
'different values'

Text becomes tokens (`tokens`), tokens become an answer of a kind (`grammar`, `expressions`, `units`; the kinds are in
`kinds`), and two answers are compared by structure (`comparison`) and value (`values`). The text is never evaluated as
code, the work per pair is bounded, and no text raises. docs/grading-policy.md lists what mathematics does not decide.
"""

from deepscaler.answers.equivalence import Equality, equal, equivalent, explain, is_parsable

__all__ = ["Equality", "equal", "equivalent", "explain", "is_parsable"]
