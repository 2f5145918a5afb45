"""An OpenAI-compatible server: a client that changes its base URL asks an RLM in place of a model.

The messages of a request become data in a REPL, so that they may be of any length; what the root LM
does meanwhile comes as reasoning, its answer as content, and the usage is that of the whole tree.

    app, responding           HTTP: who may ask, which API, and what is served beside questions
    listening, body           connections, and bodies of requests: how slow, how large
    chat, responses           the two APIs: requests in, replies and events out (of responses: response_form)
    request, asked, choice    what both have in common, and ask for; whether a call of a function is the answer
    instructions, functions   system messages, as instructions; functions of the client, as tools for code
    runs, work, held          all runs, one of them, and those that wait for their client
    reply, sessions           how a reply is sent; conversations
    stored, later, again      responses that are kept; that go on by themselves; that go on after a restart
    keys, accounts, spending  who clients are, and what they may use and have used
    metrics, progress, failures   what is told: to operators, to readers of a stream, of errors
"""
