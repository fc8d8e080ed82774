"""Limits of confidence for a proportion and for a mean, without a statistics package."""

import math
from collections.abc import Callable

from fractalkern.errors import InputError

_HALVINGS = 200  # of a bracket in float64: far beyond its last bit
_TINY = 1e-300


def clopper_pearson_upper(hits: int, trials: int, level: float = 0.95) -> float:
    """One-sided exact upper limit of a proportion of which `hits` of `trials` draws were seen.

    The p with P(Binomial(trials, p) <= hits) = 1 - level; 1 if all draws hit. For draws without
    replacement it is conservative.

    Raises:
        InputError: no trials, hits outside them, or a level outside (0, 1).

    >>> from fractalkern.confidence import clopper_pearson_upper
    >>> round(clopper_pearson_upper(0, 1000), 6)  # 1 - 0.05 ** (1 / 1000)
    0.002991
    """
    if not 0 <= hits <= trials or trials < 1:
        raise InputError(
            "clopper_pearson_upper: hits must be from 0 to trials and trials at least 1, "
            f"got {hits} of {trials}"
        )
    _check_level("clopper_pearson_upper", level)
    if hits == trials:
        return 1.0
    return _bisect(lambda p: beta_cdf(p, hits + 1, trials - hits), level, 0.0, 1.0)


def student_quantile(level: float, degrees: int) -> float:
    """The t with P(|T| <= t) = level, T Student's with that many degrees of freedom.

    Raises:
        InputError: no degree of freedom, or a level outside (0, 1).

    >>> from fractalkern.confidence import student_quantile
    >>> round(student_quantile(0.95, 7), 4)
    2.3646
    """
    if degrees < 1:
        raise InputError(f"student_quantile: degrees must be at least 1, got {degrees}")
    _check_level("student_quantile", level)
    # T^2 / (T^2 + degrees) is Beta(1/2, degrees/2).
    share = _bisect(lambda p: beta_cdf(p, 0.5, degrees / 2), level, 0.0, 1.0)
    return math.sqrt(share * degrees / (1 - share))


def mean_interval(values: list[float], level: float = 0.95) -> tuple[float, float, float] | None:
    """Mean and Student's interval of independent measurements; None for fewer than two.

    Those that agree to the last bit are one measurement: paths of a zoom that coincide, say.

    >>> from fractalkern.confidence import mean_interval
    >>> [round(x, 3) for x in mean_interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]
    """
    if len(set(values)) < 2:
        return None
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = student_quantile(level, len(values) - 1) * math.sqrt(variance / len(values))
    return mean, mean - half, mean + half


def beta_cdf(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function I_x(a, b), by Lentz's continued fraction.

    >>> from fractalkern.confidence import beta_cdf
    >>> round(beta_cdf(0.3, 1, 1), 12)
    0.3
    """
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges fast for the complement
        return 1.0 - beta_cdf(1.0 - x, b, a)
    front = a * math.log(x) + b * math.log1p(-x)
    front += math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    d = _away_from_zero(1 - (a + b) * x / (a + 1))
    c, d = 1.0, 1 / d
    fraction, m = d, 0
    while True:
        m += 1
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away_from_zero(1 + numerator * d)
            c = _away_from_zero(1 + numerator / c)
            fraction *= c * d
        if abs(c * d - 1) < 1e-15 or m > 10_000:
            return math.exp(front) * fraction / a


def _away_from_zero(number: float) -> float:
    return number if abs(number) > _TINY else _TINY


def _bisect(rising: Callable[[float], float], level: float, low: float, high: float) -> float:
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if rising(middle) < level:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _check_level(function: str, level: float) -> None:
    if not 0 < level < 1:
        raise InputError(f"{function}: level must lie in (0, 1), got {level}")
