"""The families, one a file: a config, how a seed samples it, what task it builds.

A family module ends in `FAMILY`, a `tasksets.family.Family`; `tasksets.registry` lists
those modules, and `tasksets.register` adds a family from anywhere else. To read one
first, take `small_mlp`:

    config = small_mlp.sample(3)             # SmallMlpConfig(hidden=(20, 20), ...)
    problem, numbers, data = small_mlp.build(config)
"""

from tasksets.families import mlp, quadratic, small_mlp

__all__ = ["mlp", "quadratic", "small_mlp"]
