"""Swimmer-v5 in JAX: three links in a fluid, two motors, reward for going forward.

The task of Gymnasium and MuJoCo, whose Swimmer is that of Coulom 2002 (Reinforcement
Learning Using Neural Networks, with Applications to Motor Control). Links i = 1, 2, 3 have
angles th_i to the x-axis, directions ``u_i = (cos th_i, sin th_i)``, normals ``n_i``, and
centres that hang on the point p:

    c_i = p + sum_j A_ij u_j.

Newton's law for the force ``F_i`` and the torque ``N_i`` on each link, with p eliminated, is

    S th'' = sum_i B_ij n_j . F_i + sum_k H_jk th'_k^2 sin(th_k - th_j) + N_j,
    S_jk   = H_jk cos(th_j - th_k) + I [j = k] + a D_jk,
    H      = m A'A - m^2 s s' / M,    B_ij = A_ij - m s_j / M,    s_j = sum_i A_ij,

for links of mass m and inertia I, rotors of inertia a on every joint, ``M = 3 m + a``. The
fluid slows links by ``-(linear + quadratic |v|) v``, for the velocities along and across
the link and the angular one: six numbers from a box of the same inertia as the link. A
joint beyond its limit is pushed back by a damped spring, softened as MuJoCo softens
constraints and never pulling: at most two such forces, found exactly. One step is
four Runge-Kutta steps of 0.01 s, with noise at the start and the reward
``velocity - 1e-4 |action|^2`` of Swimmer-v5.

Written out, since MuJoCo's own JAX version costs some eighty times as much on a CPU (it has
general contacts and solvers for the sake of five degrees of freedom) and would be one more
dependency. A test holds the two to the same course, limits included.
"""

import functools
import itertools
import operator
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

_Pair = tuple[Sequence[Array], Sequence[Array]]  # a position and a velocity

NUM_ACTIONS, NUM_OBSERVATIONS = 2, 8

# Links are capsules of length 1, radius 0.1 and density 1000; the fluid's is 4000.
_RADIUS, _DENSITY, _FLUID_DENSITY, _VISCOSITY = 0.1, 1000.0, 4000.0, 0.1
_ROTOR, _GEAR, _LIMIT = 0.1, 150.0, np.deg2rad(100)
_TIME_STEP, _SUBSTEPS, _NOISE, _CONTROL_COST = 0.01, 4, 0.1, 1e-4
# How far along the slope before each slope is taken, and its weight, in seconds.
_RUNGE_KUTTA = _TIME_STEP * np.array(
    [[0, 1 / 6], [1 / 2, 1 / 3], [1 / 2, 1 / 3], [1, 1 / 6]]
)

_ROD = _DENSITY * np.pi * _RADIUS**2
_BALL = _DENSITY * 4 / 3 * np.pi * _RADIUS**3  # the two half spheres at the ends
_MASS = _ROD + _BALL
_ROLL = (_ROD / 2 + _BALL * 2 / 5) * _RADIUS**2  # inertia about the link itself
_INERTIA = _ROD * (3 * _RADIUS**2 + 1) / 12 + _BALL * (
    2 / 5 * _RADIUS**2 + 1 / 4 + 3 / 8 * _RADIUS
)

_LINKS = range(3)
_A = np.array([[1, 0, 0], [0.5, -0.5, 0], [0.5, -1, -0.5]])
_JOINTS = np.array([[-1, 1, 0], [0, -1, 1]])  # joint angles as differences of th
_S, _M = _A.sum(axis=0), 3 * _MASS + _ROTOR
_H = _MASS * _A.T @ _A - _MASS**2 * np.outer(_S, _S) / _M
_B = _A - _MASS * _S / _M
_CONSTANT = _INERTIA * np.eye(3) + _ROTOR * np.array(
    [[2, -1, 0], [-1, 2, -1], [0, -1, 1]]
)

# The box: side of its square section, length, mean of the three.
_SIDE, _LENGTH = np.sqrt(6 * _ROLL / _MASS), np.sqrt(6 * (2 * _INERTIA - _ROLL) / _MASS)
_MEAN = (2 * _SIDE + _LENGTH) / 3
_DRAG = 3 * np.pi * _MEAN * _VISCOSITY
_ALONG = (_DRAG, _FLUID_DENSITY * _SIDE**2 / 2)
_ACROSS = (_DRAG, _FLUID_DENSITY * _SIDE * _LENGTH / 2)
_TURNING = (
    np.pi * _MEAN**3 * _VISCOSITY,
    _FLUID_DENSITY * _SIDE * (_SIDE**4 + _LENGTH**4) / 64,
)

# MuJoCo's soft limits, at their defaults: time constant, impedance and its width, and the
# inverse inertia of each joint in the straight pose.
_TIME, _LEAST, _MOST, _WIDTH = 0.02, 0.9, 0.95, 0.001
_STIFFNESS, _DAMPING = 1 / (_MOST * _TIME) ** 2, 2 / (_MOST * _TIME)
_SOFTNESS = np.diag(_JOINTS @ np.linalg.inv(_H + _CONSTANT) @ _JOINTS.T)


class Pose(NamedTuple):
    """Where the swimmer is.

    Attributes:
      position: x and y of p, angle of the first link, angles of the two joints.
      velocity: of the position.
    """

    position: Float[Array, "5"]
    velocity: Float[Array, "5"]


class Swimmer:
    """The system; theta is the matrix of a linear policy ``action = theta observation``.

    The observation is the position without x and y, then the velocity; the loss is minus
    the reward.
    """

    def init(self, key: PRNGKeyArray) -> Pose:
        """Nearly straight and still."""
        return Pose(*jax.random.uniform(key, (2, 5), minval=-_NOISE, maxval=_NOISE))

    def step(
        self, theta: Float[Array, "2 8"], state: Pose, key: PRNGKeyArray
    ) -> tuple[Pose, Float[Array, ""]]:
        """0.04 seconds under one action."""
        del key
        seen = jnp.concatenate([state.position[2:], state.velocity])
        action = jnp.sum(theta * seen, axis=1)
        after = move(state, action)
        covered = after.position[0] - state.position[0]
        speed = covered / (_SUBSTEPS * _TIME_STEP)
        return after, _CONTROL_COST * jnp.sum(action**2) - speed


def move(pose: Pose, action: Float[Array, "2"]) -> Pose:
    """The pose after one action, of which each motor sees what is in [-1, 1]."""
    torque = tuple(_GEAR * jnp.clip(action, -1, 1))

    def substep(_: Any, start: _Pair) -> _Pair:
        def stage(
            carry: tuple[_Pair, _Pair], x: Array
        ) -> tuple[tuple[_Pair, _Pair], None]:
            slope, end = carry
            node, weight = x
            position, velocity = _along(start, slope, node)
            slope = velocity, acceleration(position, velocity, torque)
            return (slope, _along(end, slope, weight)), None

        flat = jax.tree.map(jnp.zeros_like, start)
        (_, end), _ = jax.lax.scan(stage, (flat, start), jnp.asarray(_RUNGE_KUTTA))
        return end

    # Numbers one by one, since arrays of three defeat vectorisation over lanes.
    start = tuple(pose.position), tuple(pose.velocity)
    position, velocity = jax.lax.fori_loop(0, _SUBSTEPS, substep, start)
    return Pose(jnp.stack(position), jnp.stack(velocity))


def _along(start: _Pair, slope: _Pair, time: Array) -> _Pair:
    return jax.tree.map(lambda x, d: x + time * d, start, slope)


def acceleration(
    position: Sequence[Array], velocity: Sequence[Array], torque: Sequence[Array]
) -> tuple[Array, ...]:
    """Second derivatives of the position, number by number."""
    angle = jnp.stack(list(itertools.accumulate(position[2:])))
    spin = list(itertools.accumulate(velocity[2:]))
    # In a loop of their own, for XLA would compute them anew in every fusion.
    cos, sin = jax.lax.map(lambda a: (jnp.cos(a), jnp.sin(a)), angle)

    force_x, force_y, turn = [], [], list(_on_links(*torque))
    for i in _LINKS:
        x = velocity[0] - _sum(_A[i, j] * spin[j] * sin[j] for j in _LINKS[: i + 1])
        y = velocity[1] + _sum(_A[i, j] * spin[j] * cos[j] for j in _LINKS[: i + 1])
        along = _drag(_ALONG, x * cos[i] + y * sin[i])
        across = _drag(_ACROSS, y * cos[i] - x * sin[i])
        force_x.append(along * cos[i] - across * sin[i])
        force_y.append(along * sin[i] + across * cos[i])
        turn[i] += _drag(_TURNING, spin[i])
    for j in _LINKS:
        for i in _LINKS:
            turn[j] += _B[i, j] * (force_y[i] * cos[j] - force_x[i] * sin[j])
            sine = sin[i] * cos[j] - cos[i] * sin[j]  # of th_i - th_j
            turn[j] += _H[j, i] * spin[i] ** 2 * sine
    cosine = lambda j, k: cos[j] * cos[k] + sin[j] * sin[k]  # of th_j - th_k
    inverse = _inverse(
        [[_H[j, k] * cosine(j, k) + _CONSTANT[j, k] for k in _LINKS] for j in _LINKS]
    )
    held = _at_limits(position[3:], velocity[3:], _times(inverse, turn), inverse)
    bend = _times(inverse, [t + h for t, h in zip(turn, held, strict=True)])
    x = _sum(force_x) + _MASS * _sum(
        _S[j] * (spin[j] ** 2 * cos[j] + bend[j] * sin[j]) for j in _LINKS
    )
    y = _sum(force_y) + _MASS * _sum(
        _S[j] * (spin[j] ** 2 * sin[j] - bend[j] * cos[j]) for j in _LINKS
    )
    return x / _M, y / _M, bend[0], bend[1] - bend[0], bend[2] - bend[1]


def _drag(law: tuple[float, float], speed: Array) -> Array:
    linear, quadratic = law
    return -(linear + quadratic * jnp.abs(speed)) * speed


def _on_links(first: Array, second: Array) -> tuple[Array, Array, Array]:
    """What torques on the two joints do to the three links."""
    return -first, first - second, second


def _at_limits(
    angles: Sequence[Array],
    rates: Sequence[Array],
    bend: list[Array],
    inverse: list[list[Array]],
) -> tuple[Array, Array, Array]:
    """Torques on the links that hold joints beyond their limits.

    With A the inverse inertia of the joints, R how soft they are, and g the acceleration
    that is wanted less what there is without them, the forces are the f >= 0 with
    ``(A + R) f >= g``, equal where ``f > 0``.
    """
    rows = [[inverse[j + 1][k] - inverse[j][k] for k in _LINKS] for j in range(2)]
    side, wanted, own = [], [], []
    for j, (angle, rate) in enumerate(zip(angles, rates, strict=True)):
        side.append(jnp.where(angle > 0, -1.0, 1.0))
        depth = jnp.abs(angle) - _LIMIT
        share = jnp.clip(depth / _WIDTH, 0, 1)
        rise = jnp.where(share < 0.5, 2 * share**2, 1 - 2 * (1 - share) ** 2)
        impedance = _LEAST + (_MOST - _LEAST) * rise
        pull = _STIFFNESS * impedance * depth - _DAMPING * side[j] * rate
        pull -= side[j] * (bend[j + 1] - bend[j])
        wanted.append(jnp.where(depth > 0, pull, -1e20))  # within its limit no force
        own.append(
            rows[j][j + 1] - rows[j][j] + (1 - impedance) / impedance * _SOFTNESS[j]
        )
    shared = side[0] * side[1] * (rows[0][2] - rows[0][1])
    determinant = own[0] * own[1] - shared**2
    both = (
        (own[1] * wanted[0] - shared * wanted[1]) / determinant,
        (own[0] * wanted[1] - shared * wanted[0]) / determinant,
    )
    alone = [jnp.maximum(g, 0) / a for g, a in zip(wanted, own, strict=True)]
    pair = (both[0] >= 0) & (both[1] >= 0)
    enough = shared * alone[0] >= wanted[1]  # the first force holds both joints
    first = jnp.where(pair, both[0], jnp.where(enough, alone[0], 0))
    second = jnp.where(pair, both[1], jnp.where(enough, 0, alone[1]))
    return _on_links(side[0] * first, side[1] * second)


def _sum(terms: Iterable[Array]) -> Array:
    return functools.reduce(operator.add, terms)


def _times(matrix: list[list[Array]], vector: list[Array]) -> list[Array]:
    return [_sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def _inverse(matrix: list[list[Array]]) -> list[list[Array]]:
    """Of a symmetric 3 x 3 matrix, by cofactors."""
    (a, b, c), (_, d, e), (_, _, f) = matrix
    cofactors = [
        [d * f - e * e, c * e - b * f, b * e - c * d],
        [c * e - b * f, a * f - c * c, b * c - a * e],
        [b * e - c * d, b * c - a * e, a * d - b * b],
    ]
    determinant = a * cofactors[0][0] + b * cofactors[0][1] + c * cofactors[0][2]
    return [[entry / determinant for entry in row] for row in cofactors]
