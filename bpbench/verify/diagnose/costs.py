"""What does an explanation cost? A mistake costs 1; here is all that is not one known formula."""

LATER = 0.0001
"""More for each row than for the row before: where two give the same numbers, the common one."""
ARRAYS = 100 * LATER
"""More for the rows of dW and db: they are as likely as those of delta after the hundredth."""
ROUNDING = 1.5
"""A small error that rounding would explain: more than a mistake that gives the very numbers, and
not so much that for one of them other outputs are tried.
"""
LENGTH = 2
"""The right direction and a length that follows no rule: less than an array that is unknown."""
UNKNOWN_COST = 4
"""An array that nothing explains: more than a few mistakes that do explain it."""
ALIKE = 0.5
"""Explanations whose costs differ by less take as many mistakes, and are all named."""
