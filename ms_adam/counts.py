"""How many updates an Adam has made, which the bias correction needs.

`global_step` cannot tell: it drives the schedules, and a trainer may advance it on its own while it
accumulates gradients. So the optimizer counts in `update_count`. But `mindspore.load_param_into_net`
may have loaded a state without that entry (of `nn.Adam`, or of ms_adam 0.1): then the beta powers,
which every update sets, disagree with the count, and the rule below finds it again. It is applied in
every step, by the kernel (backends/fused_cpu.cc), in operators (scalars.UpdateCount), and here for
`load_state`.
"""

import math

ROUNDING = 2.0**-24  # the largest relative error of a rounding to float32
# A power below this may have become 0: it only tells that many updates were made.
LEAST_POWER = 2.0**-120


def updates_made(update_count, global_step, beta1_power, beta2_power, beta1, beta2):
    """Returns the number of updates that an optimizer has made.

    It is `update_count` if the beta power agrees with it, else `global_step` if it agrees with
    that, else the power's own count t = log(power) / log(beta), rounded. The larger decay rate is
    asked, since its power tells the count for longest.

    A power that was computed from its count has lost one rounding, up to 2^-24 of its value, hence
    2^-24 / |log(beta)| of a step. One that was multiplied up in float32, as `nn.Adam` does, has lost
    two of these in each step: that of the product, and that of beta. Half a step is what rounding t
    to a whole number allows. Counts at which the power is below 2^-120 are all alike: bias
    corrections are then 1.

    Args:
        update_count (int): the count of updates that the optimizer keeps.
        global_step (int): the count of steps that schedules follow; may be -1.
        beta1_power (float): beta1 to the power of the count, in float32.
        beta2_power (float): the same for beta2.
        beta1 (float): decay rate of the first moment, in [0, 1).
        beta2 (float): decay rate of the second moment, in [0, 1).

    Example:
        >>> updates_made(3, 6, 0.9**3, 0.999**3, 0.9, 0.999)  # schedules run twice as fast
        3
        >>> updates_made(0, 6, 0.9**6, 0.999**6, 0.9, 0.999)  # the state of nn.Adam was loaded
        6
        >>> updates_made(0, 12, 0.9**6, 0.999**6, 0.9, 0.999)  # that of MindCV's AdamW
        6
    """
    power, beta = (beta2_power, beta2) if beta2 >= beta1 else (beta1_power, beta1)
    if not beta > 0.0 or not power >= 0.0:  # it tells nothing
        return update_count
    log_beta = math.log(beta)
    most = math.log(LEAST_POWER) / log_beta
    told = math.log(min(max(power, LEAST_POWER), 1.0)) / log_beta
    rounding = ROUNDING / -log_beta

    def agrees(count, lost):
        return count >= 0 and abs(min(count, most) - told) <= 0.5 + lost

    if agrees(update_count, rounding):
        return update_count
    if agrees(global_step, 2 * rounding * global_step):
        return global_step
    return int(told + 0.5)
