"""What runs inside a sandbox: standard library only, nothing of ours from outside this folder.

Once code of a model has run beside it, nothing here can be trusted by the host.
"""
