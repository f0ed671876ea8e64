"""Rows that `datasets.load_dataset` reads: KIND FILE, or FOLDER; prints them as JSON."""

import json
import sys

from datasets import load_dataset

kind, *files = sys.argv[1:]
rows = load_dataset(kind, data_files=files, split="train") if files else load_dataset(kind, split="train")
sys.stdout.write("\n" + json.dumps(rows.to_list()) + "\n")
