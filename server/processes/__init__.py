"""The server's processes: the one that listens, the one that runs rounds, and what starts and stops them.

A folder and an owner's command come in; processes that survive each other's death go out. Only the commands
call it.
"""
