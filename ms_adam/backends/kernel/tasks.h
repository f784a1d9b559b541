// The work of a launch: a Task for each weight, or for each row of a sparse gradient.
//
// Tasks are numbered through as if their elements formed one row, and cut into chunks of equal size
// that threads take.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "numbers.h"

namespace {

struct Task;
struct Step;
// These act on elements first, first + 1, ..., first + count - 1.
using Update = void (*)(const Task&, const Step&, int64_t first, int64_t count, double mean);
using Sum = double (*)(const char* x, int64_t first, int64_t count);
using SumOfWeight = double (*)(const Task&, int64_t first, int64_t count);
using Holds = bool (*)(const char* x, int64_t first, int64_t count);  // of all elements
using Accumulate = void (*)(const Task&, double factor, bool begins, int64_t first, int64_t count);

struct Task {
  int64_t begin = 0;  // its first element in the row of all elements
  int64_t size = 0;
  int64_t row = 0;    // elements of a row that is updated by itself, 0 if rows do not matter
  int64_t unit = 0;   // elements that must stay together, 0 if each is independent
  int64_t number = 0, element = 0;  // of its weight, and of its first element in the weight
  int64_t group = 0;
  int64_t own_begin = 0, own_end = 0;       // the elements to update; only these have moments
  bool centralized = false;                 // the gradient of a row loses its mean
  bool lazy = false;                        // a row without a gradient is skipped
  bool skipped = false;                     // such a row: only its average moves
  bool l2 = false, decoupled_decay = false;  // how weight decay acts
  char *gradient = nullptr, *weight = nullptr;
  Kind gradient_kind = Kind::Other;
  char* parameter = nullptr;  // holds the weight's rounding if the weight is a master
  char *moment1 = nullptr, *moment2 = nullptr, *vhat = nullptr, *ema = nullptr;
  char* exponents[3] = {};  // of the blocks of the moments, if these are in bytes
  char* accumulator = nullptr;
  Update update = nullptr, average = nullptr;
  Sum sum_gradient = nullptr, squares = nullptr;
  SumOfWeight sum_weight = nullptr;
  Holds is_zero = nullptr, is_finite = nullptr;
  Accumulate accumulate = nullptr;
  int64_t bytes = 0;  // to prefetch: of a row that a sparse gradient names, else 0

  // Sparse rows lie anywhere in a table, where the hardware cannot predict them.
  void prefetch() const {
    for (const char* data : {weight, moment1, moment2})
      for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(data + byte, 1);
  }
};
constexpr int rows_ahead = 8;

// The element at an index, or nullptr if there is no data.
template <class T> T* at(char* data, int64_t i) {
  return data ? reinterpret_cast<T*>(data) + i : nullptr;
}

// Requests memory that a later block needs. The hardware does not follow four streams or more: without
// this a step takes 15% longer, and one with moments in bfloat16 10%. Beside other work it does not
// follow one either: a sum from memory then takes 2.5 times as long.
template <class T> void prefetch(const T* stream, int64_t first, int64_t count) {
  if (!stream) return;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(stream) + first * sizeof(T);
  for (uintptr_t line = begin; line < begin + count * sizeof(T); line += 64)
    __builtin_prefetch(reinterpret_cast<const void*>(line));  // may be past the end: never faults
}

// Elements of a chunk: few enough to balance threads, many enough to read memory in long runs.
constexpr int64_t chunk_size = 1 << 15;

class Tasks {
 public:
  void add(Task task) {
    task.begin = total_;
    total_ += task.size;
    tasks_.push_back(task);
  }

  void clear() {
    tasks_.clear();
    total_ = 0;
  }

  int64_t chunks() const { return (total_ + chunk_size - 1) / chunk_size; }

  // Calls visit(task, first, count) for the elements of each task in a chunk.
  template <class Visit> void in_chunk(int64_t chunk, Visit visit) const {
    int64_t at = cut(chunk);
    const int64_t end = cut(chunk + 1);
    for (const Task* task = find(at); at < end; ++task) {
      const Task* later = task + rows_ahead;
      if (task->bytes && later < tasks_.data() + tasks_.size()) later->prefetch();
      const int64_t count = std::min(end, task->begin + task->size) - at;
      if (count) visit(*task, at - task->begin, count);
      at += count;
    }
  }

 private:
  // Returns where a chunk begins: not between elements that must stay together.
  int64_t cut(int64_t chunk) const {
    const int64_t at = chunk * chunk_size;
    if (at >= total_) return total_;
    const Task& task = *find(at);
    return task.unit ? at - (at - task.begin) % task.unit : at;
  }

  // Returns the last task that begins at this element or before.
  const Task* find(int64_t at) const {
    const auto next = std::upper_bound(
        tasks_.begin(), tasks_.end(), at,
        [](int64_t position, const Task& task) { return position < task.begin; });
    return &*(next - 1);
  }

  std::vector<Task> tasks_;
  int64_t total_ = 0;
};

}  // namespace
