"""Three questions over real texts that anyone can run: no key, no network, no model.

The replies are scripted; the REPL, its isolation, the sub-calls, the recursion, the limits and the
recording are those of every run. Each answer is compared with a truth found by other means.
"""
