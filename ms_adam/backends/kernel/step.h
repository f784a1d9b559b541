// The update: its formula for one element, and the loop over the elements of a weight.
//
// To add an optimizer, add a rule beside `Adam` and select it in `method_for`.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "inputs.h"
#include "numbers.h"
#include "sums.h"
#include "tasks.h"

namespace {

// ---- Types --------------------------------------------------------------------------------------

// For each type of weight: the type in which moments are stored, and that in which a step computes.
// Both equal today. Narrow moments are another `Stored`, which `widen` reads and `narrow` writes.
template <class Weight> struct MomentTypes { using Stored = float; using Computed = float; };
template <> struct MomentTypes<double> { using Stored = double; using Computed = double; };

template <class Weight> using Computed = typename MomentTypes<Weight>::Computed;
template <class Weight> using Stored = typename MomentTypes<Weight>::Stored;

Kind moment_kind(Kind weight) {
  return with_type(weight, [](auto w) { return kind_of(Stored<decltype(w)>()); });
}
Kind computed_kind(Kind weight) {
  return with_type(weight, [](auto w) { return kind_of(Computed<decltype(w)>()); });
}

// ---- Scalars ------------------------------------------------------------------------------------

// The scalars of a step, computed once for each group in double; see ms_adam/scalars.py.
struct Step {
  double gradient_scale;  // sign * clipping / loss_scale
  double one_minus_beta1, one_minus_beta2;
  double step_size, epsilon;
  double decay_factor;  // 1 - learning_rate * weight_decay
  double weight_decay;
  bool nesterov;
  // The same for all groups, from `AverageRate`.
  double ema_rate;  // how far an average moves to its weight
  bool ema_begins;  // whether it begins at the weight before the step
};

// The averages of one step; see `AverageRates` in ms_adam/scalars.py. The mean of section 7.2,
// without its bias, moves by (1 - d) / (1 - d^t): at first by 1. A schedule of d has the sum of the
// weights of all terms in the place of 1 - d^t.
struct AverageRate {
  double sum, rate;
  bool begins;

  AverageRate(const Formula& f, double t, double decay, double sum_before) {
    sum = f.ema_scheduled != 0 ? sum_before - (1.0 - decay) * sum_before + (1.0 - decay)
                               : -std::expm1(t * std::log(decay));
    rate = f.ema_debias != 0 ? (1.0 - decay) / sum : 1.0 - decay;
    begins = f.ema_debias == 0 && t == 1;
  }
};

// The scalars for one weight, each rounded once. Switches are numbers too, because g++ vectorizes a
// selection only if the condition is as wide as the values.
template <class Real> struct Rates {
  Real gradient_scale, one_minus_beta1, one_minus_beta2, step_size, epsilon;
  Real decay_factor;  // 1 unless weight decay is decoupled
  Real weight_decay, l2, nesterov;
  Real mean;  // of the gradient's row if it is centralized, else 0
  Real ema_rate;
  bool ema_begins;
};

template <class Real> Rates<Real> rounded(const Step& step, const Task& task, double mean) {
  // An epsilon that the type rounds to 0 becomes its smallest number, to avoid 0 / 0.
  const Real least = step.epsilon > 0 ? std::numeric_limits<Real>::min() : 0;
  const Real epsilon = std::max(Real(step.epsilon), least);
  return {Real(step.gradient_scale), Real(step.one_minus_beta1), Real(step.one_minus_beta2),
          Real(step.step_size), epsilon, task.decoupled_decay ? Real(step.decay_factor) : Real(1),
          Real(step.weight_decay), Real(task.l2), Real(step.nesterov), Real(mean),
          Real(step.ema_rate), step.ema_begins};
}

// ---- Rules --------------------------------------------------------------------------------------

template <class Real> Real lerp(Real start, Real end, Real weight) {
  return start + weight * (end - start);
}

// Algorithm 1 of Kingma & Ba 2015 (arXiv 1412.6980); with AMSGrad, Algorithm 2 of Reddi et al. 2018.
template <bool amsgrad> struct Adam {
  static constexpr int moments = amsgrad ? 3 : 2;

  // Sets what depends on the number of updates, t; see ms_adam/scalars.py for the derivation.
  static void correct_bias(const Formula& f, double t, Step& step) {
    if (!f.bias_correction) return;
    // 1 - beta^t without cancellation; log(0) = -Inf gives 1.
    const double c1 = -std::expm1(t * std::log(f.beta1));
    const double c2 = std::sqrt(-std::expm1(t * std::log(f.beta2)));
    step.step_size *= c2 / c1;
    if (!f.epsilon_hat) step.epsilon *= c2;
  }

  // Updates the moments of one element; returns what the weight loses.
  template <class Real>
  static Real update(const Rates<Real>& rates, Real g, Real& m, Real& v, Real& vhat) {
    m = lerp(m, g, rates.one_minus_beta1);
    v = lerp(v, g * g, rates.one_minus_beta2);
    const Real update_numerator = rates.nesterov != 0 ? lerp(m, g, rates.one_minus_beta1) : m;
    if constexpr (amsgrad) vhat = (vhat > v || vhat != vhat) ? vhat : v;  // NaN is the largest
    const Real divisor = std::sqrt(amsgrad ? vhat : v) + rates.epsilon;
    return rates.step_size * update_numerator / divisor;
  }
};

// Algorithm 2 of the same paper, with epsilon added to u, its second moment.
struct AdaMax {
  static constexpr int moments = 2;

  static void correct_bias(const Formula& f, double t, Step& step) {
    step.step_size /= -std::expm1(t * std::log(f.beta1));
  }

  template <class Real>
  static Real update(const Rates<Real>& rates, Real g, Real& m, Real& u, Real&) {
    m = lerp(m, g, rates.one_minus_beta1);
    const Real decayed = lerp(u, Real(0), rates.one_minus_beta2), size = std::abs(g);
    u = (decayed > size || decayed != decayed) ? decayed : size;  // NaN is the largest
    // Without epsilon, an element whose gradients were all 0 has 0 / least = 0.
    const Real divisor = u + rates.epsilon, least = std::numeric_limits<Real>::min();
    return rates.step_size * m / (divisor < least ? least : divisor);
  }
};

template <class Rule>
Step scalars(const Formula& f, double loss_scale, double t, double learning_rate,
             double weight_decay) {
  Step step;
  step.gradient_scale = (f.maximize ? -1.0 : 1.0) / loss_scale;
  step.one_minus_beta1 = 1.0 - f.beta1;
  step.one_minus_beta2 = 1.0 - f.beta2;
  step.step_size = learning_rate;
  step.epsilon = f.eps;
  step.decay_factor = 1.0 - learning_rate * weight_decay;
  step.weight_decay = weight_decay;
  step.nesterov = f.nesterov;
  Rule::correct_bias(f, t, step);
  return step;
}

// ---- The loop -----------------------------------------------------------------------------------

// Requests memory that a later block needs. The hardware does not follow four streams or more; a
// step without this takes 15% longer.
template <class T> void prefetch(const T* stream, int64_t first, int64_t count) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(stream) + first * sizeof(T);
  for (uintptr_t line = begin; line < begin + count * sizeof(T); line += 64)
    __builtin_prefetch(reinterpret_cast<const void*>(line));  // may be past the end: never faults
}

// Moves averages towards their weights.
template <class Weight, class Parameter>
__attribute__((noinline)) void average(
    const Computed<Weight> rate, const int64_t count, const Weight* __restrict weight,
    const Parameter* __restrict parameter, Stored<Weight>* __restrict ema) {
  using Real = Computed<Weight>;
  for (int64_t i = 0; i < count; ++i) {
    Real w = widen(weight[i]);
    if constexpr (!std::is_same<Parameter, Nothing>::value) w = follow(w, parameter[i]);
    ema[i] = narrow<Stored<Weight>>(lerp(Real(widen(ema[i])), w, rate));
  }
}

// An `Update` of a row that is skipped: only its averages move.
template <class Weight, class Parameter>
void update_average(const Task& task, const Step& step, int64_t first, int64_t count, double) {
  const Weight* const weight = at<Weight>(task.weight, first);
  const Parameter* const parameter = at<Parameter>(task.parameter, first);
  auto* const ema = at<Stored<Weight>>(task.ema, first);
  if (step.ema_begins) average<Weight, Parameter>(1, count, weight, parameter, ema);
  average<Weight, Parameter>(step.ema_rate, count, weight, parameter, ema);
}

// Updates `count` elements. Tests in the loop become selections, which cost nothing beside the
// memory traffic and propagate NaN and Inf. `plain` leaves L2 decay, centralization and Nesterov
// out, which makes room for the check of a master: without it that check takes 6% of a step. (Not
// inlined, because g++ would then forget that the streams do not overlap.)
template <class Rule, bool plain, class Weight, class Parameter, class Gradient>
__attribute__((noinline)) void update_elements(
    Rates<Computed<Weight>> rates, const int64_t count, const Gradient* __restrict gradient,
    Weight* __restrict weight, Parameter* __restrict parameter,
    Stored<Weight>* __restrict moment1, Stored<Weight>* __restrict moment2,
    Stored<Weight>* __restrict vhat, Stored<Weight>* __restrict ema) {
  using Real = Computed<Weight>;
  constexpr bool is_master = !std::is_same<Parameter, Nothing>::value;
  constexpr bool has_vhat = Rule::moments > 2;
  if constexpr (plain) rates.l2 = rates.mean = rates.nesterov = 0;  // constants to the compiler
  constexpr int64_t block = 128, ahead = 512;
  for (int64_t begin = 0; begin < count; begin += block) {
    if (begin + ahead < count) {
      prefetch(gradient, begin + ahead, block);
      prefetch(weight, begin + ahead, block);
      prefetch(moment1, begin + ahead, block);
      prefetch(moment2, begin + ahead, block);
      if constexpr (has_vhat) prefetch(vhat, begin + ahead, block);
      if constexpr (is_master) prefetch(parameter, begin + ahead, block);
      if (ema) prefetch(ema, begin + ahead, block);
    }
    const int64_t end = std::min(count, begin + block);
    const Parameter* const shown = is_master ? parameter + begin : nullptr;
    if (ema && rates.ema_begins)
      average<Weight, Parameter>(1, end - begin, weight + begin, shown, ema + begin);
    for (int64_t i = begin; i < end; ++i) {
      Real w = widen(weight[i]);
      if constexpr (is_master) w = follow(w, parameter[i]);
      Real g = rates.gradient_scale * Real(widen(gradient[i]));
      g = rates.l2 != 0 ? g + rates.weight_decay * w : g;
      g = g - rates.mean;

      Real m = widen(moment1[i]), v = widen(moment2[i]), largest = 0;
      if constexpr (has_vhat) largest = widen(vhat[i]);
      w = rates.decay_factor * w - Rule::update(rates, g, m, v, largest);
      moment1[i] = narrow<Stored<Weight>>(m);
      moment2[i] = narrow<Stored<Weight>>(v);
      if constexpr (has_vhat) vhat[i] = narrow<Stored<Weight>>(largest);
      weight[i] = narrow<Weight>(w);
      if constexpr (is_master) parameter[i] = narrow<Parameter>(w);
    }
    if (ema)
      average<Weight, Parameter>(rates.ema_rate, end - begin, weight + begin, shown, ema + begin);
  }
}

// An `Update`. Gradients of the parameter's type, the usual ones, and of the computed type have a
// loop of their own. Others are converted first, in blocks that stay in the nearest cache. So are
// gradients with a loss scale so large that their factor would be flushed to zero.
template <class Rule, class Weight, class Parameter, class Gradient>
void update(const Task& task, const Step& step, int64_t first, int64_t count, double mean) {
  using Real = Computed<Weight>;
  using Moment = Stored<Weight>;
  constexpr bool is_master = !std::is_same<Parameter, Nothing>::value;
  using Usual = typename std::conditional<is_master, Parameter, Weight>::type;
  Rates<Real> rates = rounded<Real>(step, task, mean);
  Real shrink = 1;
  if (std::abs(step.gradient_scale) < std::numeric_limits<Real>::min()) {
    shrink = Real(0x1p-64);  // exact, as is its inverse
    rates.gradient_scale = Real(step.gradient_scale * 0x1p64);
  }
  const bool plain = is_master && rates.l2 == 0 && rates.mean == 0 && rates.nesterov == 0;
  const auto run = [&](const auto* gradient, int64_t first, int64_t count) {
    using From = typename std::decay<decltype(*gradient)>::type;
    const auto loop = plain ? update_elements<Rule, is_master, Weight, Parameter, From>
                            : update_elements<Rule, false, Weight, Parameter, From>;
    loop(rates, count, gradient, at<Weight>(task.weight, first),
         at<Parameter>(task.parameter, first), at<Moment>(task.moment1, first),
         at<Moment>(task.moment2, first), at<Moment>(task.vhat, first), at<Moment>(task.ema, first));
  };
  const Gradient* const gradient = at<Gradient>(task.gradient, first);
  if constexpr (std::is_same<Gradient, Usual>::value || std::is_same<Gradient, Real>::value)
    if (shrink == 1) return run(gradient, first, count);
  constexpr int64_t block = 1024;
  Real converted[block];
  for (int64_t begin = 0; begin < count; begin += block) {
    const int64_t n = std::min(block, count - begin);
    for (int64_t i = 0; i < n; ++i) converted[i] = shrink * Real(widen(gradient[begin + i]));
    run(converted, first + begin, n);
  }
}

// ---- Selection ----------------------------------------------------------------------------------

// Calls visit with a number of the weight's type and one of its parameter's type (Nothing if it is
// no master); returns {} for pairs that do not exist.
template <class Visit>
auto with_weight(Kind weight, Kind parameter, Visit visit) -> decltype(visit(float(), Nothing())) {
  if (parameter == Kind::Other)
    return with_type(weight, [visit](auto w) { return visit(w, Nothing()); });
  if (weight != Kind::Float32) return {};
  if (parameter == Kind::Float16) return visit(float(), Float16());
  if (parameter == Kind::Bfloat16) return visit(float(), Bfloat16());
  return {};
}

template <class Rule> Update update_of(Kind weight, Kind parameter, Kind gradient) {
  return with_weight(weight, parameter, [gradient](auto w, auto p) {
    return with_type(gradient, [](auto g) -> Update {
      return update<Rule, decltype(w), decltype(p), decltype(g)>;
    });
  });
}

SumOfWeight sum_weight_of(Kind weight, Kind parameter) {
  return with_weight(weight, parameter, [](auto w, auto p) -> SumOfWeight {
    return sum_weight<decltype(w), decltype(p)>;
  });
}

Update average_of(Kind weight, Kind parameter) {
  return with_weight(weight, parameter,
                     [](auto w, auto p) -> Update { return update_average<decltype(w), decltype(p)>; });
}

// A rule with its types erased.
struct Method {
  int moments;  // how many each weight has
  Update (*update_of)(Kind weight, Kind parameter, Kind gradient);
  Step (*scalars)(const Formula& formula, double loss_scale, double t, double learning_rate,
                  double weight_decay);
};

template <class Rule> Method method_of() { return {Rule::moments, update_of<Rule>, scalars<Rule>}; }

Method method_for(const Formula& formula) {
  if (formula.infinity_norm) return method_of<AdaMax>();
  return formula.amsgrad ? method_of<Adam<true>>() : method_of<Adam<false>>();
}

// ---- One chunk ----------------------------------------------------------------------------------

void step_chunk(const Tasks& tasks, int64_t chunk, const Step* steps) {
  tasks.in_chunk(chunk, [steps](const Task& task, int64_t first, int64_t count) {
    const int64_t end = std::min(first + count, task.own_end);
    first = std::max(first, task.own_begin);
    if (first >= end) return;
    const Step& step = steps[task.group];
    if (task.skipped) return task.average(task, step, first, end - first, 0.0);
    if (!task.row) return task.update(task, step, first, end - first, 0.0);
    for (; first < end; first += task.row) {
      if (task.lazy && task.is_zero(task.gradient, first, task.row)) {
        if (task.ema) task.average(task, step, first, task.row, 0.0);
        continue;
      }
      double mean = 0.0;
      if (task.centralized) {
        mean = step.gradient_scale * task.sum_gradient(task.gradient, first, task.row);
        if (task.l2) mean += step.weight_decay * task.sum_weight(task, first, task.row);
        mean /= task.row;
      }
      task.update(task, step, first, task.row, mean);
    }
  });
}

}  // namespace
