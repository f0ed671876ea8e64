"""Reading and writing on disk: artifacts, tables, journals, paths, secrets in text, and the files of a sweep."""
