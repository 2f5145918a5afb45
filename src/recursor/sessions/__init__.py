"""Conversations over one REPL: kept alive between questions, recorded, and made again after a restart."""
