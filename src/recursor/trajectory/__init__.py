"""What was recorded of runs: the store, its read side, and JSONL."""
