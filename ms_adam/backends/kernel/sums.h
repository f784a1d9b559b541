// Sums over elements, and tests of all elements. Each visits elements in an order that depends only on
// their number, and adds in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "numbers.h"
#include "tasks.h"

namespace {

// Sums a function of each element. The lanes let the compiler use vectors and fix the order of the
// additions at the same time.
template <class T, class Term>
double sum_of_terms(const char* x, int64_t first, int64_t count, Term term) {
  constexpr int lanes = 16;
  constexpr int64_t block = 256, ahead = 4 * block;
  const T* data = reinterpret_cast<const T*>(x) + first;
  double lane[lanes] = {};
  const int64_t whole = count - count % lanes;
  for (int64_t begin = 0; begin < whole; begin += block) {
    if (begin + ahead < count) prefetch(data, begin + ahead, block);
    const int64_t end = std::min(whole, begin + block);
    for (int64_t i = begin; i < end; i += lanes)
      for (int k = 0; k < lanes; ++k) lane[k] += term(double(widen(data[i + k])));
  }
  for (int k = 0; k < count - whole; ++k) lane[k] += term(double(widen(data[whole + k])));
  for (int width = lanes / 2; width; width /= 2)
    for (int k = 0; k < width; ++k) lane[k] += lane[k + width];
  return lane[0];
}

template <class T, bool squared> double sum(const char* x, int64_t first, int64_t count) {
  return sum_of_terms<T>(x, first, count, [](double v) { return squared ? v * v : v; });
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

// Both are sums, since a loop over `bool` is not vectorized and takes 5 to 8 times as long.

template <class T> bool is_zero(const char* x, int64_t first, int64_t count) {
  return sum_of_terms<T>(x, first, count, [](double v) { return std::abs(v); }) == 0;
}

template <class T> bool is_finite(const char* x, int64_t first, int64_t count) {
  return sum_of_terms<T>(x, first, count, [](double v) { return v - v; }) == 0;  // else NaN
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
