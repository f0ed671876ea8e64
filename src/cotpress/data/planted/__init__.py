"""Built-in data: word problems whose redundant thinking is planted and labelled."""
