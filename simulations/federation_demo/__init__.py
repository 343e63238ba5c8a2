"""The federation as real processes on this machine, killed, restarted and listened to.

`make federation-demo`.
"""
