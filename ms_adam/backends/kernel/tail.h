// The tail of a training step before the update: the global norm, the test for gradients that are
// not finite, the loss scale, and the accumulation of gradients.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "inputs.h"
#include "numbers.h"
#include "tasks.h"
#include "threads.h"

namespace {

// Returns the norm of all gradients, without the loss scale. Chunks are summed in order, so that the
// result does not depend on threads.
double global_norm(const Tasks& tasks, int64_t threads, double loss_scale) {
  std::vector<double> squares(tasks.chunks());
  for_each_chunk(tasks.chunks(), threads, [&](int64_t chunk) {
    tasks.in_chunk(chunk, [&](const Task& task, int64_t first, int64_t count) {
      squares[chunk] += task.squares(task.gradient, first, count);
    });
  });
  double sum = 0.0;
  for (const double part : squares) sum += part;
  return std::sqrt(sum) / loss_scale;
}

bool all_finite(const Tasks& tasks, int64_t threads) {
  std::vector<char> finite(tasks.chunks());
  for_each_chunk(tasks.chunks(), threads, [&](int64_t chunk) {
    finite[chunk] = true;
    tasks.in_chunk(chunk, [&](const Task& task, int64_t first, int64_t count) {
      finite[chunk] &= task.is_finite(task.gradient, first, count);
    });
  });
  return std::all_of(finite.begin(), finite.end(), [](char one) { return one; });
}

// Adjusts the scale as mindspore.amp.DynamicLossScaler does, in float32: larger after `scale_window`
// finite steps in a row, smaller after a step that is not.
void adjust_scale(const Formula& formula, bool finite, float& scale, int32_t& counter) {
  const float factor = float(formula.scale_factor), larger = scale * factor;
  const int32_t window = int32_t(formula.scale_window);
  if (!finite) scale = std::max(1.0f, scale / factor);
  else if (counter == window - 1 && std::isfinite(larger)) scale = larger;
  counter = finite ? (counter + 1) % window : 0;
}

// Adds a gradient without its loss scale, 1 / factor, to the sum of earlier ones, or begins a sum.
template <class Gradient, class Real>
void accumulate_elements(const Task& task, double factor, bool begins, int64_t first,
                         int64_t count) {
  const Gradient* __restrict const gradient = at<Gradient>(task.gradient, first);
  Real* __restrict const sum = at<Real>(task.accumulator, first);
  Real shrink = 1;  // as in `update`
  if (factor < std::numeric_limits<Real>::min()) {
    shrink = Real(0x1p-64);
    factor *= 0x1p64;
  }
  const Real rounded = Real(factor);
  const auto unscaled = [=](int64_t i) { return rounded * (shrink * Real(widen(gradient[i]))); };
  constexpr int64_t block = 256, ahead = 4 * block;
  for (int64_t begin = 0; begin < count; begin += block) {
    if (begin + ahead < count) {  // without this 25 million elements take 15% longer
      prefetch(gradient, begin + ahead, block);
      prefetch(sum, begin + ahead, block);
    }
    const int64_t end = std::min(begin + block, count);
    if (begins) {
      for (int64_t i = begin; i < end; ++i) sum[i] = unscaled(i);
    } else {
      for (int64_t i = begin; i < end; ++i) sum[i] += unscaled(i);
    }
  }
}

Accumulate accumulate_of(Kind gradient, Kind computed) {
  return with_type(gradient, [computed](auto x) -> Accumulate {
    using Gradient = decltype(x);
    return computed == Kind::Float64 ? accumulate_elements<Gradient, double>
                                     : accumulate_elements<Gradient, float>;
  });
}

void accumulate(const Tasks& tasks, int64_t threads, double factor, bool begins) {
  for_each_chunk(tasks.chunks(), threads, [&](int64_t chunk) {
    tasks.in_chunk(chunk, [&](const Task& task, int64_t first, int64_t count) {
      task.accumulate(task, factor, begins, first, count);
    });
  });
}

}  // namespace
