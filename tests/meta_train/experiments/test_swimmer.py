"""The swimmer against MuJoCo, and against the laws of mechanics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.experiments import swimmer
from meta_train.experiments.swimmer import Pose, Swimmer, move

# Swimmer-v5, all but its looks.
MODEL = """
<mujoco>
  <compiler angle="degree" inertiafromgeom="true"/>
  <option density="4000" viscosity="0.1" integrator="RK4" timestep="0.01"/>
  <default>
    <geom type="capsule" size="0.1" density="1000" contype="0" conaffinity="0"/>
    <joint armature="0.1"/>
    <motor gear="150" ctrllimited="true" ctrlrange="-1 1"/>
  </default>
  <worldbody>
    <body>
      <joint type="slide" axis="1 0 0"/>
      <joint type="slide" axis="0 1 0"/>
      <joint type="hinge" axis="0 0 1"/>
      <geom fromto="1.5 0 0 0.5 0 0"/>
      <body pos="0.5 0 0">
        <joint name="first" axis="0 0 1" limited="true" range="-100 100"/>
        <geom fromto="0 0 0 -1 0 0"/>
        <body pos="-1 0 0">
          <joint name="second" axis="0 0 1" limited="true" range="-100 100"/>
          <geom fromto="0 0 0 -1 0 0"/>
        </body>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="first"/><motor joint="second"/></actuator>
</mujoco>
"""

# Positions of MuJoCo 3.17 after so many steps of `action`, from rest. By the fortieth both
# joints have been at their limits together, by the sixtieth the first left it.
MUJOCO = {
    20: (
        0.680309217940,
        0.945331817089,
        -1.644521279916,
        1.746922461606,
        1.078614811178,
    ),
    40: (
        0.860605602931,
        0.726292108416,
        -2.024080557802,
        1.575620592782,
        1.746714037188,
    ),
    60: (-0.37891826744, -0.15398293909, -0.22858279138, -1.39253222455, 1.74591217347),
}
STILL = Pose(jnp.zeros(5), jnp.zeros(5))


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def action(step):
    """Beyond what the motors can do at first."""
    return np.array([1.5 * np.cos(0.05 * step), np.sin(0.04 * step + 0.5)])


def course(actions):
    """Poses from rest, after every action."""
    start = Pose(jnp.zeros(5), jnp.zeros(5))
    both = lambda pose, action: (move(pose, action),) * 2
    return jax.jit(lambda xs: jax.lax.scan(both, start, xs)[1])(jnp.asarray(actions))


@pytest.mark.usefixtures("double")
def test_it_moves_as_mujoco_recorded():
    poses = course([action(step) for step in range(60)])
    for steps, expected in MUJOCO.items():
        np.testing.assert_allclose(poses.position[steps - 1], expected, atol=1e-8)


@pytest.mark.usefixtures("double")
def test_it_moves_as_mujoco_does():
    mujoco = pytest.importorskip("mujoco")
    model = mujoco.MjModel.from_xml_string(MODEL)
    data = mujoco.MjData(model)
    actions = np.random.default_rng(0).uniform(-1.5, 1.5, (100, 2)).repeat(5, axis=0)
    poses = course(actions)
    for chosen, position, velocity in zip(actions, *poses, strict=True):
        data.ctrl[:] = chosen
        mujoco.mj_step(model, data, nstep=4)
        np.testing.assert_allclose(data.qpos, position, atol=1e-6)
        np.testing.assert_allclose(data.qvel, velocity, atol=1e-4)


def test_single_precision_is_enough_for_a_second():
    position = course([action(step) for step in range(20)]).position[-1]
    np.testing.assert_allclose(position, MUJOCO[20], atol=1e-4)


def centres(position):
    """Where the middle of each link is, and its angle."""
    x, y, *angles = position
    first, second, third = np.cumsum(angles)
    at = lambda angle: np.array([np.cos(angle), np.sin(angle)])
    hinge = np.array([x, y]) + 0.5 * at(first)
    last = hinge - at(second)
    middles = [
        hinge + 0.5 * at(first),
        hinge - 0.5 * at(second),
        last - 0.5 * at(third),
    ]
    return np.array([*np.concatenate(middles), first, second, third])


def energy(position, velocity, step=1e-5):
    """Kinetic energy of links and rotors, from differences of `centres`."""
    ahead, behind = (centres(position + h * velocity) for h in (step, -step))
    *speed, a, b, c = (ahead - behind) / (2 * step)
    links = swimmer._MASS * np.sum(np.square(speed))
    links += swimmer._INERTIA * np.sum(np.square([a, b, c]))
    return 0.5 * (links + swimmer._ROTOR * np.sum(velocity**2))


def drift(position, velocity, torque):
    """Acceleration, and the rate at which energy changes along it."""
    slope = np.array(swimmer.acceleration(*map(tuple, (position, velocity, torque))))
    change = [
        energy(position + h * velocity, velocity + h * slope) for h in (1e-4, -1e-4)
    ]
    return slope, (change[0] - change[1]) / 2e-4


@pytest.fixture
def pose():
    rng = np.random.default_rng(1)
    return rng.uniform(-1, 1, 5), rng.uniform(-2, 2, 5), rng.uniform(-100, 100, 2)


@pytest.mark.usefixtures("double")
def test_without_a_fluid_only_the_motors_change_the_energy(pose, monkeypatch):
    monkeypatch.setattr(swimmer, "_drag", lambda law, speed: 0 * speed)
    position, velocity, torque = pose
    _, power = drift(position, velocity, torque)
    np.testing.assert_allclose(power, torque @ velocity[3:], rtol=1e-4)
    _, power = drift(position, velocity, 0 * torque)
    np.testing.assert_allclose(power, 0, atol=1e-2)


@pytest.mark.usefixtures("double")
def test_without_a_fluid_momentum_is_kept(pose, monkeypatch):
    monkeypatch.setattr(swimmer, "_drag", lambda law, speed: 0 * speed)
    position, velocity, torque = pose
    slope, _ = drift(position, velocity, torque)

    def momentum(position, velocity):
        ahead, behind = (centres(position + h * velocity) for h in (1e-5, -1e-5))
        speed = (ahead - behind)[:6].reshape(3, 2) / 2e-5
        return swimmer._MASS * speed.sum(axis=0) + swimmer._ROTOR * velocity[:2]

    ahead, behind = (
        momentum(position + h * velocity, velocity + h * slope) for h in (1e-4, -1e-4)
    )
    np.testing.assert_allclose((ahead - behind) / 2e-4, 0, atol=1e-2)


@pytest.mark.usefixtures("double")
def test_the_fluid_only_takes_energy(pose):
    position, velocity, torque = pose
    _, power = drift(position, velocity, 0 * torque)
    assert power < 0


@pytest.mark.usefixtures("double")
def test_a_mirror_image_moves_as_the_mirror_image(pose):
    position, velocity, torque = pose
    mirror = np.array([1, -1, -1, -1, -1])
    slope, _ = drift(position, velocity, torque)
    mirrored, _ = drift(mirror * position, mirror * velocity, -torque)
    np.testing.assert_allclose(mirrored, mirror * slope, rtol=1e-9)


def test_joints_stay_near_their_limits_under_full_power():
    angles = np.abs(course(np.ones((100, 2))).position[:, 3:])
    assert np.all(angles.max(axis=0) > swimmer._LIMIT)
    assert np.all(angles < swimmer._LIMIT + 0.1)


def test_the_reward_is_speed_less_the_effort():
    theta = jax.random.normal(jax.random.key(0), (2, 8))
    before = Swimmer().init(jax.random.key(1))
    assert jnp.all(jnp.abs(jnp.concatenate(before)) < 0.1)
    after, loss = Swimmer().step(theta, before, jax.random.key(2))
    seen = np.concatenate([before.position[2:], before.velocity])
    effort = 1e-4 * np.sum((np.asarray(theta) @ seen) ** 2)
    speed = (after.position[0] - before.position[0]) / 0.04
    assert float(loss) == pytest.approx(float(effort - speed), rel=1e-4)
