// The number types: how each is stored, and how it is read and written in a step.
//
// A type of storage needs a `widen` and a `narrow` here, a `Kind` and a line in `with_type`.
#pragma once

#include <cstdint>
#include <cstring>

namespace {

enum class Kind { Other, Float16, Bfloat16, Float32, Float64, Int32, Int64, Int16, Uint8 };

// Enumerations, because g++ does not vectorize loops over structures.
enum class Float16 : uint16_t {};
enum class Bfloat16 : uint16_t {};
enum class Trailing : int16_t {};  // the last 16 bits of a master weight that its parameter begins
struct Nothing {};                 // the parameter of a weight that is no master

inline float from_bits(uint32_t bits) { float x; std::memcpy(&x, &bits, sizeof x); return x; }
inline uint32_t to_bits(float x) { uint32_t bits; std::memcpy(&bits, &x, sizeof x); return bits; }

// ---- Reading: exact -----------------------------------------------------------------------------

inline double widen(double x) { return x; }
inline float widen(float x) { return x; }
inline float widen(Bfloat16 x) { return from_bits(uint32_t(x) << 16); }

// Shifts exponent and fraction into place. The factor changes the exponent's bias from 15 to 127 and
// keeps Inf and NaN. A subnormal is the fraction of a number between 0.5 and 1, so that no subnormal
// float occurs, which FloatMode would flush to zero.
inline float widen(Float16 x) {
  const uint32_t magnitude = uint32_t(x) & 0x7fffu, sign = (uint32_t(x) & 0x8000u) << 16;
  const float normal = from_bits((magnitude << 13) + (224u << 23)) * 0x1p-112f;
  const float subnormal = from_bits(magnitude + (126u << 23)) - 0.5f;
  return from_bits(to_bits(magnitude < 0x400u ? subnormal : normal) | sign);
}

// ---- Writing: to nearest, ties to even ----------------------------------------------------------

template <class To, class From> To narrow(From x) { return x; }

// The upper half of the bits, plus 1 if the lower half exceeds half a unit, or equals it and the upper
// half is odd. In numbers of 16 bits, of which a vector holds twice as many.
inline uint16_t upper_half(float x) {
  const uint16_t high = uint16_t(to_bits(x) >> 16), low = uint16_t(to_bits(x));
  return uint16_t(high + (low > uint16_t(0x8000 - (high & 1))));
}

// Does not round a NaN, which could become a zero. A NaN must be quiet, as those that arithmetic
// returns are; its upper half is then a NaN too.
template <> inline Bfloat16 narrow(float x) {
  return Bfloat16(x == x ? upper_half(x) : uint16_t(to_bits(x) >> 16));
}

template <> inline Float16 narrow(float x) {
  const uint32_t bits = to_bits(x) & 0x7fffffffu, sign = (to_bits(x) >> 16) & 0x8000u;
  const uint32_t normal = (bits - (112u << 23) + 0xfffu + ((bits >> 13) & 1u)) >> 13;
  // Below 2^-14 the unit of float16 is the unit of 0.5f in float, so this sum rounds correctly.
  const uint32_t subnormal = to_bits(from_bits(bits) + 0.5f) - to_bits(0.5f);
  const uint32_t special = bits > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t rounded = bits < (113u << 23) ? subnormal
                           : bits >= (143u << 23) ? special : normal;
  return Float16(rounded | sign);
}

// ---- Master weights -----------------------------------------------------------------------------

// Returns the master, or the parameter if that is not the master's rounding: then a script has set
// the parameter since the last step (load_param_into_net, set_data, assign). For NaN both serve.
inline float follow(float master, Bfloat16 parameter) {
  return upper_half(master) == uint16_t(parameter) ? master : widen(parameter);
}
inline float follow(float master, Float16 parameter) {
  return uint16_t(narrow<Float16>(master)) == uint16_t(parameter) ? master : widen(parameter);
}

// Whole from its two halves, which are a bijection: the parameter is the master plus half of its unit,
// cut off, and the trailing bits, with a sign, are what the master is above it or below it. (To nearest
// with ties to even, two masters in 2^17 would have the same halves.) What a script sets the parameter
// to keeps the trailing bits: the master is within half a unit of it.
inline float follow(Trailing trailing, Bfloat16 parameter) {
  return from_bits((uint32_t(parameter) << 16) + uint32_t(int32_t(int16_t(trailing))));
}

// Sets a master and its parameter.
inline void set_master(float w, float& master, Bfloat16& parameter) {
  master = w;
  parameter = narrow<Bfloat16>(w);
}
inline void set_master(float w, float& master, Float16& parameter) {
  master = w;
  parameter = narrow<Float16>(w);
}
inline void set_master(float w, Trailing& trailing, Bfloat16& parameter) {
  const uint32_t bits = w == w ? to_bits(w) : 0x7fc00000u;
  parameter = Bfloat16(uint16_t((bits + 0x8000u) >> 16));
  trailing = Trailing(int16_t(uint16_t(bits)));
}

// ---- Types by name ------------------------------------------------------------------------------

inline Kind kind_of(const char* name) {
  if (!std::strcmp(name, "float32")) return Kind::Float32;
  if (!std::strcmp(name, "bfloat16")) return Kind::Bfloat16;
  if (!std::strcmp(name, "float16")) return Kind::Float16;
  if (!std::strcmp(name, "float64")) return Kind::Float64;
  if (!std::strcmp(name, "int32")) return Kind::Int32;
  if (!std::strcmp(name, "int64")) return Kind::Int64;
  if (!std::strcmp(name, "int16")) return Kind::Int16;
  if (!std::strcmp(name, "uint8")) return Kind::Uint8;
  return Kind::Other;
}

constexpr Kind kind_of(Float16) { return Kind::Float16; }
constexpr Kind kind_of(Bfloat16) { return Kind::Bfloat16; }
constexpr Kind kind_of(float) { return Kind::Float32; }
constexpr Kind kind_of(double) { return Kind::Float64; }

// Bytes of one number.
inline int64_t width(Kind kind) {
  switch (kind) {
    case Kind::Uint8: return 1;
    case Kind::Float16: case Kind::Bfloat16: case Kind::Int16: return 2;
    case Kind::Float32: case Kind::Int32: return 4;
    default: return 8;
  }
}

// Calls visit with a number of this type; returns {} for types that a step does not compute with.
template <class Visit> auto with_type(Kind kind, Visit visit) -> decltype(visit(float())) {
  switch (kind) {
    case Kind::Float16: return visit(Float16());
    case Kind::Bfloat16: return visit(Bfloat16());
    case Kind::Float32: return visit(float());
    case Kind::Float64: return visit(double());
    default: return {};
  }
}

}  // namespace
