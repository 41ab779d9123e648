"""Jobs: files of requests that are answered within a window of time and a budget, and what is kept of them.

Lines come in, a store remembers jobs and who works on them, results are gathered in segments and merged in the order
of the lines. Knows databases and file systems, and nothing of how requests are answered.
"""
