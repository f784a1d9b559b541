"""The bias correction of a moving average that starts from zero (Kingma & Ba 2015, section 3)."""

import math


def bias_correction(beta: float, t: float) -> float:
    """Returns 1 - beta^t, the sum of the weights in a moving average of t values.

    It is computed from the logarithm, because 1 - beta**t loses the digits that beta^t has in
    common with 1: five of sixteen after one step with beta = 0.99999.
    """
    return -math.expm1(t * math.log(beta)) if beta > 0.0 else 1.0
