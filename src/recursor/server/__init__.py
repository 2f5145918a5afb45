"""An OpenAI-compatible server: a client that changes its base URL asks an RLM in place of a model.

The messages of a request become data in a REPL, so that they may be of any length; what the root LM
does meanwhile comes as reasoning, its answer as content, and the usage is that of the whole tree.

    app          HTTP: who may ask, and which API
    chat, responses   the two APIs: requests in, replies and events out
    asked        what both ask for
    functions    functions of the client, as tools for code
    work, held   a run, and runs that wait for their client
    keys, accounts, spending   who clients are, and what they may use and have used
    metrics, progress, failures   what is told: to operators, to readers of a stream, of errors
"""
