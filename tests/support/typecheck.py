"""Annotations of arrays checked at run time, for jaxtyping's import hook: functions and methods by beartype."""

import beartype

_CHECKED = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))  # an int is a float too


def checked(function):
    """Leaves out `__init__`, as jax rebuilds dataclasses from anything, inner functions, and what takes no array."""
    takes_arrays = any("Array" in str(annotation) for annotation in function.__annotations__.values())
    if not takes_arrays or function.__name__ == "__init__" or "<locals>" in function.__qualname__:
        return function
    return _CHECKED(function)
