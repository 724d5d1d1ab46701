"""onnxruntime as a worker needs it: silent, and without threads of its own.

Holds the import; does not hold its use (`artefact.py`). From version 1.29 on, onnxruntime starts a thread that sends
usage data over the network. A worker neither asked for that nor survives it: a forked child hangs at its end while it
waits for a thread that only its parent has (seen with 1.32). The switch is read from the environment when the library
is loaded, so this module is imported before anything that loads it. A program that imports onnxruntime earlier by
itself sets `ORT_DISABLE_TELEMETRY=1` beforehand.
"""

from __future__ import annotations

import os

os.putenv("ORT_DISABLE_TELEMETRY", "1")  # for the library's own reading; Python's view stays as it is

import onnxruntime

__all__ = ["onnxruntime"]
