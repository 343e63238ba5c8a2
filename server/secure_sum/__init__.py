"""From masked vectors to one change that the server may believe, and the limits that hide single devices.

What devices sent in a masked round comes in; the sum, its checks and its noise go out. The rounds call it.
"""
