"""Small analytic and sampled objectives, and wrappers that make a problem harder.

From the training set of Wichrowska et al. 2017, "Learned optimizers that scale and
generalize" (arXiv 1703.04813), as TaskSet (Metz et al. 2020, arXiv 2002.11887) uses it.
One idea a file: `least_squares`, `surfaces` (the test functions of two variables),
`chains`, `samples`, `classifiers`, and `wrappers`, which hold any other problem. Every
builder returns a problem and its numbers; there are no data to share:

    problem, numbers = noisy(surface("rosenbrock"), stdev=0.1)
"""
