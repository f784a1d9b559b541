// One step of Adam for all weights of an optimizer, in place: one launch, one pass over memory.
//
// The formula is that of ms_adam/backends/composite.py, in the same dtypes:
//
//     g <- scale * gradient (+ weight_decay * w) (- its mean)
//     m <- m + (1 - beta1) * (g - m)
//     v <- v + (1 - beta2) * (g^2 - v)
//     w <- retained * w - step_size * m / (sqrt(v) + epsilon)
//
// What is the same for all elements is computed here in double and rounded once.
//
// The bits that a step leaves depend on nothing but its inputs. Elementwise arithmetic is the same
// in vectors and in what remains at their ends, since no product is fused with a sum
// (-ffp-contract=off) and roots and quotients are rounded correctly. Sums over elements, of which
// there are two (the global norm and row means), are made in double in an order that only shapes
// decide. So the bits are the same for every number of threads, alignment and width of vectors.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <type_traits>
#include <vector>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace {

// ---- Numbers of 16 bits -------------------------------------------------------------------------

// (Enumerations, as g++ makes no vectors of structures.)
enum class Float16 : uint16_t {};
enum class Bfloat16 : uint16_t {};
struct Nothing {};  // where no rounded copy of a weight is kept

inline float from_bits(uint32_t bits) { float x; std::memcpy(&x, &bits, sizeof x); return x; }
inline uint32_t to_bits(float x) { uint32_t bits; std::memcpy(&bits, &x, sizeof x); return bits; }

inline double widen(double x) { return x; }
inline float widen(float x) { return x; }
inline float widen(Bfloat16 x) { return from_bits(uint32_t(x) << 16); }

// Exponent and fraction move to their places. A factor takes the exponent's bias from 15 to 127 and
// leaves Inf and NaN what they are; a subnormal is the fraction of a number between 0.5 and 1. No
// step meets a subnormal float.
inline float widen(Float16 x) {
  const uint32_t rest = uint32_t(x) & 0x7fffu, sign = (uint32_t(x) & 0x8000u) << 16;
  const float normal = from_bits((rest << 13) + (224u << 23)) * 0x1p-112f;
  const float subnormal = from_bits(rest + (126u << 23)) - 0.5f;
  return from_bits(to_bits(rest < 0x400u ? subnormal : normal) | sign);
}

// Rounding to nearest, ties to even: half a unit less one, and one if the result would be odd. A
// NaN stays one (quiet, as it might else lose its last bit and become Inf).
template <class To, class From> To narrow(From x) { return x; }
template <> inline Bfloat16 narrow(float x) {
  const uint32_t bits = to_bits(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return Bfloat16(nan ? (bits >> 16) | 0x40u : rounded);
}
template <> inline Float16 narrow(float x) {
  const uint32_t bits = to_bits(x) & 0x7fffffffu, sign = (to_bits(x) >> 16) & 0x8000u;
  const uint32_t normal = (bits - (112u << 23) + 0xfffu + ((bits >> 13) & 1u)) >> 13;
  // Below 2^-14, the unit of 0.5f in float is the unit of float16: the sum rounds as it should.
  const uint32_t subnormal = to_bits(from_bits(bits) + 0.5f) - to_bits(0.5f);
  const uint32_t special = bits > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t rounded = bits < (113u << 23) ? subnormal
                           : bits >= (143u << 23) ? special : normal;
  return Float16(rounded | sign);
}

// A master weight: itself while its parameter is still its rounding; else somebody has set the
// parameter since the last step (load_param_into_net, set_data, assign), and the master follows.
// (Numbers of 32 bits, since g++ selects floats in vectors only by what is as wide.)
inline float follow(float master, Float16 parameter) {
  const uint32_t rounding = uint32_t(narrow<Float16>(master));
  return rounding == uint32_t(parameter) ? master : widen(parameter);
}
// As narrow() rounds, but for NaN, which may as well be taken from the parameter.
inline float follow(float master, Bfloat16 parameter) {
  const uint32_t bits = to_bits(master), stored = uint32_t(parameter) << 16;
  const uint32_t rounding = (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
  return rounding == stored ? master : from_bits(stored);
}

template <class Weight> struct Wider { using type = float; };  // in which moments are kept
template <> struct Wider<double> { using type = double; };

// ---- What a step is told ------------------------------------------------------------------------

// The first input, float64, one row for the optimizer and one for each group;
// ms_adam/backends/fused.py writes it and the plan.
struct Formula {
  double beta1, beta2, eps, loss_scale;
  double max_grad_norm;  // Inf if gradients are not clipped
  double epsilon_hat, bias_correction, nesterov, amsgrad, decoupled;  // 1 or 0
  double lazy;      // 1 if rows without a gradient stay as they are
  double maximize;  // 1 if the step goes up the gradient
};

// The second, int64: one of these, then one `Layout` for each weight.
struct Plan {
  int64_t weights, groups, threads;
  int64_t buffers;  // for each moment if the state is flat, else 0
};

struct Layout {
  int64_t own_begin;    // which elements are updated, whole rows; the gradient of the others counts
  int64_t own_size;     // for the global norm alone. There are moments for these alone
  int64_t group;        // which learning rate and weight decay
  int64_t decayed;      // whether weight decay acts on it
  int64_t centralized;  // whether its gradient loses its mean
  int64_t rounded;      // whether a parameter is to be its rounding
  int64_t offset;       // in the buffer of its dtype if the state is flat
};

enum class Kind { Float16, Bfloat16, Float32, Float64, Int32, Int64, Other };

struct Tensor {
  char* data;
  int64_t size;
  Kind kind;
  int axes;
  const int64_t* shape;
};

// The tensors of an ops.Custom kernel, in order.
class Inputs {
 public:
  Inputs(int count, void** data, int* axes, int64_t** shapes, const char** dtypes)
      : count_(count), data_(data), axes_(axes), shapes_(shapes), dtypes_(dtypes) {}

  Tensor next() {
    const Tensor tensor = peek();
    ++at_;
    return tensor;
  }
  Tensor peek() const {
    if (at_ >= count_) return {nullptr, -1, Kind::Other, 0, nullptr};
    Tensor tensor{static_cast<char*>(data_[at_]), 1, kind(dtypes_[at_]), axes_[at_], shapes_[at_]};
    for (int k = 0; k < tensor.axes; ++k) tensor.size *= tensor.shape[k];
    return tensor;
  }
  int left() const { return count_ - at_; }

 private:
  static Kind kind(const char* name) {
    if (!std::strcmp(name, "float32")) return Kind::Float32;
    if (!std::strcmp(name, "bfloat16")) return Kind::Bfloat16;
    if (!std::strcmp(name, "float16")) return Kind::Float16;
    if (!std::strcmp(name, "float64")) return Kind::Float64;
    if (!std::strcmp(name, "int32")) return Kind::Int32;
    if (!std::strcmp(name, "int64")) return Kind::Int64;
    return Kind::Other;
  }

  int at_ = 0, count_;
  void** data_;
  int* axes_;
  int64_t** shapes_;
  const char** dtypes_;
};

// ---- One weight ---------------------------------------------------------------------------------

struct Step {  // what is the same for all elements of a group; see ms_adam/scalars.py
  double scale;         // of gradients: clipping / loss_scale
  double rest1, rest2;  // 1 - beta
  double step_size, epsilon, retained, weight_decay;
  bool nesterov;
};

// The same for one weight, in the dtype of its moments. Switches are numbers too: g++ makes vectors
// of a selection only if what it tests is as wide as what it selects.
template <class Real> struct Rates {
  Real scale, rest1, rest2, step_size, epsilon, retained, weight_decay, l2, nesterov, mean;
};

struct Task;
using Update = void (*)(const Task&, const Step&, int64_t first, int64_t count, double mean);
using Sum = double (*)(const char* x, int64_t first, int64_t count);
using SumOfWeight = double (*)(const Task&, int64_t first, int64_t count);
using Zero = bool (*)(const char* x, int64_t first, int64_t count);

struct Task {
  int64_t begin = 0;  // where its elements stand when those of all weights are put in a row
  int64_t size = 0;
  int64_t row = 0;    // elements that are looked at together, 0 if each stands alone
  int64_t group = 0;
  int64_t own_begin = 0, own_end = 0;  // what is updated; moments are not there for other elements
  bool centralized = false;         // whether the gradient of a row loses its mean
  bool lazy = false;                // whether a row without a gradient stays as it is
  bool l2 = false, shrunk = false;  // how weight decay acts
  char *gradient = nullptr, *weight = nullptr, *parameter = nullptr;
  char *moment1 = nullptr, *moment2 = nullptr, *vhat = nullptr;
  Update update = nullptr;
  Sum sum_gradient = nullptr, squares = nullptr;
  SumOfWeight sum_weight = nullptr;
  Zero is_zero = nullptr;
  int64_t bytes = 0;  // of a row that a sparse gradient names, else 0

  // Rows stand anywhere in a table, where no hardware expects them.
  void prefetch() const {
    for (const char* row : {weight, moment1, moment2})
      for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(row + byte, 1);
  }
};
constexpr int rows_ahead = 8;

// Asks for memory that a later block will need. Four streams and more are too many for the hardware
// to follow alone: it takes 15% longer.
template <class T> void prefetch(const T* stream, int64_t first, int64_t count) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(stream) + first * sizeof(T);
  for (uintptr_t line = begin; line < begin + count * sizeof(T); line += 64)
    __builtin_prefetch(reinterpret_cast<const void*>(line));  // may be past the end: it never fails
}

// One step of `count` elements. Options that are tested in the loop become selections, which are
// free beside the streams from memory and leave NaN and Inf where they are. (Not inlined: g++ would
// forget that the streams are distinct.)
template <class Weight, class Parameter, class Gradient, bool amsgrad,
          class Real = typename Wider<Weight>::type>
__attribute__((noinline)) void adam(const Rates<Real> rates, const int64_t count,
                                    const Gradient* __restrict gradient,
                                    Weight* __restrict weight, Parameter* __restrict parameter,
                                    Real* __restrict moment1, Real* __restrict moment2,
                                    Real* __restrict vhat) {
  constexpr bool rounds = !std::is_same<Parameter, Nothing>::value;
  constexpr int64_t block = 128, ahead = 512;
  for (int64_t begin = 0; begin < count; begin += block) {
    if (begin + ahead < count) {
      prefetch(gradient, begin + ahead, block);
      prefetch(weight, begin + ahead, block);
      prefetch(moment1, begin + ahead, block);
      prefetch(moment2, begin + ahead, block);
      if constexpr (amsgrad) prefetch(vhat, begin + ahead, block);
      if constexpr (rounds) prefetch(parameter, begin + ahead, block);
    }
    const int64_t end = std::min(count, begin + block);
    for (int64_t i = begin; i < end; ++i) {
      Real w = widen(weight[i]);
      if constexpr (rounds) w = follow(w, parameter[i]);
      Real g = rates.scale * Real(widen(gradient[i]));
      g = rates.l2 != 0 ? g + rates.weight_decay * w : g;
      g = g - rates.mean;
      const Real m = moment1[i] + rates.rest1 * (g - moment1[i]);
      Real v = moment2[i] + rates.rest2 * (g * g - moment2[i]);
      moment1[i] = m;
      moment2[i] = v;
      if constexpr (amsgrad) {
        v = (vhat[i] > v || vhat[i] != vhat[i]) ? vhat[i] : v;  // NaN counts as the largest
        vhat[i] = v;
      }
      const Real lead = rates.nesterov != 0 ? m + rates.rest1 * (g - m) : m;
      w = rates.retained * w - rates.step_size * lead / (std::sqrt(v) + rates.epsilon);
      weight[i] = narrow<Weight>(w);
      if constexpr (rounds) parameter[i] = narrow<Parameter>(w);
    }
  }
}

template <class Real> Rates<Real> rounded(const Step& step, const Task& task, double mean) {
  // An epsilon too small for the dtype is the smallest it has: 0 / 0 must not happen.
  const Real epsilon = std::max(Real(step.epsilon), std::numeric_limits<Real>::min());
  return {Real(step.scale), Real(step.rest1), Real(step.rest2), Real(step.step_size), epsilon,
          task.shrunk ? Real(step.retained) : Real(1), Real(step.weight_decay), Real(task.l2),
          Real(step.nesterov), Real(mean)};
}

template <class T> T* at(char* data, int64_t i) {
  return data ? reinterpret_cast<T*>(data) + i : nullptr;
}

template <class Weight, class Parameter, class Gradient, bool amsgrad>
void update(const Task& task, const Step& step, int64_t first, int64_t count, double mean) {
  using Real = typename Wider<Weight>::type;
  adam<Weight, Parameter, Gradient, amsgrad>(
      rounded<Real>(step, task, mean), count, at<Gradient>(task.gradient, first),
      at<Weight>(task.weight, first),
      at<Parameter>(task.parameter, first), at<Real>(task.moment1, first),
      at<Real>(task.moment2, first), at<Real>(task.vhat, first));
}

// The same for gradients of a dtype that has no loop of its own: they are converted block by block
// to that of the moments. A block stays in the nearest cache.
template <class Weight, class Parameter, class Gradient, bool amsgrad>
void update_converted(const Task& task, const Step& step, int64_t first, int64_t count,
                      double mean) {
  using Real = typename Wider<Weight>::type;
  constexpr int64_t block = 1024;
  Real converted[block];
  const Rates<Real> rates = rounded<Real>(step, task, mean);
  for (int64_t end = first + count; first < end; first += block) {
    const int64_t n = std::min(block, end - first);
    const Gradient* gradient = at<Gradient>(task.gradient, first);
    for (int64_t i = 0; i < n; ++i) converted[i] = Real(widen(gradient[i]));
    adam<Weight, Parameter, Real, amsgrad>(
        rates, n, converted, at<Weight>(task.weight, first),
        at<Parameter>(task.parameter, first), at<Real>(task.moment1, first),
        at<Real>(task.moment2, first), at<Real>(task.vhat, first));
  }
}

// Sums of elements or of their squares. The lanes let the compiler use vectors without changing
// the order of additions.
template <class T, bool squared> double sum(const char* x, int64_t first, int64_t count) {
  constexpr int lanes = 16;
  const T* data = reinterpret_cast<const T*>(x) + first;
  double lane[lanes] = {};
  const auto term = [](T element) {
    const double value = widen(element);
    return squared ? value * value : value;
  };
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes)
    for (int k = 0; k < lanes; ++k) lane[k] += term(data[i + k]);
  for (int k = 0; i < count; ++i, ++k) lane[k] += term(data[i]);
  for (int width = lanes / 2; width; width /= 2)
    for (int k = 0; k < width; ++k) lane[k] += lane[k + width];
  return lane[0];
}

template <bool squared> Sum sum_of(Kind kind) {
  switch (kind) {
    case Kind::Float16: return sum<Float16, squared>;
    case Kind::Bfloat16: return sum<Bfloat16, squared>;
    case Kind::Float32: return sum<float, squared>;
    case Kind::Float64: return sum<double, squared>;
    default: return nullptr;
  }
}

// The sum of a weight's elements, of which a master follows its parameter.
template <class Weight, class Parameter>
double sum_weight(const Task& task, int64_t first, int64_t count) {
  const Weight* weight = at<Weight>(task.weight, first);
  if constexpr (std::is_same<Parameter, Nothing>::value) {
    return sum<Weight, false>(task.weight, first, count);
  } else {
    constexpr int64_t block = 1024;
    const Parameter* parameter = at<Parameter>(task.parameter, first);
    double total = 0.0;
    for (int64_t begin = 0; begin < count; begin += block) {
      float followed[block];
      const int64_t n = std::min(block, count - begin);
      for (int64_t i = 0; i < n; ++i)
        followed[i] = follow(weight[begin + i], parameter[begin + i]);
      total += sum<float, false>(reinterpret_cast<const char*>(followed), 0, n);
    }
    return total;
  }
}

template <class T> bool is_zero(const char* x, int64_t first, int64_t count) {
  const T* data = reinterpret_cast<const T*>(x) + first;
  bool zero = true;
  for (int64_t i = 0; i < count; ++i) zero &= widen(data[i]) == 0;  // NaN is not
  return zero;
}

Zero zero_of(Kind kind) {
  switch (kind) {
    case Kind::Float16: return is_zero<Float16>;
    case Kind::Bfloat16: return is_zero<Bfloat16>;
    case Kind::Float32: return is_zero<float>;
    case Kind::Float64: return is_zero<double>;
    default: return nullptr;
  }
}

template <class Weight, class Parameter, bool amsgrad> Update update_for(Kind gradient) {
  using Real = typename Wider<Weight>::type;
  // Gradients of the parameter's dtype are the usual ones.
  using Usual = typename std::conditional<std::is_same<Parameter, Nothing>::value, Weight,
                                          Parameter>::type;
  const auto choose = [](auto sample) -> Update {
    using Gradient = decltype(sample);
    if constexpr (std::is_same<Gradient, Usual>::value || std::is_same<Gradient, Real>::value)
      return update<Weight, Parameter, Gradient, amsgrad>;
    else
      return update_converted<Weight, Parameter, Gradient, amsgrad>;
  };
  switch (gradient) {
    case Kind::Float16: return choose(Float16());
    case Kind::Bfloat16: return choose(Bfloat16());
    case Kind::Float32: return choose(float());
    case Kind::Float64: return choose(double());
    default: return nullptr;
  }
}

template <bool amsgrad> Update update_for(Kind weight, Kind parameter, Kind gradient) {
  if (weight == Kind::Float32 && parameter == Kind::Float16)
    return update_for<float, Float16, amsgrad>(gradient);
  if (weight == Kind::Float32 && parameter == Kind::Bfloat16)
    return update_for<float, Bfloat16, amsgrad>(gradient);
  if (parameter != Kind::Other) return nullptr;
  switch (weight) {
    case Kind::Float16: return update_for<Float16, Nothing, amsgrad>(gradient);
    case Kind::Bfloat16: return update_for<Bfloat16, Nothing, amsgrad>(gradient);
    case Kind::Float32: return update_for<float, Nothing, amsgrad>(gradient);
    case Kind::Float64: return update_for<double, Nothing, amsgrad>(gradient);
    default: return nullptr;
  }
}

SumOfWeight sum_weight_of(Kind weight, Kind parameter) {
  if (parameter == Kind::Float16) return sum_weight<float, Float16>;
  if (parameter == Kind::Bfloat16) return sum_weight<float, Bfloat16>;
  switch (weight) {
    case Kind::Float16: return sum_weight<Float16, Nothing>;
    case Kind::Bfloat16: return sum_weight<Bfloat16, Nothing>;
    case Kind::Float32: return sum_weight<float, Nothing>;
    case Kind::Float64: return sum_weight<double, Nothing>;
    default: return nullptr;
  }
}

// ---- All weights --------------------------------------------------------------------------------

// Threads take chunks of this many elements: small enough to share out evenly, large enough that
// the streams from memory are long.
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

  // Calls visit(task, first, count) for what each weight has in a chunk.
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
  // Where a chunk begins: not within a row that shares a mean, but where that row begins.
  int64_t cut(int64_t chunk) const {
    const int64_t at = chunk * chunk_size;
    if (at >= total_) return total_;
    const Task& task = *find(at);
    return task.row ? at - (at - task.begin) % task.row : at;
  }

  const Task* find(int64_t at) const {  // the last one that begins there or before
    const auto next = std::upper_bound(
        tasks_.begin(), tasks_.end(), at,
        [](int64_t position, const Task& task) { return position < task.begin; });
    return &*(next - 1);
  }

  std::vector<Task> tasks_;
  int64_t total_ = 0;
};

// Subnormal numbers count as zero, as in MindSpore's own threads, which set this mode for
// themselves: moments of a weight whose gradient stays zero decay to subnormal numbers and remain
// there, which makes each of their products 20 to 40 times slower. It is set here for all threads,
// since what a caller has set must not decide what a step leaves.
class FloatMode {
 public:
#if defined(__SSE2__)
  FloatMode() : saved_(_mm_getcsr()) { _mm_setcsr(0x9fc0); }  // nearest, FTZ and DAZ, no traps
  ~FloatMode() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  FloatMode() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(uint64_t(1) << 24));  // nearest, FZ, no traps
  }
  ~FloatMode() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  uint64_t saved_;
#endif
};

// ---- Threads ------------------------------------------------------------------------------------

// Fewer chunks than this a thread are not worth starting it: 0.1 ms of work, a start costs 0.03 ms.
constexpr int64_t chunks_per_thread = 4;

// Work on chunks 0, 1, ..., shared out among threads that live no longer than it.
//
// Each thread has a range of chunks, so that it reads memory in long runs, and helps with the other
// ranges when its own is done. The caller waits for chunks, not for threads: one that finds no core
// has taken no chunk, and nobody misses it. An OpenMP region ends when its last thread has been
// there, so that one busy core made it 5 to 10 times slower than no second thread at all; and its
// threads spin for milliseconds after it, on the cores that MindSpore's next kernels need.
class Work {
 public:
  Work(int64_t chunks, int threads, const std::function<void(int64_t)>& body)
      : chunks_(chunks), body_(body), ranges_(threads) {
    for (int i = 0; i < threads; ++i) {
      ranges_[i].next = chunks * i / threads;
      ranges_[i].end = chunks * (i + 1) / threads;
    }
  }

  void run(int thread) {
    const FloatMode mode;
    const int threads = int(ranges_.size());
    int64_t made = 0;
    for (int i = 0; i < threads; ++i) {
      Range& range = ranges_[(thread + i) % threads];
      for (int64_t chunk; (chunk = range.next++) < range.end; ++made) body_(chunk);
    }
    if (!made) return;  // body_ may be gone
    const std::lock_guard<std::mutex> lock(mutex_);
    made_ += made;
    if (made_ == chunks_) all_made_.notify_one();
  }

  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    all_made_.wait(lock, [this] { return made_ == chunks_; });
  }

 private:
  struct alignas(64) Range {  // of its own cache line
    std::atomic<int64_t> next;
    int64_t end;
  };

  const int64_t chunks_;
  const std::function<void(int64_t)>& body_;
  std::vector<Range> ranges_;
  std::mutex mutex_;
  std::condition_variable all_made_;
  int64_t made_ = 0;
};

void for_each_chunk(int64_t chunks, int64_t threads, const std::function<void(int64_t)>& body) {
  threads = std::max<int64_t>(1, std::min(threads, chunks / chunks_per_thread));
  const auto work = std::make_shared<Work>(chunks, int(threads), body);
  try {
    for (int i = 1; i < threads; ++i) std::thread([work, i] { work->run(i); }).detach();
  } catch (const std::system_error&) {
    // No more threads are to be had. Those that there are do the work.
  }
  work->run(0);
  work->wait();
}

// ---- One step -----------------------------------------------------------------------------------

void step_chunk(const Tasks& tasks, int64_t chunk, const std::vector<Step>& steps) {
  tasks.in_chunk(chunk, [&](const Task& task, int64_t first, int64_t count) {
    const int64_t last = std::min(first + count, task.own_end);
    first = std::max(first, task.own_begin);
    count = last - first;
    if (count <= 0) return;
    const Step& step = steps[task.group];
    if (!task.row) return task.update(task, step, first, count, 0.0);
    for (const int64_t end = first + count; first < end; first += task.row) {
      if (task.lazy && task.is_zero(task.gradient, first, task.row)) continue;
      double mean = 0.0;
      if (task.centralized) {
        mean = step.scale * task.sum_gradient(task.gradient, first, task.row);
        if (task.l2) mean += step.weight_decay * task.sum_weight(task, first, task.row);
        mean /= task.row;
      }
      task.update(task, step, first, task.row, mean);
    }
  });
}

// The norm of all gradients, without the loss scale.
double global_norm(const std::vector<double>& squares, double loss_scale) {
  double sum = 0.0;
  for (const double part : squares) sum += part;
  return std::sqrt(sum) / loss_scale;
}

// The scalars of ms_adam/scalars.py, with the user's own decay rates.
Step scalars(const Formula& f, double t, double learning_rate, double weight_decay) {
  // 1 - beta^t without cancellation; log(0) = -Inf gives 1.
  const double c1 = -std::expm1(t * std::log(f.beta1));
  const double c2 = std::sqrt(-std::expm1(t * std::log(f.beta2)));
  Step step;
  step.scale = (f.maximize ? -1.0 : 1.0) / f.loss_scale;
  step.rest1 = 1.0 - f.beta1;
  step.rest2 = 1.0 - f.beta2;
  step.step_size = learning_rate * (f.bias_correction ? c2 / c1 : 1.0);
  step.epsilon = f.eps * (f.bias_correction && !f.epsilon_hat ? c2 : 1.0);
  step.retained = 1.0 - learning_rate * weight_decay;
  step.weight_decay = weight_decay;
  step.nesterov = f.nesterov;
  return step;
}

enum Failure { malformed = 1, unfit_gradient = 2, unfit_state = 3, unknown_row = 4 };

// What a failure is about, for the message.
struct Report {
  int64_t gradient;   // which one
  int64_t row, rows;  // the row that it names, and how many the table has
};

int64_t width(Kind kind) {
  switch (kind) {
    case Kind::Float16: case Kind::Bfloat16: return 2;
    case Kind::Float32: case Kind::Int32: return 4;
    default: return 8;
  }
}

// ---- Row-sparse gradients -----------------------------------------------------------------------

template <class T, class Real> void add_row(const char* x, int64_t first, int64_t count, char* to) {
  const T* data = reinterpret_cast<const T*>(x) + first;
  Real* sum = reinterpret_cast<Real*>(to);
  for (int64_t i = 0; i < count; ++i) sum[i] += Real(widen(data[i]));
}

template <class Real>
void add_row(Kind kind, const char* x, int64_t first, int64_t count, char* to) {
  switch (kind) {
    case Kind::Float16: return add_row<Float16, Real>(x, first, count, to);
    case Kind::Bfloat16: return add_row<Bfloat16, Real>(x, first, count, to);
    case Kind::Float32: return add_row<float, Real>(x, first, count, to);
    default: return add_row<double, Real>(x, first, count, to);
  }
}

// A gradient for some rows of a table: `values` has a row for each of `indices`; rows that are named
// more than once have the sum, and those that are not named have zero. It becomes tasks of rows,
// each with a gradient like any other's.
class SparseRows {
 public:
  // What a table's tasks are made from: a task for the whole table; the functions for gradients as
  // they came and for gradients in the dtype of the moments.
  struct Table {
    Task whole;
    Task summed;
    int64_t rows, row;
    Kind weight, parameter, gradient, moment;
  };

  // Returns false if an index is out of range; nothing may be changed then.
  bool split(const Table& table, const Tensor& indices, const Tensor& values, bool lazy,
             Tasks& tasks, Report& report) {
    std::vector<Named> named;
    named.reserve(indices.size);
    for (int64_t i = 0; i < indices.size; ++i) {
      const int64_t row = indices.kind == Kind::Int64
                              ? reinterpret_cast<const int64_t*>(indices.data)[i]
                              : reinterpret_cast<const int32_t*>(indices.data)[i];
      if (row < 0 || row >= table.rows) {
        report.row = row;
        report.rows = table.rows;
        return false;
      }
      named.push_back({row, i});
    }
    sort(named, table.rows);

    int64_t next = 0;  // the first row that has no task yet
    for (size_t i = 0, end; i < named.size(); i = end) {
      const int64_t row = named[i].row;
      for (end = i + 1; end < named.size() && named[end].row == row; ++end) {}
      if (!lazy) add_zeros(table, next, row, tasks);
      next = row + 1;
      const int64_t at = named[i].at;
      if (end == i + 1) {
        Task task = rows_of(table, table.whole, row, 1);
        task.gradient = values.data + at * table.row * width(table.gradient);
        tasks.add(task);
      } else {
        Task task = rows_of(table, table.summed, row, 1);
        task.gradient = zeros(table.row * width(table.moment));
        for (size_t k = i; k < end; ++k) {
          const auto add = table.moment == Kind::Float64 ? add_row<double> : add_row<float>;
          add(table.gradient, values.data, named[k].at * table.row, table.row, task.gradient);
        }
        tasks.add(task);
      }
    }
    if (!lazy) add_zeros(table, next, table.rows, tasks);
    return true;
  }

 private:
  struct Named {
    int64_t row, at;  // of the table, and in `values`
  };

  // By row; equal ones stay in the order of `values`. Digit by digit.
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

  static Task rows_of(const Table& table, Task task, int64_t first, int64_t count) {
    const int64_t at = first * table.row;
    const auto move = [at](char*& data, Kind kind) { if (data) data += at * width(kind); };
    move(task.weight, table.weight);
    move(task.parameter, table.parameter);
    move(task.moment1, table.moment);
    move(task.moment2, table.moment);
    move(task.vhat, table.moment);
    task.size = count * table.row;
    for (int64_t* bound : {&task.own_begin, &task.own_end})
      *bound = std::min(std::max(*bound - at, int64_t(0)), task.size);
    if (count == 1 && task.own_end > 0)
      task.bytes = std::min<int64_t>(table.row * width(table.moment), 1024);
    return task;
  }

  // Rows that are not named decay like any other row whose gradient is zero.
  void add_zeros(const Table& table, int64_t first, int64_t end, Tasks& tasks) {
    const int64_t most = std::max<int64_t>(1, chunk_size / table.row);
    while (first < end) {
      const int64_t count = std::min(most, end - first);
      Task task = rows_of(table, table.summed, first, count);
      const int64_t bytes = task.size * width(table.moment);
      if (zero_bytes_ < bytes) {
        zero_bytes_ = std::max(bytes, chunk_size * width(Kind::Float64));
        zero_rows_ = zeros(zero_bytes_);
      }
      task.gradient = zero_rows_;
      tasks.add(task);
      first += count;
    }
  }

  char* zeros(int64_t bytes) {
    memory_.emplace_back(bytes);
    return memory_.back().data();
  }

  std::vector<std::vector<char>> memory_;
  char* zero_rows_ = nullptr;  // 0 in float as in double
  int64_t zero_bytes_ = 0;
};

// ---- What MindSpore hands over ------------------------------------------------------------------

int read_tasks(Inputs& inputs, const Formula& formula, const Plan& plan, const Layout* layouts,
               Tasks& tasks, SparseRows& sparse_rows, Report& report) {
  std::vector<Tensor> gradients, indices, weights, parameters, moments;
  const Tensor none{nullptr, -1, Kind::Other, 0, nullptr};
  for (int64_t i = 0; i < plan.weights; ++i) gradients.push_back(inputs.next());
  const Kind after = inputs.peek().kind;
  const bool any_sparse = after == Kind::Int32 || after == Kind::Int64;
  for (int64_t i = 0; i < plan.weights; ++i) indices.push_back(any_sparse ? inputs.next() : none);
  for (int64_t i = 0; i < plan.weights; ++i) weights.push_back(inputs.next());
  for (int64_t i = 0; i < plan.weights; ++i)
    parameters.push_back(layouts[i].rounded ? inputs.next() : none);
  int64_t owned = 0;
  for (int64_t i = 0; i < plan.weights; ++i) owned += layouts[i].own_size >= 0;
  const int64_t stride = plan.buffers ? plan.buffers : owned;
  const int kinds = formula.amsgrad ? 3 : 2;
  for (int64_t i = 0; i < kinds * stride; ++i) moments.push_back(inputs.next());
  if (inputs.left() != 1) return malformed;  // the output, which nobody reads

  for (int64_t i = 0, at = 0; i < plan.weights; ++i) {
    report.gradient = i;
    const Tensor &gradient = gradients[i], &weight = weights[i], &parameter = parameters[i];
    const Layout& layout = layouts[i];
    const bool owns = layout.own_size >= 0, sparse = indices[i].axes == 1;
    const Tensor& whole = layout.rounded ? parameter : weight;  // a master weight is what is owned
    const int64_t row = whole.axes && whole.shape[0] ? whole.size / whole.shape[0] : 0;
    if (gradient.size != (sparse ? indices[i].size * row : whole.size)) return unfit_gradient;
    if (owns && (layout.own_begin < 0 || layout.own_begin + layout.own_size > whole.size))
      return malformed;
    if (layout.rounded && weight.size != layout.own_size) return malformed;
    if (layout.group < 0 || layout.group >= plan.groups) return malformed;

    Task task;
    task.size = whole.size;
    task.own_begin = owns ? layout.own_begin : 0;
    task.own_end = owns ? layout.own_begin + layout.own_size : 0;
    task.group = layout.group;
    task.l2 = layout.decayed && !formula.decoupled;
    task.shrunk = layout.decayed && formula.decoupled;
    task.centralized = layout.centralized && whole.axes > 1;
    task.lazy = formula.lazy && whole.axes > 1 && !sparse;
    if (task.centralized || task.lazy) task.row = row;
    task.gradient = gradient.data;
    // What holds the owned elements alone is addressed as if it held all.
    task.weight = weight.data - (layout.rounded ? task.own_begin * width(weight.kind) : 0);
    task.parameter = parameter.data;

    const Kind kind = weight.kind == Kind::Float64 ? Kind::Float64 : Kind::Float32;
    char** const pointers[] = {&task.moment1, &task.moment2, &task.vhat};
    for (int k = 0; k < kinds && owns; ++k) {
      const Tensor* moment = &moments[k * stride];
      if (plan.buffers) {
        const Tensor* const end = moment + plan.buffers;
        while (moment < end && moment->kind != kind) ++moment;
        if (moment == end || layout.offset < 0 || layout.offset + layout.own_size > moment->size)
          return unfit_state;
        *pointers[k] = moment->data + layout.offset * width(kind);
      } else {
        moment += at;
        if (moment->kind != kind || moment->size != layout.own_size) return unfit_state;
        *pointers[k] = moment->data;
      }
      *pointers[k] -= task.own_begin * width(kind);
    }
    at += owns;

    const auto find = formula.amsgrad ? update_for<true> : update_for<false>;
    task.update = find(weight.kind, parameter.kind, gradient.kind);
    if (!task.update) return unfit_gradient;
    task.sum_gradient = sum_of<false>(gradient.kind);
    task.sum_weight = sum_weight_of(weight.kind, parameter.kind);
    task.squares = sum_of<true>(gradient.kind);
    task.is_zero = zero_of(gradient.kind);
    if (!sparse) {
      tasks.add(task);
      continue;
    }
    Task summed = task;
    summed.update = find(weight.kind, parameter.kind, kind);
    summed.sum_gradient = sum_of<false>(kind);
    summed.squares = sum_of<true>(kind);
    const SparseRows::Table table{task, summed, whole.axes ? whole.shape[0] : 0, row,
                                  weight.kind, parameter.kind, gradient.kind, kind};
    if (row && !sparse_rows.split(table, indices[i], gradient, formula.lazy, tasks, report))
      return unknown_row;
  }
  return 0;
}

// Inputs, in order:
//   formulas                                   float64: of the optimizer, then of each group
//   plan                                       int64
//   global_step                                int32: steps that schedules have seen
//   update_count                               int32: updates made; increased by one
//   beta1_power, beta2_power, counted_power    float32, set to beta1^t, beta2^t and beta2^t; if the last
//                                              two differ, another optimizer's state was loaded, and
//                                              global_step is its count (scalars.UpdateCount)
//   norm                                       if gradients are clipped: float32, set to their norm
//   learning rates, weight decays              float32, one for each group
//   gradients                                  one for each weight
//   indices                                    if a gradient is row-sparse: one for each weight, int32
//                                              or int64; of one axis, or of none if it is not
//   weights                                    one for each weight
//   parameters                                 one for each weight that has a rounding
//   moment1, moment2, vhat (under AMSGrad)     one for each weight of which something is owned, of this
//                                              size, or the flat buffers
// Output: one element without a meaning.
//
// Returns 0, or a Failure; then nothing is changed, and `report` says what it is about.
int step_all(int count, void** data, int* axes, int64_t** shapes, const char** dtypes,
             Report& report) {
  const FloatMode mode;
  Inputs inputs(count, data, axes, shapes, dtypes);
  const Tensor formula_tensor = inputs.next(), plan_tensor = inputs.next();
  Plan plan;
  std::memcpy(&plan, plan_tensor.data, sizeof plan);
  if (plan_tensor.size * sizeof(int64_t) != sizeof(Plan) + plan.weights * sizeof(Layout))
    return malformed;
  const Layout* layouts = reinterpret_cast<const Layout*>(plan_tensor.data + sizeof(Plan));
  if (formula_tensor.size * sizeof(double) != (1 + plan.groups) * sizeof(Formula))
    return malformed;
  const Formula* const formulas = reinterpret_cast<const Formula*>(formula_tensor.data);
  const Formula& formula = formulas[0];
  const bool clips = formula.max_grad_norm < std::numeric_limits<double>::infinity();

  const Tensor global_step = inputs.next(), update_count = inputs.next();
  if (global_step.kind != Kind::Int32 || update_count.kind != Kind::Int32) return malformed;
  float* powers[3];  // of beta1, of beta2, and the latter as the last update set it
  for (float*& power : powers) power = reinterpret_cast<float*>(inputs.next().data);
  float* const norm = clips ? reinterpret_cast<float*>(inputs.next().data) : nullptr;
  std::vector<double> learning_rates, weight_decays;
  for (auto* values : {&learning_rates, &weight_decays})
    for (int64_t i = 0; i < plan.groups; ++i) {
      const Tensor value = inputs.next();
      if (value.kind != Kind::Float32 || value.size != 1) return malformed;
      values->push_back(*reinterpret_cast<const float*>(value.data));
    }

  static thread_local Tasks tasks;  // its memory is kept: the system is slow to give new one
  tasks.clear();
  SparseRows sparse_rows;  // holds what tasks point to
  if (const int failure = read_tasks(inputs, formula, plan, layouts, tasks, sparse_rows, report))
    return failure;

  int32_t* const updates = reinterpret_cast<int32_t*>(update_count.data);
  const int32_t loaded = *powers[1] == 1.0f ? 0
                         : std::max(*reinterpret_cast<const int32_t*>(global_step.data), 0);
  const int64_t t = int64_t(*powers[1] == *powers[2] ? *updates : loaded) + 1;
  std::vector<Step> steps;
  for (int64_t i = 0; i < plan.groups; ++i)
    steps.push_back(scalars(formulas[1 + i], t, learning_rates[i], weight_decays[i]));

  const int64_t chunks = tasks.chunks();
  if (clips) {
    std::vector<double> squares(chunks);
    for_each_chunk(chunks, plan.threads, [&, &tasks = tasks](int64_t chunk) {
      tasks.in_chunk(chunk, [&](const Task& task, int64_t first, int64_t count) {
        squares[chunk] += task.squares(task.gradient, first, count);
      });
    });
    const double length = global_norm(squares, formula.loss_scale);
    // A norm that is NaN clips nothing, as in ops.clip_by_global_norm: the elements that made it
    // NaN spoil only themselves.
    if (length > formula.max_grad_norm)
      for (Step& step : steps) step.scale *= formula.max_grad_norm / length;
    *norm = float(length);
  }
  for_each_chunk(chunks, plan.threads,
                 [&, &tasks = tasks](int64_t chunk) { step_chunk(tasks, chunk, steps); });

  *updates = int32_t(t);
  *powers[0] = float(std::pow(formula.beta1, t));
  *powers[1] = *powers[2] = float(std::pow(formula.beta2, t));
  return 0;
}

}  // namespace

// Called by a compiled step, as MindSpore calls the function of an ops.Custom.
extern "C" int MsAdamStep(int count, void** data, int* axes, int64_t** shapes, const char** dtypes,
                          void*, void*) {
  Report report{};
  const int failure = step_all(count, data, axes, shapes, dtypes, report);
  if (failure == unknown_row)  // MindSpore only says which function returned which number
    std::fprintf(stderr, "ms_adam: gradient %lld names row %lld of a table of %lld rows.\n",
                 static_cast<long long>(report.gradient), static_cast<long long>(report.row),
                 static_cast<long long>(report.rows));
  return failure;
}

// The same, called from Python with addresses, and with a Report to be filled.
extern "C" int MsAdamStepByAddress(int count, void** data, int* axes, int64_t** shapes,
                                   const char** dtypes, void*, void* report) {
  return step_all(count, data, axes, shapes, dtypes, *static_cast<Report*>(report));
}

// ---- Parameters in a row of int32, to be sent to other ranks ------------------------------------

namespace {

struct Piece {
  int64_t parameter;  // which one
  int64_t from, to;   // where it begins in the parameter and in the row, in bytes
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

// Inputs: the Pieces, the parameters. Output: the row; zero where no piece is.
extern "C" int MsAdamPack(int count, void** data, int* axes, int64_t** shapes, const char** dtypes,
                          void*, void*) {
  Inputs inputs(count, data, axes, shapes, dtypes);
  const Tensor plan = inputs.next();
  std::vector<Tensor> parameters;
  while (inputs.left() > 1) parameters.push_back(inputs.next());
  char* const row = static_cast<char*>(data[count - 1]);
  const int64_t size = shapes[count - 1][0] * width(Kind::Int32);
  std::memset(row, 0, size);
  return copy_pieces(plan, parameters, row, size, true);
}

// Inputs: the Pieces, the row, the parameters, which are set. Output: one element that means nothing.
extern "C" int MsAdamUnpack(int count, void** data, int* axes, int64_t** shapes,
                            const char** dtypes, void*, void*) {
  Inputs inputs(count, data, axes, shapes, dtypes);
  const Tensor plan = inputs.next(), row = inputs.next();
  std::vector<Tensor> parameters;
  while (inputs.left() > 1) parameters.push_back(inputs.next());
  return copy_pieces(plan, parameters, row.data, row.size * width(row.kind), false);
}
