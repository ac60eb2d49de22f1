"""`python pinned_zen.py TIME STOP ARGS...`: `python -m zen_mlx ARGS...` at the time TIME, as version 0.1.0.

TIME: YYYY-MM-DDTHH:MM:SSZ, which the clock shows throughout; intervals are measured as ever. STOP: Ctrl-C comes when
MLX's random numbers are seeded for the STOPth time, as every step of a run does; 0: never. Nothing in here knows the name
of a module of zen_mlx.
"""

import datetime
import importlib.metadata
import os
import runpy
import signal
import sys
import time

AT = datetime.datetime.fromisoformat(sys.argv[1])
STOP = int(sys.argv[2])


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return AT.astimezone(tz).replace(tzinfo=tz)

    @classmethod
    def utcnow(cls):
        return AT.replace(tzinfo=None)


# Before zen_mlx is imported: it may take these names out of their modules.
datetime.datetime = Clock
time.time = AT.timestamp
installed = importlib.metadata.version
importlib.metadata.version = lambda name: "0.1.0" if name.replace("_", "-") == "zen-mlx" else installed(name)

import zen_mlx  # noqa: F401  before any mlx: it brings the BLAS

if STOP:
    import mlx.core as mx

    seed, left = mx.random.seed, [STOP]

    def counted(value):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGINT)
        seed(value)

    mx.random.seed = counted
sys.argv = ["zen", *sys.argv[3:]]
runpy.run_module("zen_mlx", run_name="__main__", alter_sys=True)
