"""Set-up of a machine and the life of the local stack; run through the Makefile or as `python3 -m tools COMMAND`.

Everything here up to the virtual environment runs on the machine's own Python with nothing installed.
"""
