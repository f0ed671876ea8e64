"""Imported in the server of forked children only, which has to outlive SIGTERM.

A scheduler sends SIGTERM to all processes of a job. The process that started a child learns of its end from the server;
without one it would take a child that still saves for dead. The server ends with the process that started it.
"""

import signal

# Blocked, not ignored: a child inherits it, and gets a SIGTERM of its first moments when it has a handler.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
