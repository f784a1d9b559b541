// Sums over elements, and tests of all elements. Each visits elements in an order that depends only on
// their number, and adds in double.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "numbers.h"
#include "tasks.h"

namespace {

// Sums elements or their squares. The lanes let the compiler use vectors and fix the order of the
// additions at the same time.
template <class T, bool squared> double sum(const char* x, int64_t first, int64_t count) {
  constexpr int lanes = 16;
  const T* data = reinterpret_cast<const T*>(x) + first;
  double lane[lanes] = {};
  const auto term = [](T element) {
    const double value = widen(element);
    return squared ? value * value : value;
  };
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes)
    for (int k = 0; k < lanes; ++k) lane[k] += term(data[i + k]);
  for (int k = 0; i < count; ++i, ++k) lane[k] += term(data[i]);
  for (int width = lanes / 2; width; width /= 2)
    for (int k = 0; k < width; ++k) lane[k] += lane[k + width];
  return lane[0];
}

// Sums the elements of a weight; a master first follows its parameter.
template <class Weight, class Parameter>
double sum_weight(const Task& task, int64_t first, int64_t count) {
  if constexpr (std::is_same<Parameter, Nothing>::value) {
    return sum<Weight, false>(task.weight, first, count);
  } else {
    constexpr int64_t block = 1024;
    double total = 0.0;
    for (const int64_t end = first + count; first < end; first += block) {
      float followed[block];
      const int64_t n = std::min(block, end - first);
      const Weight* const master = at<Weight>(task.weight, first);
      const Parameter* const parameter = at<Parameter>(task.parameter, first);
      for (int64_t i = 0; i < n; ++i) followed[i] = follow(master[i], parameter[i]);
      total += sum<float, false>(reinterpret_cast<const char*>(followed), 0, n);
    }
    return total;
  }
}

template <class T> bool is_zero(const char* x, int64_t first, int64_t count) {
  const T* data = reinterpret_cast<const T*>(x) + first;
  bool zero = true;
  for (int64_t i = 0; i < count; ++i) zero &= widen(data[i]) == 0;  // false for NaN
  return zero;
}

template <class T> bool is_finite(const char* x, int64_t first, int64_t count) {
  const T* data = reinterpret_cast<const T*>(x) + first;
  bool finite = true;
  for (int64_t i = 0; i < count; ++i) finite &= widen(data[i]) - widen(data[i]) == 0;
  return finite;
}

template <bool squared> Sum sum_of(Kind kind) {
  return with_type(kind, [](auto x) -> Sum { return sum<decltype(x), squared>; });
}

Holds is_zero_of(Kind kind) {
  return with_type(kind, [](auto x) -> Holds { return is_zero<decltype(x)>; });
}

Holds is_finite_of(Kind kind) {
  return with_type(kind, [](auto x) -> Holds { return is_finite<decltype(x)>; });
}

}  // namespace
