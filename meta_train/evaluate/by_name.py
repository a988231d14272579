"""Contenders by the names that the command line takes.

scale_free           a shipped learned optimizer
runs/mine            a run folder, or one that `pretrained.save` wrote
velo/params          a file of weights that others have released
scale_free:untrained any learned optimizer as its training begins: what did that add?
adam:tuned           a baseline; see `baselines`
"""

import difflib
from pathlib import Path

import jax

import learned_opt
import pretrained
from meta_train.evaluate import baselines
from meta_train.evaluate.contenders import Contender, learned


def contender(name: str) -> Contender:
    """A contender by name. Baselines come first, then shipped names, then folders.

    Raises:
      LookupError: nothing has this name; the message has the nearest names.
      ValueError: a baseline has no such variant; a file is none of weights.
      FileNotFoundError: a folder holds no trained optimizer.
    """
    family, _, variant = name.partition(":")
    if variant == "untrained" and family in learned_opt.names():
        optimizer = learned_opt.get(family)()
        return learned(name, optimizer, optimizer.init(jax.random.key(0)))
    if family in baselines.NAMES:
        return baselines.baseline(family, variant)
    shipped = pretrained.available()
    if name in shipped or Path(name).exists():
        of_run = Path(name) / "theta"
        inside = name not in shipped and of_run.is_dir()
        loaded = pretrained.load(str(of_run) if inside else name)
        return learned(name, loaded.optimizer, loaded.theta)
    known = sorted({*baselines.NAMES, *baselines.ALL, *shipped})
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    raise LookupError(
        f"no optimizer and no folder {name!r}; "
        + (
            f"did you mean {' or '.join(near)}?"
            if near
            else f"known: {', '.join(known)}"
        )
    )
