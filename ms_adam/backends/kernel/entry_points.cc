// One step of Adam for all weights of an optimizer, in place: one launch, one pass over memory.
//
// The formula is that of ms_adam/backends/composite.py, in the same types:
//
//     g <- gradient_scale * gradient (+ weight_decay * w) (- its mean)
//     m <- m + (1 - beta1) * (g - m)
//     v <- v + (1 - beta2) * (g^2 - v)
//     w <- decay_factor * w - step_size * m / (sqrt(v) + epsilon)
//
// What is equal for all elements is computed in double and rounded once.
//
// The result of a step depends only on its inputs, bit for bit. Elements are computed alike in
// vectors and in the remainders at their ends, because no product is fused with a sum
// (-ffp-contract=off) and roots and quotients are rounded correctly. The two sums over elements, the
// global norm and the means of rows, are made in double in an order that depends only on shapes. So
// threads, alignment and the width of vectors do not matter.
//
// The headers, from the bottom up:
//     numbers   types of numbers, reading and rounding
//     narrow    moments in 16 or 8 bits
//     inputs    the tensors of a launch
//     tasks     the work, and its division into chunks
//     threads   threads that share chunks
//     sums      sums over elements
//     step      the formula and its loop
//     rows      row-sparse gradients
//     tail      the global norm, gradients that are not finite, the loss scale, accumulation
//     launch    reads the inputs and makes a step
//     pack      parameters in one row, for other ranks
// This file is the only translation unit. All else has internal linkage.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "inputs.h"
#include "launch.h"
#include "numbers.h"
#include "pack.h"

// Called by a compiled step, as MindSpore calls the function of an ops.Custom.
extern "C" int MsAdamStep(int count, void** data, int* axes, int64_t** shapes, const char** dtypes,
                          void*, void*) {
  Report report{};
  const int failure = launch(count, data, axes, shapes, dtypes, true, report);
  if (failure == unknown_row)  // MindSpore's message has only the function's name and the number
    std::fprintf(stderr, "ms_adam: gradient %lld names row %lld of a table of %lld rows.\n",
                 static_cast<long long>(report.gradient), static_cast<long long>(report.row),
                 static_cast<long long>(report.rows));
  if (report.skipped_in_row == 100)  // the number in ms_adam/base.py
    std::fprintf(stderr,
                 "ms_adam: 100 steps in a row were skipped, because gradients were not finite. Look "
                 "for NaN and Inf in the loss, the inputs and the weights.\n");
  return failure;
}

// The same, called from Python with addresses and with a Report to be filled. It increases global_step
// too: Python may raise a KeyboardInterrupt before it could do so itself.
extern "C" int MsAdamStepByAddress(int count, void** data, int* axes, int64_t** shapes,
                                   const char** dtypes, void*, void* report) {
  const int failure = launch(count, data, axes, shapes, dtypes, true, *static_cast<Report*>(report));
  // The third input is global_step, the output is 1 if the weights were updated.
  if (!failure) *static_cast<int32_t*>(data[2]) += *static_cast<int32_t*>(data[count - 1]);
  return failure;
}

// The same for a call that only accumulates: half of the tensors, or a third.
extern "C" int MsAdamAccumulateByAddress(int count, void** data, int* axes, int64_t** shapes,
                                         const char** dtypes, void*, void* report) {
  return launch(count, data, axes, shapes, dtypes, false, *static_cast<Report*>(report));
}

// Inputs: the Pieces, the parameters. Output: the row, zero where there is no piece.
extern "C" int MsAdamPack(int count, void** data, int* axes, int64_t** shapes, const char** dtypes,
                          void*, void*) {
  Inputs inputs(count, data, axes, shapes, dtypes);
  const Tensor plan = inputs.next();
  std::vector<Tensor> parameters;
  while (inputs.left() > 1) parameters.push_back(inputs.next());
  const Tensor row = inputs.next();
  const int64_t size = row.shape[0] * width(Kind::Int32);
  std::memset(row.data, 0, size);
  return copy_pieces(plan, parameters, row.data, size, true);
}

// Inputs: the Pieces, the row, the parameters, which are set. Output: one element without a meaning.
extern "C" int MsAdamUnpack(int count, void** data, int* axes, int64_t** shapes,
                            const char** dtypes, void*, void*) {
  Inputs inputs(count, data, axes, shapes, dtypes);
  const Tensor plan = inputs.next(), row = inputs.next();
  std::vector<Tensor> parameters;
  while (inputs.left() > 1) parameters.push_back(inputs.next());
  return copy_pieces(plan, parameters, row.data, row.size * width(row.kind), false);
}
