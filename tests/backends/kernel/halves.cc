// Goes through all float32 numbers: is each the same after it was taken apart and put together?
#include "numbers.h"  // beside which a test puts this file

// Returns how many are not. NaN must stay NaN, in the parameter too.
extern "C" int64_t WrongHalves() {
  int64_t wrong = 0;
  for (uint32_t high = 0; high < 1u << 16; ++high) {
    uint32_t here = 0;
    for (uint32_t low = 0; low < 1u << 16; ++low) {
      const uint32_t bits = high << 16 | low;
      Trailing trailing;
      Bfloat16 parameter;
      set_master(from_bits(bits), trailing, parameter);
      const uint32_t again = to_bits(follow(trailing, parameter));
      const uint32_t is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
      const uint32_t stays = ((again & 0x7fffffffu) > 0x7f800000u) &
                             ((uint32_t(parameter) & 0x7fffu) > 0x7f80u);
      here += is_nan ? 1 - stays : uint32_t(again != bits);
    }
    wrong += here;
  }
  return wrong;
}
