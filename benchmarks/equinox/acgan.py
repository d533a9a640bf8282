"""docs/methods/acgan.md in Equinox and Optax."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

BATCH, CLASSES = 128, 8
adam = optax.adam(1e-3, b1=0.5, b2=0.999)


def centre(label):
    angle = label * (2 * jnp.pi / CLASSES)
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)


class Generator(eqx.Module):
    layers: eqx.nn.MLP

    def __init__(self, key):
        self.layers = eqx.nn.MLP(8 + CLASSES, 2, 64, 2, jax.nn.leaky_relu, key=key)

    def __call__(self, z, label):
        return self.layers(jnp.concatenate([z, jax.nn.one_hot(label, CLASSES)]))


def init(key):
    first, second = jax.random.split(key)
    gen = Generator(first)
    disc = eqx.nn.MLP(2, 1 + CLASSES, 64, 2, jax.nn.leaky_relu, key=second)  # logit and classes
    opts = [adam.init(eqx.filter(net, eqx.is_array)) for net in (gen, disc)]
    return gen, disc, *opts


def judge(disc, x, label):
    """Logits [B], and the mean cross entropy of the labels."""
    out = jax.vmap(disc)(x)
    classes = optax.softmax_cross_entropy_with_integer_labels(out[:, 1:], label)
    return out[:, 0], jnp.mean(classes)


def disc_loss(disc, gen, real, label, z, fake_label):
    on_real, of_real = judge(disc, real, label)
    on_fake, of_fake = judge(disc, jax.vmap(gen)(z, fake_label), fake_label)
    told = jnp.mean(jax.nn.softplus(-on_real)) + jnp.mean(jax.nn.softplus(on_fake))
    return told + of_real + of_fake


def gen_loss(gen, disc, z, label):
    logits, classes = judge(disc, jax.vmap(gen)(z, label), label)
    return jnp.mean(jax.nn.softplus(-logits)) + classes


def descend(net, opt, grads):
    updates, opt = adam.update(grads, opt, eqx.filter(net, eqx.is_array))
    return eqx.apply_updates(net, updates), opt


@eqx.filter_jit
def step(state, key):
    gen, disc, gen_opt, disc_opt = state
    keys = jax.random.split(key, 6)
    label, *fake_labels = (jax.random.randint(k, (BATCH,), 0, CLASSES) for k in keys[:3])
    latents = [jax.random.normal(k, (BATCH, 8)) for k in keys[3:5]]
    real = centre(label) + 0.1 * jax.random.normal(keys[5], (BATCH, 2))
    given = (real, label, latents[0], fake_labels[0])
    loss, grads = eqx.filter_value_and_grad(disc_loss)(disc, gen, *given)
    disc, disc_opt = descend(disc, disc_opt, grads)
    gen_value, grads = eqx.filter_value_and_grad(gen_loss)(gen, disc, latents[1], fake_labels[1])
    gen, gen_opt = descend(gen, gen_opt, grads)
    return (gen, disc, gen_opt, disc_opt), (loss, gen_value)


def main(num_steps=2000):
    state = init(jax.random.key(0))
    for t in range(num_steps):
        state, metrics = step(state, jax.random.fold_in(jax.random.key(0), t))
    label = jnp.arange(1000) % CLASSES
    points = jax.vmap(state[0])(jax.random.normal(jax.random.key(1), (1000, 8)), label)
    apart = jnp.linalg.norm(points[:, None] - centre(jnp.arange(CLASSES)), axis=-1)
    missed = jnp.mean(apart.argmin(1) != label)
    print(f"{missed:.1%} of the samples are another class's; the losses are {metrics}")


if __name__ == "__main__":
    main()
