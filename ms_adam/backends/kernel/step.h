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
#include "narrow.h"
#include "numbers.h"
#include "sums.h"
#include "tasks.h"

namespace {

// ---- Types --------------------------------------------------------------------------------------

// The type in which a weight of a type is updated. Moments are stored in the same type, unless they
// are narrow (narrow.h); averages always are.
template <class Weight> struct ComputedType { using Real = float; };
template <> struct ComputedType<double> { using Real = double; };

template <class Weight> using Computed = typename ComputedType<Weight>::Real;

constexpr Kind computed_kind(Kind weight) {
  return weight == Kind::Float64 ? Kind::Float64 : Kind::Float32;
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
  const Keys* keys = nullptr;  // of the random numbers, if moments are narrow
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

// Whether L2 decay, centralization and Nesterov are left out.
template <class Real> bool is_plain(const Rates<Real>& rates) {
  return rates.l2 == 0 && rates.mean == 0 && rates.nesterov == 0;
}

// ---- Rules --------------------------------------------------------------------------------------

template <class Real> Real lerp(Real start, Real end, Real weight) {
  return start + weight * (end - start);
}

// The larger number; NaN is the largest. (In two selections: g++ does not vectorize every loop with
// one by `a > b || a != a`.)
template <class Real> Real larger(Real a, Real b) {
  const Real most = a > b ? a : b;
  return a != a ? a : most;
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
    if constexpr (amsgrad) vhat = larger(vhat, v);
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
    u = larger(lerp(u, Real(0), rates.one_minus_beta2), std::abs(g));
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

// Requests several streams, for the block that is `ahead` elements after one.
constexpr int64_t ahead = 512;
template <class... T>
void prefetch_ahead(int64_t begin, int64_t count, int64_t block, const T*... streams) {
  if (begin + ahead < count) (prefetch(streams, begin + ahead, block), ...);
}

// The parameters from an index on, or nullptr if the weight is no master.
template <class Parameter> const Parameter* shown(const Parameter* parameter, int64_t first) {
  if constexpr (std::is_same<Parameter, Nothing>::value) return nullptr;
  else return parameter + first;
}

// Moves averages towards their weights.
template <class Weight, class Parameter>
__attribute__((noinline)) void average(
    const Computed<Weight> rate, const int64_t count, const Weight* __restrict weight,
    const Parameter* __restrict parameter, Computed<Weight>* __restrict ema) {
  using Real = Computed<Weight>;
  for (int64_t i = 0; i < count; ++i) {
    Real w;
    if constexpr (std::is_same<Parameter, Nothing>::value) w = widen(weight[i]);
    else w = follow(weight[i], parameter[i]);
    ema[i] = lerp(ema[i], w, rate);
  }
}

// The averages of elements begin, ..., end - 1, before the update of their weights and after it.
template <class Real, class Weight, class Parameter>
void average_before(const Rates<Real>& rates, int64_t begin, int64_t end, const Weight* weight,
                    const Parameter* parameter, Real* ema) {
  if (!ema || !rates.ema_begins) return;
  average<Weight, Parameter>(1, end - begin, weight + begin, shown(parameter, begin), ema + begin);
}

template <class Real, class Weight, class Parameter>
void average_after(const Rates<Real>& rates, int64_t begin, int64_t end, const Weight* weight,
                   const Parameter* parameter, Real* ema) {
  if (!ema) return;
  average<Weight, Parameter>(rates.ema_rate, end - begin, weight + begin, shown(parameter, begin),
                             ema + begin);
}

// An `Update` of a row that is skipped: only its averages move.
template <class Weight, class Parameter>
void update_average(const Task& task, const Step& step, int64_t first, int64_t count, double) {
  const Weight* const weight = at<Weight>(task.weight, first);
  const Parameter* const parameter = at<Parameter>(task.parameter, first);
  auto* const ema = at<Computed<Weight>>(task.ema, first);
  if (step.ema_begins) average<Weight, Parameter>(1, count, weight, parameter, ema);
  average<Weight, Parameter>(step.ema_rate, count, weight, parameter, ema);
}

// Updates element i of a weight, given its gradient and its moments. With `quiet`, a gradient that is
// NaN becomes the one with the fewest bits, which its moments then are.
template <class Rule, bool quiet, class Real, class Gradient, class Weight, class Parameter>
inline void update_element(const Rates<Real>& rates, Gradient gradient, Weight* weight,
                           Parameter* parameter, int64_t i, Real& m, Real& v, Real& largest) {
  Real w;
  if constexpr (std::is_same<Parameter, Nothing>::value) w = widen(weight[i]);
  else w = follow(weight[i], parameter[i]);
  Real g = rates.gradient_scale * Real(widen(gradient));
  g = rates.l2 != 0 ? g + rates.weight_decay * w : g;
  g = g - rates.mean;
  if constexpr (quiet) g = g == g ? g : std::numeric_limits<Real>::quiet_NaN();
  w = rates.decay_factor * w - Rule::update(rates, g, m, v, largest);
  if constexpr (std::is_same<Parameter, Nothing>::value) weight[i] = narrow<Weight>(w);
  else set_master(w, weight[i], parameter[i]);
}

// Updates `count` elements. Tests in the loop become selections, which cost nothing beside the
// memory traffic and propagate NaN and Inf. `plain` leaves L2 decay, centralization and Nesterov
// out, which makes room for the check of a master: without it that check takes 6% of a step. (Not
// inlined, because g++ would then forget that the streams do not overlap.)
template <class Rule, bool plain, class Weight, class Parameter, class Gradient>
__attribute__((noinline)) void update_elements(
    Rates<Computed<Weight>> rates, const int64_t count, const Gradient* __restrict gradient,
    Weight* __restrict weight, Parameter* __restrict parameter,
    Computed<Weight>* __restrict moment1, Computed<Weight>* __restrict moment2,
    Computed<Weight>* __restrict vhat, Computed<Weight>* __restrict ema) {
  using Real = Computed<Weight>;
  constexpr bool has_vhat = Rule::moments > 2;
  if constexpr (plain) rates.l2 = rates.mean = rates.nesterov = 0;  // constants to the compiler
  constexpr int64_t block = 128;
  for (int64_t begin = 0; begin < count; begin += block) {
    prefetch_ahead(begin, count, block, gradient, weight, moment1, moment2, vhat, parameter, ema);
    const int64_t end = std::min(count, begin + block);
    average_before(rates, begin, end, weight, parameter, ema);
    for (int64_t i = begin; i < end; ++i) {
      Real m = moment1[i], v = moment2[i], largest = 0;
      if constexpr (has_vhat) largest = vhat[i];
      update_element<Rule, false>(rates, gradient[i], weight, parameter, i, m, v, largest);
      moment1[i] = m;
      moment2[i] = v;
      if constexpr (has_vhat) vhat[i] = largest;
    }
    average_after(rates, begin, end, weight, parameter, ema);
  }
}

// Returns a factor of the gradients, and takes it out of their scale, where the scale is so small that
// it would be flushed to zero.
template <class Real> Real take_shrink(const Step& step, Rates<Real>& rates) {
  if (std::abs(step.gradient_scale) >= std::numeric_limits<Real>::min()) return 1;
  rates.gradient_scale = Real(step.gradient_scale * 0x1p64);
  return Real(0x1p-64);  // exact, as is its inverse
}

// Writes gradients of any type in the computed one, times a factor.
template <class Real>
__attribute__((noinline)) void convert(const Task& task, int64_t first, int64_t count, Real factor,
                                       Real* __restrict converted) {
  with_type(task.gradient_kind, [&](auto x) {
    const auto* __restrict const gradient = at<decltype(x)>(task.gradient, first);
    for (int64_t i = 0; i < count; ++i) converted[i] = factor * Real(widen(gradient[i]));
    return true;
  });
}

// An `Update`. Gradients of the parameter's type, the usual ones, and of the computed type have a
// loop of their own. Others are converted first, in blocks that stay in the nearest cache. So are
// gradients with a loss scale so large that their factor would be flushed to zero.
template <class Rule, class Weight, class Parameter>
void update(const Task& task, const Step& step, int64_t first, int64_t count, double mean) {
  using Real = Computed<Weight>;
  constexpr bool is_master = !std::is_same<Parameter, Nothing>::value;
  using Usual = typename std::conditional<is_master, Parameter, Weight>::type;
  Rates<Real> rates = rounded<Real>(step, task, mean);
  const Real shrink = take_shrink(step, rates);
  const bool plain = is_master && is_plain(rates);
  const auto run = [&](const auto* gradient, int64_t first, int64_t count) {
    using From = typename std::decay<decltype(*gradient)>::type;
    const auto loop = plain ? update_elements<Rule, is_master, Weight, Parameter, From>
                            : update_elements<Rule, false, Weight, Parameter, From>;
    loop(rates, count, gradient, at<Weight>(task.weight, first),
         at<Parameter>(task.parameter, first), at<Real>(task.moment1, first),
         at<Real>(task.moment2, first), at<Real>(task.vhat, first), at<Real>(task.ema, first));
  };
  if (shrink == 1 && task.gradient_kind == kind_of(Usual()))
    return run(at<Usual>(task.gradient, first), first, count);
  if (shrink == 1 && task.gradient_kind == kind_of(Real()))
    return run(at<Real>(task.gradient, first), first, count);
  constexpr int64_t block = 1024;
  Real converted[block];
  for (const int64_t end = first + count; first < end; first += block) {
    const int64_t n = std::min(block, end - first);
    convert(task, first, n, shrink, converted);
    run(converted, first, n);
  }
}

// ---- Narrow moments -----------------------------------------------------------------------------

// What one call updates of a weight: gradients, in float, and where the first stands in the weight.
struct Part {
  const float* gradient;
  int64_t count, place;
  Draw draw;
  const uint32_t* places;  // of `Keys`, as many bits of them as are used
};

template <class Rule, bool plain, class Weight, class Parameter>
__attribute__((noinline)) void update_part(
    Rates<float> rates, const Part part, Weight* __restrict weight,
    Parameter* __restrict parameter, Bfloat16* __restrict moment1, Bfloat16* __restrict moment2,
    Bfloat16* __restrict vhat, char* const*, float* __restrict ema) {
  constexpr bool has_vhat = Rule::moments > 2;
  if constexpr (plain) rates.l2 = rates.mean = rates.nesterov = 0;  // constants to the compiler
  const float* __restrict const gradient = part.gradient;
  for (int64_t begin = 0, end; begin < part.count; begin = end) {
    const int64_t block = (part.place + begin) / block_size, skip = (part.place + begin) % block_size;
    end = std::min(part.count, begin + block_size - skip);
    const uint32_t* __restrict const places = part.places + skip;
    const uint32_t own1 = part.draw.own(block, 0) >> 16, own2 = part.draw.own(block, 1) >> 16;
    const uint32_t own3 = has_vhat ? part.draw.own(block, 2) >> 16 : 0;
    prefetch_ahead(begin, part.count, block_size, gradient, weight, moment1, moment2, vhat, parameter,
                   ema);
    average_before(rates, begin, end, weight, parameter, ema);
    for (int64_t i = begin; i < end; ++i) {
      float m = widen(moment1[i]), v = widen(moment2[i]), largest = 0;
      if constexpr (has_vhat) largest = widen(vhat[i]);
      update_element<Rule, true>(rates, gradient[i], weight, parameter, i, m, v, largest);
      moment1[i] = dithered(m, places[i - begin] ^ own1);
      moment2[i] = dithered(v, places[i - begin] ^ own2);
      if constexpr (has_vhat) vhat[i] = dithered(largest, places[i - begin] ^ own3);
    }
    average_after(rates, begin, end, weight, parameter, ema);
  }
}

// All of a block at once, since its exponents may change.
template <class Rule, bool plain, class Weight, class Parameter>
__attribute__((noinline)) void update_part(
    Rates<float> rates, const Part part, Weight* __restrict weight,
    Parameter* __restrict parameter, Byte* __restrict moment1, Byte* __restrict moment2,
    Byte* __restrict vhat, char* const* exponents, float* __restrict ema) {
  constexpr bool has_vhat = Rule::moments > 2;
  if constexpr (plain) rates.l2 = rates.mean = rates.nesterov = 0;
  float first[block_size], second[block_size], maxima[has_vhat ? block_size : 1];
  const float* __restrict const gradient = part.gradient;
  for (int64_t begin = 0, end; begin < part.count; begin = end) {
    end = std::min(part.count, begin + block_size);
    const int64_t block = (part.place + begin) / block_size, n = end - begin;
    char &exponent1 = exponents[0][block], &exponent2 = exponents[1][block];
    const Code<true> code1(exponent1);
    const Code<false> code2(exponent2), code3(has_vhat ? exponents[2][block] : 1);
    int32_t most1 = 0, most2 = 0, most3 = 0;  // a NaN with a sign is none
    prefetch_ahead(begin, part.count, block_size, gradient, weight, moment1, moment2, vhat, parameter,
                   ema);
    average_before(rates, begin, end, weight, parameter, ema);
    for (int64_t i = begin; i < end; ++i) {
      float m = code1.widen(moment1[i]), v = code2.widen(moment2[i]), largest = 0;
      if constexpr (has_vhat) largest = code3.widen(vhat[i]);
      update_element<Rule, false>(rates, gradient[i], weight, parameter, i, m, v, largest);
      first[i - begin] = m;
      second[i - begin] = v;
      most1 = std::max(most1, int32_t(to_bits(m) & 0x7fffffffu));
      most2 = std::max(most2, int32_t(to_bits(v)));
      if constexpr (has_vhat) {
        maxima[i - begin] = largest;
        most3 = std::max(most3, int32_t(to_bits(largest)));
      }
    }
    const auto own = [&](int moment) { return part.draw.own(block, moment); };
    narrow_block<true>(first, n, most1, part.places, own(0), moment1 + begin, exponent1);
    narrow_block<false>(second, n, most2, part.places, own(1), moment2 + begin, exponent2);
    if constexpr (has_vhat)
      narrow_block<false>(maxima, n, most3, part.places, own(2), vhat + begin, exponents[2][block]);
    average_after(rates, begin, end, weight, parameter, ema);
  }
}

// An `Update`.
template <class Rule, class Moment, class Weight, class Parameter>
void update_narrow(const Task& task, const Step& step, int64_t first, int64_t count, double mean) {
  using Loop = void (*)(Rates<float>, const Part, Weight*, Parameter*, Moment*, Moment*, Moment*,
                        char* const*, float*);
  Rates<float> rates = rounded<float>(step, task, mean);
  const float shrink = take_shrink(step, rates);
  const Loop loop = is_plain(rates) ? Loop(update_part<Rule, true, Weight, Parameter>)
                                    : Loop(update_part<Rule, false, Weight, Parameter>);
  const uint32_t* const places =
      std::is_same<Moment, Bfloat16>::value ? step.keys->upper : step.keys->places;
  const Draw draw(*step.keys, task.number);
  const auto run = [&](const float* gradient, int64_t first, int64_t count) {
    loop(rates, {gradient, count, task.element + first, draw, places},
         at<Weight>(task.weight, first), at<Parameter>(task.parameter, first),
         at<Moment>(task.moment1, first), at<Moment>(task.moment2, first),
         at<Moment>(task.vhat, first), task.exponents, at<float>(task.ema, first));
  };
  if (shrink == 1 && task.gradient_kind == Kind::Float32)
    return run(at<float>(task.gradient, first), first, count);
  float converted[4 * block_size];
  for (const int64_t end = first + count; first < end;) {
    const int64_t skip = (task.element + first) % block_size;
    const int64_t n = std::min(end - first, 4 * block_size - skip);
    convert(task, first, n, shrink, converted);
    run(converted, first, n);
    first += n;
  }
}

// ---- Selection ----------------------------------------------------------------------------------

// Calls visit with a number of the weight's type and one of its parameter's type (Nothing if it is
// no master); returns {} for pairs that do not exist.
template <class Visit>
auto with_weight(Kind weight, Kind parameter, Visit visit) -> decltype(visit(float(), Nothing())) {
  if (parameter == Kind::Other)
    return with_type(weight, [visit](auto w) { return visit(w, Nothing()); });
  if (weight == Kind::Int16 && parameter == Kind::Bfloat16) return visit(Trailing(), Bfloat16());
  if (weight != Kind::Float32) return {};
  if (parameter == Kind::Float16) return visit(float(), Float16());
  if (parameter == Kind::Bfloat16) return visit(float(), Bfloat16());
  return {};
}

template <class Rule> Update update_of(Kind weight, Kind parameter, Kind moment) {
  return with_weight(weight, parameter, [moment](auto w, auto p) -> Update {
    using Weight = decltype(w);
    using Parameter = decltype(p);
    if constexpr (std::is_same<Computed<Weight>, float>::value) {
      if (moment == Kind::Bfloat16) return update_narrow<Rule, Bfloat16, Weight, Parameter>;
      if (moment == Kind::Uint8) return update_narrow<Rule, Byte, Weight, Parameter>;
    }
    return update<Rule, Weight, Parameter>;
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
  Update (*update_of)(Kind weight, Kind parameter, Kind moment);
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
