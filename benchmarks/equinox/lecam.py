"""docs/methods/lecam.md in Equinox and Optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

BATCH, DECAY = 64, 0.99
angle = 2 * jnp.pi * jnp.arange(64) / 64
DATA = jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)
adam = optax.adam(1e-3, b1=0.5, b2=0.999)
weight = optax.linear_schedule(0.0, 0.3, 100)


def init(key):
    first, second = jax.random.split(key)
    gen = eqx.nn.MLP(8, 2, 64, 2, jax.nn.leaky_relu, key=first)
    disc = eqx.nn.MLP(2, "scalar", 64, 2, jax.nn.leaky_relu, key=second)
    opts = [adam.init(eqx.filter(net, eqx.is_array)) for net in (gen, disc)]
    return gen, disc, *opts, (jnp.zeros(()), jnp.zeros(())), jnp.zeros((), int)


def averaged(average, logits, count):
    """The moving average of the mean logit, which begins with its first value."""
    mean = jax.lax.stop_gradient(jnp.mean(logits))
    return jnp.where(count == 0, mean, DECAY * average + (1 - DECAY) * mean)


def disc_loss(disc, gen, real, z, averages, count):
    on_real, on_fake = jax.vmap(disc)(real), jax.vmap(disc)(jax.vmap(gen)(z))
    new = averaged(averages[0], on_real, count), averaged(averages[1], on_fake, count)
    penalty = jnp.mean((on_real - new[1]) ** 2) + jnp.mean((new[0] - on_fake) ** 2)
    hinge = jnp.mean(jax.nn.relu(1 - on_real)) + jnp.mean(jax.nn.relu(1 + on_fake))
    return hinge + weight(count) * penalty, (new, penalty)


def gen_loss(gen, disc, z):
    return -jnp.mean(jax.vmap(disc)(jax.vmap(gen)(z)))


def descend(net, opt, grads):
    updates, opt = adam.update(grads, opt, eqx.filter(net, eqx.is_array))
    return eqx.apply_updates(net, updates), opt


@eqx.filter_jit
def step(state, key):
    gen, disc, gen_opt, disc_opt, averages, count = state
    latents = jax.random.normal(key, (2, BATCH, 8))
    value_and_grad = eqx.filter_value_and_grad(disc_loss, has_aux=True)
    (_, (averages, penalty)), grads = value_and_grad(disc, gen, DATA, latents[0], averages, count)
    disc, disc_opt = descend(disc, disc_opt, grads)
    grads = eqx.filter_grad(gen_loss)(gen, disc, latents[1])
    gen, gen_opt = descend(gen, gen_opt, grads)
    return (gen, disc, gen_opt, disc_opt, averages, count + 1), penalty


def main(num_steps=2000):
    key = jax.random.key(0)
    state = init(key)
    for t in range(num_steps):
        state, penalty = step(state, jax.random.fold_in(key, t))
    real, fake = state[4]
    print(f"mean logit of reals - of fakes: {real - fake:.3f}; the term: {penalty:.3f}")


if __name__ == "__main__":
    main()
