"""The Markdown table and the self-contained web page of a board, rendered from its rows.

May import everything that ``robust_eval.leaderboard`` may.
"""
