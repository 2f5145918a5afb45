"""An OpenAI-compatible server: a client that changes its base URL asks an RLM in place of a model.

The messages of a request become data in a REPL, so that they may be of any length; what the root LM
does meanwhile comes as reasoning, its answer as content, and the usage is that of the whole tree.
"""
