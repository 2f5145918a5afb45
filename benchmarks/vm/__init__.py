"""Virtual machines: how they are made, what runs in them, and how it is told. See `machines.py`."""
