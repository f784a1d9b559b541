// The tail of a training step before the update: the global norm and clipping.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

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

}  // namespace
