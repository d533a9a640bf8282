"""docs/methods/wgan-gp.md in Equinox and Optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

BATCH, CRITIC_STEPS = 128, 5
adam = optax.adam(1e-3, b1=0.5, b2=0.9)


def ring(key, *shape):
    """Points [*shape, 2] of eight Gaussians around the unit circle."""
    first, second = jax.random.split(key)
    angle = jax.random.randint(first, shape, 0, 8) * (jnp.pi / 4)
    centre = jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)
    return centre + 0.02 * jax.random.normal(second, (*shape, 2))


def init(key):
    first, second = jax.random.split(key)
    gen = eqx.nn.MLP(8, 2, 64, 2, jax.nn.leaky_relu, key=first)
    disc = eqx.nn.MLP(2, "scalar", 64, 2, jax.nn.leaky_relu, key=second)
    opts = [adam.init(eqx.filter(net, eqx.is_array)) for net in (gen, disc)]
    return gen, disc, *opts


def disc_loss(disc, gen, real, z, mix):
    fake = jax.vmap(gen)(z)
    between = mix * real + (1 - mix) * fake
    slope = jax.vmap(jax.grad(disc))(between)
    penalty = jnp.mean((jnp.linalg.norm(slope, axis=1) - 1) ** 2)
    return jnp.mean(jax.vmap(disc)(fake)) - jnp.mean(jax.vmap(disc)(real)) + 10 * penalty


def gen_loss(gen, disc, z):
    return -jnp.mean(jax.vmap(disc)(jax.vmap(gen)(z)))


def descend(net, opt, grads):
    updates, opt = adam.update(grads, opt, eqx.filter(net, eqx.is_array))
    return eqx.apply_updates(net, updates), opt


@eqx.filter_jit
def step(state, key):
    gen, disc, gen_opt, disc_opt = state
    for k in jax.random.split(key, CRITIC_STEPS):
        first, second, third = jax.random.split(k, 3)
        z, mix = jax.random.normal(first, (BATCH, 8)), jax.random.uniform(second, (BATCH, 1))
        loss, grads = eqx.filter_value_and_grad(disc_loss)(disc, gen, ring(third, BATCH), z, mix)
        disc, disc_opt = descend(disc, disc_opt, grads)
    z = jax.random.normal(jax.random.fold_in(key, CRITIC_STEPS), (BATCH, 8))
    gen_value, grads = eqx.filter_value_and_grad(gen_loss)(gen, disc, z)
    gen, gen_opt = descend(gen, gen_opt, grads)
    return (gen, disc, gen_opt, disc_opt), (loss, gen_value)


def main(num_steps=2000):
    key = jax.random.key(0)
    state = init(key)
    for t in range(num_steps):
        state, _ = step(state, jax.random.fold_in(key, t))
    points = jax.vmap(state[0])(jax.random.normal(jax.random.key(1), (1000, 8)))
    print(f"distance from the circle: {jnp.mean(jnp.abs(jnp.linalg.norm(points, axis=1) - 1)):.3f}")


if __name__ == "__main__":
    main()
