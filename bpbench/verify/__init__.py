"""Is a gradient right, and if not, where and why is it wrong?

``truth`` computes what is right in a higher precision, ``tolerance`` how far rounding alone may
stray from it, ``verdict`` holds the two against what a backend or a person found.
"""
