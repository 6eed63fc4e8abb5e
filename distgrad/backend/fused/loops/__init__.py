"""The loops that numba compiles, a family a file; imported only when one of them is not in the cache yet.

`native.Loop` says the types of their arguments. Loops that leave vectors to the compiler touch few arrays
each: with more, it gives up proving that they do not overlap. `..vectors` says vectors outright.
"""

__all__: list[str] = []
