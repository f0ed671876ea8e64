"""Jobs: one job of an entry script, many jobs of a multirun, and the lines that the terminal shows of them."""
