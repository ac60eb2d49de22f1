"""What was counted and what went wrong."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from .home import Case

MOST_TOKENS_AFTER = 2
NOTICE_S = 0.05  # or as many as are made meanwhile, where a small base makes more: the news has to arrive
MOST_HALF_OPEN_S = 30.0


@dataclass
class Counts:
    """counted: what happened how often. wrong: what must not have happened, with the first few of each kind in words."""

    right: dict[str, set[str]] = field(default_factory=dict)  # text -> the profiles that say it
    counted: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    half_open_s: dict[str, float] = field(default_factory=dict)
    tokens_seen: dict[str, int] = field(default_factory=dict)  # by request id, of those that were left
    last_s: float | None = None  # when the last answer came; None while nobody looks
    longest_gap_s: float = 0.0

    def knows(self, cases: list[Case]) -> Counts:
        """Learn what each profile says."""
        for case in cases:
            self.right.setdefault(case.text, set()).add(case.model)
        return self

    def add(self, what: str, count: int = 1) -> None:
        """It happened."""
        self.counted[what] += count

    def fail(self, what: str, how: str) -> None:
        """It should not have happened."""
        self.wrong[what].append(how)

    def check_answer(self, case: Case, text: str, reason: str) -> None:
        """A whole answer has come."""
        self.add("whole answers")
        self.note_time()
        if (text, reason) == (case.text, case.reason):
            return
        others = self.right.get(text, set()) - {case.model}
        what = "answers of another profile" if others else "answers that differ from the one alone"
        self.fail(
            what, f"{case.model} {case.prompt!r} {case.sampling}: {text!r} {reason}, not {case.text!r} {case.reason}"
        )

    def note_time(self) -> None:
        """An answer has come, or the clients' time is over."""
        if self.last_s is not None:
            now = time.monotonic()
            self.longest_gap_s, self.last_s = max(self.longest_gap_s, now - self.last_s), now

    def left(self, case: Case, request_id: str, tokens: int, text: str) -> None:
        """A stream was left after `text`."""
        self.add("left a stream")
        self.tokens_seen[request_id] = tokens
        if not case.text.startswith(text.rstrip("\ufffd")):
            self.fail("answers that differ from the one alone", f"{case.model} {case.prompt!r}: began {text!r}")

    def closed_half(self, way: str, seconds: float) -> None:
        """A connection with half a request was closed after `seconds`."""
        self.add(f"half open, {way}")
        self.half_open_s[way] = max(seconds, self.half_open_s.get(way, 0.0))
        if seconds > MOST_HALF_OPEN_S:
            self.fail("half-open connections", f"{way}: open for {seconds:.1f} s")

    def check_left(self, logged: dict[str, int], made: int, token_s: float) -> None:
        """Tokens that were made for clients who had gone.

        logged: tokens of each request when its answer ended or the server saw that the client had left. made: of all.
        token_s: mean time between two tokens of an answer.
        """
        late = [logged[each] - seen for each, seen in self.tokens_seen.items() if each in logged]
        leavers = self.counted["left a stream"] + self.counted["left without a stream"]
        after = (made - sum(logged.values())) / max(1, leavers)
        self.counted["most tokens between a client's leaving and the server's seeing it"] = max(late, default=0)
        self.counted["streams with more than two"] = sum(each > MOST_TOKENS_AFTER for each in late)
        self.counted["thousandths of a token after that, mean"] = round(1000 * after)
        most = max(MOST_TOKENS_AFTER, NOTICE_S / token_s)
        if max(late, default=0) + after > most:
            self.fail(
                "tokens after a disconnect", f"{max(late, default=0)} and then {after:.2f}, not {most:.1f} at most"
            )

    def check_memory(self, before: int, after: int, most: float) -> None:
        """Bytes of the server before and after; `most` as a multiple."""
        self.counted["MB before"], self.counted["MB after"] = before // 10**6, after // 10**6
        if after > most * before:
            self.fail("memory", f"{before / 1e6:.0f} MB became {after / 1e6:.0f} MB")

    def report(self) -> str:
        """All of it, a line each."""
        lines = [f"{name:<70}{count:>10}" for name, count in self.counted.items()]
        lines += [f"{f'longest time half open, {way}, s':<70}{took:>10.1f}" for way, took in self.half_open_s.items()]
        lines += [f"{'longest time without a whole answer, s':<70}{self.longest_gap_s:>10.1f}"]
        for what, how in self.wrong.items():
            lines += [f"WRONG {what}: {len(how)}", *(f"    {each}" for each in how[:3])]
        return "\n".join(lines)
