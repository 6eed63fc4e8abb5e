"""`--max-restarts`: what is tried again, how often, and what is not."""

from __future__ import annotations

import pytest

from distgrad.cli.restart import FIRST_PAUSE, LONGEST_PAUSE, persist
from distgrad.cli.supervise import Ended


class Attempts:
    """Attempts that end as listed, and the pauses between them."""

    def __init__(self, *ends: int | Ended) -> None:
        self.ends = [end if isinstance(end, Ended) else Ended(end) for end in ends]
        self.count = 0
        self.pauses: list[float] = []

    def __call__(self) -> Ended:
        self.count += 1
        return self.ends[self.count - 1]

    def run(self, restarts: int) -> int:
        return persist(self, restarts, self.pauses.append)


@pytest.mark.parametrize(("ends", "restarts", "code", "count"), [
    ([0], 3, 0, 1),
    ([1, 0], 3, 0, 2),
    ([1, 124, 139, 5], 3, 5, 4),
    ([1], 0, 1, 1),
    ([2], 3, 2, 1),
    ([Ended(130, asked=True)], 3, 130, 1),
    ([1, Ended(143, asked=True)], 3, 143, 2),
    ([Ended(140, asked=True)], 3, 140, 1),
])
def test_failures_alone_are_tried_again(ends: list[int | Ended], restarts: int, code: int, count: int) -> None:
    attempts = Attempts(*ends)
    assert attempts.run(restarts) == code and attempts.count == count


def test_pauses_grow_up_to_a_bound() -> None:
    attempts = Attempts(*[1] * 10)
    attempts.run(9)
    assert attempts.pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert max(attempts.pauses) == attempts.pauses[-1] == LONGEST_PAUSE and len(attempts.pauses) == 9


def test_it_says_which_attempt_and_gives_up_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    Attempts(1, 3).run(1)
    first, last = capsys.readouterr().err.splitlines()
    assert first == "distgrad run: exit code 1; attempt 2 of 2 starts in 1 s"
    assert last == "distgrad run: exit code 3 at attempt 2, which was the last of --max-restarts 1"
    Attempts(3).run(0)
    assert capsys.readouterr().err == "", "nothing to say where nothing was asked for"


def test_ctrl_c_in_a_pause_ends_it() -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    assert persist(lambda: Ended(1), 3, interrupted) == 130
