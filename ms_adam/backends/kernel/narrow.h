// Moments in 16 or 8 bits: their formats, and the rounding that keeps their mean.
//
// To nearest, a moment would stand still: v loses a thousandth of itself in a step, which is less
// than half a unit of any of these formats. So a number is rounded up with the probability of its
// place between two neighbours. (Gupta et al. 2015, arXiv 1502.02551.)
//
// bfloat16 is a float32 without its last 16 bits. A byte has no exponent of its own: 256 elements of
// a weight, a block, have one between them. Of m, a byte is the sign, 4 bits of exponent and 3 of
// fraction; of v, which is not negative, 5 and 3. Code 0 is the number 0; the others are the upper bits
// of a float32 less those of the code before 1, so that integers do nearly all. v reaches down to 2^-32
// of the largest number of its block, and its root, like m, to 2^-16. (Numbers that are evenly spaced
// lose the small elements beside a large one; a table or roots take longer: docs/narrow.md.)
#pragma once

#include <algorithm>
#include <cstdint>

#include "numbers.h"

namespace {

enum class Byte : uint8_t {};

constexpr int64_t block_size = 256;

inline int64_t blocks_of(int64_t size) { return (size + block_size - 1) / block_size; }

// ---- Random numbers -----------------------------------------------------------------------------

// They depend on the seed, the update, the weight and the element, and on nothing else: not on
// threads, vectors, layout or ranks. ms_adam/backends/narrow.py draws the same ones.

constexpr uint32_t golden = 0x9e3779b1u;

// Mixes all bits of x: the rounds of MurmurHash3's finalizer, with a key between them.
inline uint32_t mix(uint32_t x, uint32_t key) {
  x = (x ^ x >> 16) * 0x85ebca6bu ^ key;
  x = (x ^ x >> 15) * 0xc2b2ae35u;
  return x ^ x >> 16;
}

// An element of a block draws `places[element] ^ own`, where `places` is new for each update and `own`
// for each block, moment and update. Any three of these numbers are independent (tabulation: Carter &
// Wegman 1979, "Universal classes of hash functions"; Patrascu & Thorup 2012, "The power of simple
// tabulation hashing", section 1). Their upper bits are used.
struct Keys {
  uint32_t first = 0, second = 0;
  uint32_t places[block_size] = {}, upper[block_size] = {};  // the second is their upper half

  Keys() = default;
  Keys(uint32_t seed, uint32_t update)
      : first(mix(update * golden, seed)), second(mix(first + golden, seed)) {
    const uint32_t third = mix(second + golden, seed);
    for (int64_t i = 0; i < block_size; ++i) {
      places[i] = mix(first + uint32_t(i) * golden, third);
      upper[i] = places[i] >> 16;
    }
  }
};

// The draws of a weight in an update.
class Draw {
 public:
  Draw(const Keys& keys, int64_t weight)
      : start_(mix(uint32_t(weight + 1) * golden, 0) + keys.first), key_(keys.second) {}

  // What all elements of a block have in their numbers.
  uint32_t own(int64_t block, int moment) const {
    return mix(start_ + uint32_t(block * 4 + moment) * golden, key_);
  }

 private:
  uint32_t start_, key_;
};

// ---- bfloat16 -----------------------------------------------------------------------------------

// Adds 16 random bits below the unit and cuts off. Inf stays: its lower half is 0. So does a NaN, if
// its upper half is not all ones or its lower half is 0, as the moments' are: see `update_element`.
inline Bfloat16 dithered(float x, uint32_t random) {
  return Bfloat16(uint16_t((to_bits(x) + random) >> 16));
}

// ---- Bytes --------------------------------------------------------------------------------------

// Of first moments, which have a sign, and of second ones.
template <bool is_signed> struct Code {
  static constexpr int dropped = 20;  // bits of a float32
  static constexpr int32_t largest = is_signed ? 127 : 255;
  static constexpr int exponents = (largest + 1) >> 3;

  uint32_t base;   // what code 0 would be, as the bits of a float32
  float smallest;  // above 0

  explicit Code(char exponent)
      : base((uint32_t(uint8_t(exponent)) << 23) - (1u << dropped)),
        smallest(from_bits(uint32_t(uint8_t(exponent)) << 23)) {}

  // The exponent of code 1, given the bits of the largest finite magnitude, so that this magnitude has
  // a code and may be rounded up. At least 1: FloatMode has no subnormal numbers.
  static char exponent(int32_t most) {
    return char(uint8_t(std::max(1, ((most + (2 << dropped)) >> 23) - (exponents - 1))));
  }

  // In 16 bits, which hold all bits that are not 0, and without a selection: g++ does not vectorize
  // the update with AMSGrad if a selection by a byte enters its maxima.
  float widen(Byte byte) const {
    const uint16_t code = uint16_t(uint32_t(byte) & uint32_t(largest));
    const uint16_t some = uint16_t(int16_t(-int16_t(code)) >> 15);  // no bits for code 0, else all
    const uint16_t upper = uint16_t((code << (dropped - 16)) + (uint16_t(base >> 16) & some));
    const uint16_t sign = is_signed ? uint16_t((uint32_t(byte) & 0x80u) << 8) : 0;
    return from_bits(uint32_t(uint16_t(upper | sign)) << 16);
  }

  // NaN and Inf become the largest number: the weight itself has become NaN. Below the smallest number
  // m becomes 0 or that number; v does not become 0, since m is divided by its root.
  Byte narrow(float x, float per_smallest, uint32_t random) const {
    const int32_t magnitude = int32_t(to_bits(x) & 0x7fffffffu);
    int32_t code = (magnitude + int32_t((random >> (32 - dropped)) - base)) >> dropped;
    if constexpr (is_signed) {
      const float above = from_bits(0x3f800000u | random >> 9);  // in [1, 2)
      const int32_t some = from_bits(magnitude) * per_smallest + above >= 2 ? 1 : 0;
      code = magnitude < int32_t(base + (1u << dropped)) ? some : code;
    } else {
      code = std::max(code, magnitude > 0 ? 1 : 0);
    }
    code = std::min(code, largest);
    return Byte(is_signed ? code | (to_bits(x) >> 24 & 0x80u) : code);
  }
};

// The bits of a magnitude that counts for the exponent of its block: of one that is finite.
inline int32_t finite_magnitude(float x) {
  const int32_t magnitude = int32_t(to_bits(x) & 0x7fffffffu);
  return magnitude < 0x7f800000 ? magnitude : 0;
}

template <bool is_signed>
void narrow_block(const float* __restrict x, int64_t count, int32_t most,
                  const uint32_t* __restrict places, uint32_t own, Byte* __restrict codes,
                  char& exponent) {
  if (most >= 0x7f800000) {  // rare: then the largest finite one is looked for
    most = 0;
    for (int64_t i = 0; i < count; ++i) most = std::max(most, finite_magnitude(x[i]));
  }
  exponent = Code<is_signed>::exponent(most);
  const Code<is_signed> code(exponent);
  const float per_smallest = 1 / code.smallest;
  const int n = int(count);
  for (int i = 0; i < n; ++i)
    codes[i] = code.narrow(x[i], per_smallest, places[i] ^ own);
}

}  // namespace
