// The tensors of a launch, in the order and layout in which ms_adam/backends/fused.py writes them.
#pragma once

#include <cstdint>

#include "numbers.h"

namespace {

// The first input, float64: one row for the optimizer, then one for each group.
struct Formula {
  double beta1, beta2, eps, loss_scale;
  double max_grad_norm;  // Inf if gradients are not clipped
  double epsilon_hat, bias_correction, nesterov, amsgrad, decoupled;  // 1 or 0
  double lazy;      // 1 if rows without a gradient are skipped
  double maximize;  // 1 if the step goes up the gradient
  double infinity_norm;  // 1 for AdaMax
  double skips;  // 1 if a step with a gradient that is not finite changes nothing
  // Of a loss scaler: the scale is then an input, and loss_scale is not read. A window of 0 keeps
  // the scale as it is; a window of -1 stands for no scaler.
  double scale_factor, scale_window;
  double ema_decay;   // of the averages of weights, in [0, 1); -1 if there are none; 0 if scheduled
  double ema_debias;  // 1 if they are weighted means of the weights so far (section 7.2 of the paper)
  double accumulate_steps;  // launches whose gradients make one update; 1 if none is accumulated
  double ema_scheduled;     // 1 if ema_decay is an input
  double begun;  // updates that were made before the group joined
  double narrow;  // bits of a moment, 16 or 8; 0 if they are not narrow
  double seed;    // of the random numbers that round them
};

// The second input, int64: one Plan, then one Layout for each weight.
struct Plan {
  int64_t weights, groups, threads;
  int64_t buffers;  // buffers of each moment if the state is flat, else 0
};

struct Layout {
  // The elements that this rank updates, whole rows; size -1 if none. Moments exist only for these;
  // the gradients of the others count for the global norm.
  int64_t own_begin, own_size;
  int64_t group;        // index of the learning rate and weight decay
  int64_t decayed;      // 1 if weight decay acts on it
  int64_t centralized;  // 1 if the gradient of each row loses its mean
  int64_t is_master;    // 1 if a parameter holds its rounding
  int64_t offset;       // in the buffer of its moments' type if the state is flat
};

// What a launch returns: 0, or the reason for which it changed nothing.
enum Failure { malformed = 1, unfit_gradient = 2, unfit_state = 3, unknown_row = 4 };

// What a caller may tell the user.
struct Report {
  // Of an `unknown_row`: the gradient's index, the row that it names, the table's number of rows.
  int64_t gradient, row, rows;
  int64_t skipped_in_row;  // the launches in a row that were skipped, this one included
};

struct Tensor {
  char* data = nullptr;
  int64_t size = -1;
  Kind kind = Kind::Other;
  int axes = 0;
  const int64_t* shape = nullptr;
};

// Reads the tensors of an ops.Custom kernel in order; past the end there are empty ones.
class Inputs {
 public:
  Inputs(int count, void** data, int* axes, int64_t** shapes, const char** dtypes)
      : count_(count), data_(data), axes_(axes), shapes_(shapes), dtypes_(dtypes) {}

  Tensor peek() const {
    if (at_ >= count_) return {};
    const char* const name = dtypes_[at_];
    Tensor tensor{static_cast<char*>(data_[at_]), 1, kind_of(name), axes_[at_], shapes_[at_]};
    for (int k = 0; k < tensor.axes; ++k) tensor.size *= tensor.shape[k];
    return tensor;
  }
  Tensor next() {
    const Tensor tensor = peek();
    ++at_;
    return tensor;
  }
  int left() const { return count_ - at_; }

 private:
  int at_ = 0, count_;
  void** data_;
  int* axes_;
  int64_t** shapes_;
  const char** dtypes_;
};

}  // namespace
