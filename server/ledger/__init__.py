"""The server's privacy ledger: what every round spends, written before its result is used.

Rounds come in; what was spent, against whom, goes out. The rounds write it, commands and releases read it.
"""
