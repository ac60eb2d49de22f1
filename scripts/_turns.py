"""Processes that are timed side by side: each stops after every step, and they go on one after the other.

A process prints JSON and waits for a line: `pause`. `Member` is its end here.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from typing import Any, TextIO

_channel: TextIO | None = None


def report(numbers: dict[str, Any]) -> None:
    """Tell the parent. From the first call on, whatever else is printed goes to stderr: progress bars end no lines."""
    global _channel
    if _channel is None:
        sys.stdout.flush()
        _channel = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
    print(json.dumps(numbers), file=_channel, flush=True)


def pause(numbers: dict[str, Any]) -> None:
    """Tell the parent and wait for its word."""
    report(numbers)
    if not sys.stdin.readline():
        sys.exit("the script that started this process is gone")


class Member:
    """A child that stops after every step until it is told to go on."""

    def __init__(self, job: dict[str, Any]) -> None:
        command = [sys.executable, sys.argv[0], "--member", json.dumps(job)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.reports: list[dict[str, Any]] = []

    def go_on(self) -> bool:
        """Let it run to its next stop; False at its end."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if self.reports:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("{"):
                self.reports.append(json.loads(line))
                if "own_loss" not in self.reports[-1]:
                    return True
        if self.process.wait():
            raise SystemExit(f"{self.process.args!r} ended with {self.process.returncode}")
        return False

    @property
    def own_loss(self) -> str:
        return next((f"{each['own_loss']:.4f}" for each in self.reports if "own_loss" in each), "")

    @property
    def median_s(self) -> float:
        """Of a step; the first one warms up."""
        seconds = [each["seconds"] for each in self.reports if "seconds" in each]
        return statistics.median(seconds[1:] or seconds)

    @property
    def peak_bytes(self) -> int:
        return max(each["peak"] for each in self.reports if "peak" in each)


def in_turn(members: list[Member]) -> None:
    """One step of each, until all are done."""
    while members:
        members = [member for member in members if member.go_on()]


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
