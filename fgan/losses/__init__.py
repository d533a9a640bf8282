r"""Adversarial losses: functions of logits that return one number per example.

A `GanLoss` is a pair of functions, one for each player, of the critic's logits c(x) on
real and c(G(z)) on fake examples. The caller takes means. A loss is named after the
generator's form: in `minimax` the generator descends the value function itself, and
saturates; `non_saturating` is the other form.

**The f in fgan** stands for functions, and for f-GAN (Nowozin, Cseke and Tomioka 2016),
which explains what a GAN's loss measures. For a convex f with f(1) = 0, the f-divergence
measures how far the generator's distribution Q is from the data's distribution P,

    D_f(P || Q) = E_{x~Q}[f(p(x) / q(x))].

Nobody knows p or q, but f, being convex, is the upper envelope of its tangents,
f(u) = sup_t (u t - f*(t)), with f* its conjugate; under the expectation this gives
a bound that needs nothing but samples,

    D_f(P || Q) >= E_{x~P}[T(x)] - E_{x~Q}[f*(T(x))],

an equality at T = f'(p/q). A discriminator that ascends the right side measures the
divergence; a generator that descends it makes the divergence smaller. The minimax game of
Goodfellow et al. 2014 is one row of the table `F_DIVERGENCES`. (Losses outside this family
measure other things, such as the Wasserstein distance, or nothing that has a name.)

| files | losses |
|---|---|
| ``base`` | `GanLoss`, the value function of the original game, `scaled` |
| ``logistic`` | `minimax`, `non_saturating` |
| ``margin`` | `hinge`, `wasserstein`, `least_squares`, `make_least_squares` |
| ``relativistic`` | `relativistic` and the relativistic averages |
| ``divergences`` | `F_DIVERGENCES`, `make_f_gan` |
| ``labels`` | `smoothed`, `flipped`: any loss with soft labels |
| ``top_k`` | `top_k`: any loss with the generator's mean over the best fakes |

A loss that contains an exponential of a logit overflows at logits beyond the logarithm of
the largest number (88 in float32). The losses of the Kullback-Leibler divergences and of
the Hellinger distance do so, as `make_f_gan` says. No other loss overflows in float32 at
logits up to 1e4 and beyond.

Losses never see a model.

References:
    Goodfellow et al. 2014, arXiv:1406.2661, equation 1 and section 3.
    Nowozin, Cseke and Tomioka 2016, arXiv:1606.00709, sections 2.2 to 2.4.
"""

from fgan.losses.base import GanLoss, scaled, value
from fgan.losses.divergences import F_DIVERGENCES, FDivergence, make_f_gan
from fgan.losses.labels import flipped, smoothed
from fgan.losses.logistic import minimax, non_saturating
from fgan.losses.margin import hinge, least_squares, make_least_squares, wasserstein
from fgan.losses.relativistic import (
    relativistic,
    relativistic_average,
    relativistic_average_hinge,
    relativistic_average_least_squares,
)
from fgan.losses.top_k import top_k

__all__ = [
    "ALL",
    "F_DIVERGENCES",
    "FDivergence",
    "GanLoss",
    "flipped",
    "hinge",
    "least_squares",
    "make_f_gan",
    "make_least_squares",
    "minimax",
    "non_saturating",
    "relativistic",
    "relativistic_average",
    "relativistic_average_hinge",
    "relativistic_average_least_squares",
    "scaled",
    "smoothed",
    "top_k",
    "value",
    "wasserstein",
]

ALL: dict[str, GanLoss] = {
    "minimax": minimax,
    "non_saturating": non_saturating,
    "label_smoothed": smoothed(non_saturating, real=0.9),
    "label_smoothed_two_sided": smoothed(non_saturating, real=0.9, fake=0.1),
    "hinge": hinge,
    "wasserstein": wasserstein,
    "least_squares": least_squares,
    "relativistic": relativistic,
    "relativistic_average": relativistic_average,
    "relativistic_average_hinge": relativistic_average_hinge,
    "relativistic_average_least_squares": relativistic_average_least_squares,
    **{
        f"f_{divergence}{form}": make_f_gan(divergence, saturating=not form)
        for divergence in F_DIVERGENCES
        for form in ("", "_non_saturating")
    },
}
"""Every loss by its name. The command line has the names from `fgan.run.names`."""
