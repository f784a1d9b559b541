// Every update of some types of weights, so that the compiler reports on their loops.
#include "step.h"

template <class Rule, class Weight, class Parameter> Update* all(Update* to) {
  *to++ = update<Rule, Weight, Parameter>;
  *to++ = update_narrow<Rule, Bfloat16, Weight, Parameter>;
  *to++ = update_narrow<Rule, Byte, Weight, Parameter>;
  return to;
}

template <class Rule> Update* all_of(Update* to) {
  to = all<Rule, float, Nothing>(to);
  return all<Rule, Trailing, Bfloat16>(to);
}

extern "C" void updates(void* to) {
  all_of<AdaMax>(all_of<Adam<true>>(all_of<Adam<false>>(static_cast<Update*>(to))));
}
