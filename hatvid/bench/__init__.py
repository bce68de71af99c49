"""What the network costs and how fast it runs, beside other ways of running it.

The only part of hatvid that imports rivals.
"""
