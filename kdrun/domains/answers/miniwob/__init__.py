"""MiniWoB++ pages (Liu et al. 2018, arXiv 1802.08802) in a browser, as screens with sets of valid actions."""
