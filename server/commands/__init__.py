"""`palate server`: the commands of the person who runs a server, one file for each group."""
