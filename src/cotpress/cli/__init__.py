"""The command line: parsing, help, completion, messages and exit codes."""
