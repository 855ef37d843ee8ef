"""The one exception that speaks to users.

Everything a user can get wrong (a path, a key, a graph, a broken file) raises `UserError` with one line that says
what was found, what is wanted and what to do. The command line prints that line and exits with status 2; any other
exception is a defect of fastplan and keeps its traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake the user can mend; its text is the whole explanation."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ", did you mean 'x'?" for the closest of `known`, or the list of them when none is close."""
    known = sorted(known)
    close = get_close_matches(word, known, n=1)
    return f", did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"
