"""The exception whose message is written for users, and what several messages share."""

from __future__ import annotations

import re

from mien.log import LOGGER
from mien.text import shown

NO_NUMBERS = "NaN or infinity, expected numbers; its weights are damaged: copy the whole folder again, or train anew"
"""End of a message about a model with unusable answers: the cause and the remedy."""

NO_MEMORY = "needs more memory than there is left; close other programs, or make it smaller"
"""End of a message about a picture or film that is too large for the memory."""


def one_line(text: str) -> str:
    """Joins the lines of a text; other white space stays, as file names may contain it."""
    return re.sub(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", text).strip()


LONGEST_REASON = 300
"""Letters of an error of a library that a message repeats; some quote thousands of bytes of a damaged file."""


def first_line(error: BaseException) -> str:
    """Returns the first line of an error of a library, shortened, or the name of its kind if it says nothing."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}..."


class MienError(Exception):
    """An error in the user's input, described on one line.

    The message says what was wrong, where (file, row or field), what was expected and what to do. It is safe for a
    terminal (``mien.text.shown``). The command line prints it without a traceback and exits
    with code 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shown(one_line(message)))


class Faults:
    """Collects what is wrong with the parts of a source, so that one error names them all.

    Its size is bounded: the first ``NAMED`` are kept, the others counted. ``mien --verbose`` names each as it is found.

    Args:
        source: name of the source in messages.
        parts: what the parts are, in the plural: "pictures".
    """

    NAMED = 5
    MANY = 1000

    def __init__(self, source: str, parts: str) -> None:
        self.count, self._stopped = 0, False
        self._source, self._parts = source, parts
        self._first: list[tuple[str, MienError]] = []

    def add(self, place: str, error: MienError) -> None:
        """Counts a faulty part, whose error begins with its place."""
        self.count += 1
        if len(self._first) < self.NAMED:
            self._first.append((place, error))
        LOGGER.debug("%s", error)

    def are_the_rule(self, parts: int) -> bool:
        """True if there are many, and more than sound ones: the source is of another kind, so that reading can stop."""
        self._stopped = self.count >= self.MANY and 2 * self.count > parts
        return self._stopped

    def check(self, parts: int) -> None:
        """Raises one error about everything that is wrong, if there is anything.

        Args:
            parts: how many were looked at.

        Raises:
            MienError: a part has a fault.
        """
        if self.count == 1:
            raise self._first[0][1]
        if not self.count:
            return
        places: dict[str, list[str]] = {}
        for place, error in self._first:
            problem = str(error).removeprefix(shown(one_line(place)))
            places.setdefault(problem, []).append(place.removeprefix(self._source).lstrip(":/\\ "))
        problems = [", ".join(named) + problem.rpartition("; ")[0] for problem, named in places.items()]
        if self.count > self.NAMED:
            problems.append(f"and {self.count - self.NAMED:,} more, which --verbose names")
        remedies = dict.fromkeys(problem.rpartition("; ")[2] for problem in places)
        raise MienError(
            f"{self._source}: {self.count:,} of {'the first ' * self._stopped}{parts:,} {self._parts} cannot be used: "
            f"{'; '.join(problems)}; {'; '.join(remedies)}"
        )
