// Pieces of parameters in a row of int32 that is sent to other ranks; see ms_adam/sharding.py.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "inputs.h"
#include "numbers.h"

namespace {

struct Piece {
  int64_t parameter;  // its index
  int64_t from, to;   // offset in the parameter and in the row, in bytes
  int64_t size;       // in bytes
};

// Copies pieces of parameters into the row, or out of it.
int copy_pieces(const Tensor& plan, const std::vector<Tensor>& parameters, char* row,
                int64_t row_size, bool into_row) {
  const Piece* piece = reinterpret_cast<const Piece*>(plan.data);
  for (int64_t left = plan.size * width(plan.kind) / sizeof(Piece); left > 0; --left, ++piece) {
    if (piece->parameter < 0 || piece->parameter >= int64_t(parameters.size())) return malformed;
    const Tensor& parameter = parameters[piece->parameter];
    if (piece->from < 0 || piece->from + piece->size > parameter.size * width(parameter.kind) ||
        piece->to < 0 || piece->to + piece->size > row_size)
      return malformed;
    char *const inside = parameter.data + piece->from, *const outside = row + piece->to;
    std::memcpy(into_row ? outside : inside, into_row ? inside : outside, piece->size);
  }
  return 0;
}

}  // namespace
