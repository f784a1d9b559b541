// Row-sparse gradients: they become tasks of single rows and of runs of rows without a gradient.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "inputs.h"
#include "numbers.h"
#include "tasks.h"

namespace {

using AddRow = void (*)(const char* x, int64_t first, int64_t count, char* to);

template <class T, class Real> void add_row(const char* x, int64_t first, int64_t count, char* to) {
  const T* data = reinterpret_cast<const T*>(x) + first;
  Real* sum = reinterpret_cast<Real*>(to);
  for (int64_t i = 0; i < count; ++i) sum[i] += Real(widen(data[i]));
}

AddRow add_row_of(Kind gradient, Kind computed) {
  return with_type(gradient, [computed](auto x) -> AddRow {
    using T = decltype(x);
    return computed == Kind::Float64 ? add_row<T, double> : add_row<T, float>;
  });
}

// Splits gradients that have a row in `values` for each of `indices`. A row that is named more than
// once gets the sum in order of `values`; rows that are not named have a gradient of zero.
// Holds the memory to which the tasks' gradients point.
class SparseRows {
 public:
  struct Table {
    Task whole;   // all rows; its functions are for gradients of the given type
    Task summed;  // the same with functions for gradients of the computed type
    int64_t rows, row;  // number of rows, elements of a row
    Kind weight, parameter, gradient, moment, computed;  // averages are of the computed type
  };

  // Adds one task for a table of which rows cannot be updated apart, with a dense gradient.
  // Returns false if an index is out of range, with the row in `report`.
  bool densify(const Table& table, const Tensor& indices, const Tensor& values, Tasks& tasks,
               Report& report) {
    const AddRow add = add_row_of(table.gradient, table.computed);
    Task task = table.summed;
    task.gradient = zeros(table.rows * table.row * width(table.computed));
    for (int64_t i = 0; i < indices.size; ++i) {
      const int64_t row = row_at(indices, i);
      if (!is_row(row, table, report)) return false;
      add(values.data, i * table.row, table.row,
          task.gradient + row * table.row * width(table.computed));
    }
    tasks.add(task);
    return true;
  }

  // Adds the tasks of a table. Returns false if an index is out of range, with the row in `report`.
  bool split(const Table& table, const Tensor& indices, const Tensor& values, bool lazy,
             Tasks& tasks, Report& report) {
    std::vector<Named> named;
    named.reserve(indices.size);
    for (int64_t i = 0; i < indices.size; ++i) {
      const int64_t row = row_at(indices, i);
      if (!is_row(row, table, report)) return false;
      named.push_back({row, i});
    }
    sort(named, table.rows);

    // Or do rows without a gradient stay as they are?
    const bool all = !lazy || table.whole.ema || table.whole.accumulator;
    const AddRow add = add_row_of(table.gradient, table.computed);
    int64_t next = 0;  // the first row without a task
    for (size_t i = 0, end; i < named.size(); i = end) {
      const int64_t row = named[i].row;
      for (end = i + 1; end < named.size() && named[end].row == row; ++end) {}
      if (all) add_zeros(table, next, row, lazy, tasks);
      next = row + 1;
      if (end == i + 1) {
        Task task = rows_of(table, table.whole, row, 1);
        task.gradient = values.data + named[i].place * table.row * width(table.gradient);
        tasks.add(task);
      } else {
        Task task = rows_of(table, table.summed, row, 1);
        task.gradient = zeros(table.row * width(table.computed));
        for (size_t k = i; k < end; ++k)
          add(values.data, named[k].place * table.row, table.row, task.gradient);
        tasks.add(task);
      }
    }
    if (all) add_zeros(table, next, table.rows, lazy, tasks);
    return true;
  }

 private:
  static int64_t row_at(const Tensor& indices, int64_t i) {
    return indices.kind == Kind::Int64 ? reinterpret_cast<const int64_t*>(indices.data)[i]
                                       : reinterpret_cast<const int32_t*>(indices.data)[i];
  }

  static bool is_row(int64_t row, const Table& table, Report& report) {
    if (row >= 0 && row < table.rows) return true;
    report.row = row;
    report.rows = table.rows;
    return false;
  }

  struct Named {
    int64_t row, place;  // in the table, in `values`
  };

  // Sorts by row, digit by digit, so that equal rows keep the order of `values`.
  static void sort(std::vector<Named>& named, int64_t rows) {
    constexpr int bits = 11;
    std::vector<Named> sorted(named.size());
    for (int shift = 0; (rows - 1) >> shift; shift += bits) {
      int64_t begin[(1 << bits) + 1] = {};
      const auto digit = [shift](const Named& one) { return one.row >> shift & ((1 << bits) - 1); };
      for (const Named& one : named) ++begin[digit(one) + 1];
      for (int k = 0; k < 1 << bits; ++k) begin[k + 1] += begin[k];
      for (const Named& one : named) sorted[begin[digit(one)]++] = one;
      named.swap(sorted);
    }
  }

  // Returns the part of a table's task for some rows.
  static Task rows_of(const Table& table, Task task, int64_t first, int64_t count) {
    const int64_t at = first * table.row;
    const auto move = [at](char*& data, Kind kind) { if (data) data += at * width(kind); };
    move(task.weight, table.weight);
    move(task.parameter, table.parameter);
    for (char** moment : {&task.moment1, &task.moment2, &task.vhat}) move(*moment, table.moment);
    move(task.ema, table.computed);
    move(task.accumulator, table.computed);
    task.element = at;
    task.size = count * table.row;
    for (int64_t* bound : {&task.own_begin, &task.own_end})
      *bound = std::min(std::max(*bound - at, int64_t(0)), task.size);
    if (count == 1 && task.own_end > 0)
      task.bytes = std::min<int64_t>(table.row * width(table.moment), 1024);
    return task;
  }

  // Adds tasks for rows first, ..., end - 1, which are not named: they decay as with a gradient of 0,
  // or, lazy, are skipped.
  void add_zeros(const Table& table, int64_t first, int64_t end, bool lazy, Tasks& tasks) {
    const int64_t most = std::max<int64_t>(1, chunk_size / table.row);
    while (first < end) {
      const int64_t count = std::min(most, end - first);
      Task task = rows_of(table, table.summed, first, count);
      const int64_t bytes = task.size * width(table.computed);
      if (zero_bytes_ < bytes) {
        zero_bytes_ = std::max(bytes, chunk_size * width(Kind::Float64));
        zero_rows_ = zeros(zero_bytes_);
      }
      task.gradient = zero_rows_;
      task.skipped = lazy;
      tasks.add(task);
      first += count;
    }
  }

  char* zeros(int64_t bytes) {
    memory_.emplace_back(bytes);
    return memory_.back().data();
  }

  std::vector<std::vector<char>> memory_;
  char* zero_rows_ = nullptr;  // shared by all tasks without a gradient; 0 in each type
  int64_t zero_bytes_ = 0;
};

}  // namespace
