"""Jobs for the worker processes of `test_stream`; apart from it, because workers import what they are pickled from."""

import os
import signal

import numpy as np


def double(number):
    """A job for the tests: info and arrays of several kinds, one of them empty."""
    arrays = [np.full((2, 3), 2 * number, np.float32), np.arange(number), np.zeros((0, 4)), np.array(number)]
    return f"room {number}", arrays


def refuse_two(number):
    if number == 2:
        raise ValueError("room 2 is refused")
    return double(number)


def die_at_two(number):
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return double(number)
