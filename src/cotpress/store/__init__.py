"""Everything that touches the disk: artifacts, tables, journals, locks, paths and the files of a sweep."""
