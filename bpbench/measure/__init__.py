"""How long does it take, how sure is that, how much memory, and on which computer?"""
