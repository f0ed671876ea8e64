"""Imported in the server of forked children only, which has to outlive SIGTERM.

A scheduler sends SIGTERM to all processes of a job. The process that started a child learns of its end from the server;
without one it would take a child that still saves for dead. The server ends with the process that started it.
"""

import signal

signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a child sets a handler of its own
