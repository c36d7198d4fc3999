"""The detector of ActionFormer (Zhang et al., 2022), for the methods that use it: every time step is a candidate.

frames -> embedding -> pyramid of local attention -> at each point a class and the distances to both boundaries.
The class list is fixed in training; `split=closed` is its protocol.
"""
