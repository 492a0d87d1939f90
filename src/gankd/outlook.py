"""Progress of a run and the time it still takes: what its stages are expected to take, and how the present one goes."""

from collections.abc import Mapping

STUDENTS = "students"
MOST = 20.0
"""Most times slower, or faster, than expected that a stage may seem to go: its first steps tell little."""


class Outlook:
    """Progress of a whole run.

    Args:
        expected: seconds by name of stage, in order; the name of a further pipeline's stage begins with that of the
            first. All students are one stage, `STUDENTS`.
        students: number of students that will be trained.
    """

    def __init__(self, expected: Mapping[str, float], students: int) -> None:
        self._open, self._whole = dict(expected), max(sum(expected.values()), 1e-9)
        self._students, self._trained, self._stage = students, 0, ""

    def student_ended(self) -> None:
        """One more student is trained."""
        self._trained += 1

    @property
    def student(self) -> str:
        """The present student, as in `7 of 24`."""
        return f"{min(self._trained + 1, self._students)} of {self._students}"

    def at(self, stage: str, done: int, total: int, left: float) -> tuple[float, float]:
        """Share of the run that is done, and seconds that are left.

        Args:
            stage: name of the present stage or student; `STUDENTS` if several are trained side by side.
            done, total: how far it is.
            left: seconds that it will still take, by its own progress.
        """
        share = done / max(total, 1)
        if stage == STUDENTS:  # the time of one student on average, as if it began now
            share, left = 0.0, left / max(total - done, 1)
        word = stage.split()[0]
        name = next((name for name in self._open if name.startswith(word)), "")
        name = STUDENTS if word.startswith("student") else name
        if name != self._stage != STUDENTS:
            self._open.pop(self._stage, None)  # a stage ends when the next begins
        self._stage = name
        waiting = max(self._students - self._trained, 0)
        each = self._open.get(STUDENTS, 0.0) / max(self._students, 1)
        present = self._open.get(name, 0.0) if name != STUDENTS else each * min(waiting, 1)
        later = sum(seconds for other, seconds in self._open.items() if other not in (name, STUDENTS))
        later += each * (waiting - (name == STUDENTS and waiting > 0))
        here = (1 - share) * present
        slower = min(MOST, max(1 / MOST, left / here)) if here > 0 and left > 0 else 1.0
        return 1 - (here + later) / self._whole, left + slower * later
