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

template <class Weight> struct Wider { using type = float; };  // in which moments are kept
template <> struct Wider<double> { using type = double; };

// ---- What a step is told ------------------------------------------------------------------------

// The first input, float64; ms_adam/backends/fused.py writes both.
struct Formula {
  double beta1, beta2, eps, loss_scale;
  double max_grad_norm;  // Inf if gradients are not clipped
  double epsilon_hat, bias_correction, nesterov, amsgrad, decoupled;  // 1 or 0
};

// The second, int64: one of these, then one `Layout` for each weight.
struct Plan {
  int64_t weights, groups, threads;
  int64_t buffers;  // for each moment if the state is flat, else 0
};

struct Layout {
  int64_t group;        // which learning rate and weight decay
  int64_t decayed;      // whether weight decay acts on it
  int64_t centralized;  // whether its gradient loses its mean
  int64_t rounded;      // whether a parameter is to be its rounding
  int64_t offset;       // in the buffer of its dtype if the state is flat
};

enum class Kind { Float16, Bfloat16, Float32, Float64, Other };

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
    if (at_ >= count_) return {nullptr, -1, Kind::Other, 0, nullptr};
    Tensor tensor{static_cast<char*>(data_[at_]), 1, kind(dtypes_[at_]), axes_[at_], shapes_[at_]};
    for (int k = 0; k < tensor.axes; ++k) tensor.size *= tensor.shape[k];
    ++at_;
    return tensor;
  }
  int left() const { return count_ - at_; }

 private:
  static Kind kind(const char* name) {
    if (!std::strcmp(name, "float32")) return Kind::Float32;
    if (!std::strcmp(name, "bfloat16")) return Kind::Bfloat16;
    if (!std::strcmp(name, "float16")) return Kind::Float16;
    if (!std::strcmp(name, "float64")) return Kind::Float64;
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

struct Task {
  int64_t begin = 0;  // where its elements stand when those of all weights are put in a row
  int64_t size = 0;
  int64_t row = 0;    // elements that share a mean, 0 if the gradient is not centralized
  int64_t group = 0;
  bool l2 = false, shrunk = false;  // how weight decay acts
  char *gradient = nullptr, *weight = nullptr, *parameter = nullptr;
  char *moment1 = nullptr, *moment2 = nullptr, *vhat = nullptr;
  Update update = nullptr;
  Sum sum_gradient = nullptr, sum_weight = nullptr, squares = nullptr;
};

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
    prefetch(gradient, begin + ahead, block);
    prefetch(weight, begin + ahead, block);
    prefetch(moment1, begin + ahead, block);
    prefetch(moment2, begin + ahead, block);
    if constexpr (amsgrad) prefetch(vhat, begin + ahead, block);
    if constexpr (rounds) prefetch(parameter, begin + ahead, block);

    const int64_t end = std::min(count, begin + block);
    for (int64_t i = begin; i < end; ++i) {
      Real w = widen(weight[i]);
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

  int64_t chunks() const { return (total_ + chunk_size - 1) / chunk_size; }

  // Calls visit(task, first, count) for what each weight has in a chunk.
  template <class Visit> void in_chunk(int64_t chunk, Visit visit) const {
    int64_t at = cut(chunk);
    const int64_t end = cut(chunk + 1);
    for (const Task* task = find(at); at < end; ++task) {
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
    const Step& step = steps[task.group];
    if (!task.row) return task.update(task, step, first, count, 0.0);
    for (const int64_t end = first + count; first < end; first += task.row) {
      double mean = step.scale * task.sum_gradient(task.gradient, first, task.row);
      if (task.l2) mean += step.weight_decay * task.sum_weight(task.weight, first, task.row);
      task.update(task, step, first, task.row, mean / task.row);
    }
  });
}

// What clipping leaves of the gradients. A norm that is NaN clips nothing, as in
// ops.clip_by_global_norm: the elements that made it NaN spoil themselves alone.
double clipping(const std::vector<double>& squares, double loss_scale, double max_norm) {
  double sum = 0.0;
  for (const double part : squares) sum += part;
  const double norm = std::sqrt(sum) / loss_scale;
  return norm > max_norm ? max_norm / norm : 1.0;
}

// The scalars of ms_adam/scalars.py, with the user's own decay rates.
Step scalars(const Formula& f, double t, double learning_rate, double weight_decay) {
  // 1 - beta^t without cancellation; log(0) = -Inf gives 1.
  const double c1 = -std::expm1(t * std::log(f.beta1));
  const double c2 = std::sqrt(-std::expm1(t * std::log(f.beta2)));
  Step step;
  step.scale = 1.0 / f.loss_scale;
  step.rest1 = 1.0 - f.beta1;
  step.rest2 = 1.0 - f.beta2;
  step.step_size = learning_rate * (f.bias_correction ? c2 / c1 : 1.0);
  step.epsilon = f.eps * (f.bias_correction && !f.epsilon_hat ? c2 : 1.0);
  step.retained = 1.0 - learning_rate * weight_decay;
  step.weight_decay = weight_decay;
  step.nesterov = f.nesterov;
  return step;
}

enum Failure { malformed = 1, unfit_gradient = 2, unfit_state = 3 };

int read_tasks(Inputs& inputs, const Formula& formula, const Plan& plan, const Layout* layouts,
               Tasks& tasks) {
  std::vector<Tensor> gradients, weights, parameters, moments;
  for (int64_t i = 0; i < plan.weights; ++i) gradients.push_back(inputs.next());
  for (int64_t i = 0; i < plan.weights; ++i) weights.push_back(inputs.next());
  for (int64_t i = 0; i < plan.weights; ++i)
    parameters.push_back(layouts[i].rounded ? inputs.next()
                                            : Tensor{nullptr, -1, Kind::Other, 0, nullptr});
  const int64_t stride = plan.buffers ? plan.buffers : plan.weights;
  const int kinds = formula.amsgrad ? 3 : 2;
  for (int64_t i = 0; i < kinds * stride; ++i) moments.push_back(inputs.next());
  if (inputs.left() != 1) return malformed;  // the output, which nobody reads

  for (int64_t i = 0; i < plan.weights; ++i) {
    const Tensor &gradient = gradients[i], &weight = weights[i], &parameter = parameters[i];
    const Layout& layout = layouts[i];
    if (gradient.size != weight.size) return unfit_gradient;
    if (layout.rounded && parameter.size != weight.size) return malformed;
    if (layout.group < 0 || layout.group >= plan.groups) return malformed;

    Task task;
    task.size = weight.size;
    task.group = layout.group;
    task.l2 = layout.decayed && !formula.decoupled;
    task.shrunk = layout.decayed && formula.decoupled;
    if (layout.centralized && gradient.axes > 1 && gradient.size)
      task.row = gradient.size / gradient.shape[0];
    task.gradient = gradient.data;
    task.weight = weight.data;
    task.parameter = parameter.data;

    const Kind kind = weight.kind == Kind::Float64 ? Kind::Float64 : Kind::Float32;
    const int64_t width = kind == Kind::Float64 ? 8 : 4;
    char** const pointers[] = {&task.moment1, &task.moment2, &task.vhat};
    for (int k = 0; k < kinds; ++k) {
      const Tensor* moment = &moments[k * stride];
      if (plan.buffers) {
        const Tensor* const end = moment + plan.buffers;
        while (moment < end && moment->kind != kind) ++moment;
        if (moment == end || layout.offset < 0 || layout.offset + weight.size > moment->size)
          return unfit_state;
        *pointers[k] = moment->data + layout.offset * width;
      } else {
        moment += i;
        if (moment->kind != kind || moment->size != weight.size) return unfit_state;
        *pointers[k] = moment->data;
      }
    }

    const auto find = formula.amsgrad ? update_for<true> : update_for<false>;
    task.update = find(weight.kind, parameter.kind, gradient.kind);
    if (!task.update) return unfit_gradient;
    task.sum_gradient = sum_of<false>(gradient.kind);
    task.sum_weight = sum_of<false>(weight.kind);
    task.squares = sum_of<true>(gradient.kind);
    tasks.add(task);
  }
  return 0;
}

}  // namespace

// Inputs, in order:
//   formula, plan                              constants
//   step                                       int32 of shape (1,), 1 in the first step
//   beta1_power, beta2_power                   float32, set to beta^step
//   learning rates, weight decays              float32, one for each group
//   gradients, weights                         one for each weight
//   parameters                                 one for each weight that has a rounding
//   moment1, moment2, vhat (under AMSGrad)     one for each weight, or the flat buffers
// Output: one element that means nothing.
extern "C" int MsAdamStep(int count, void** data, int* axes, int64_t** shapes, const char** dtypes,
                          void*, void*) {
  const FloatMode mode;
  Inputs inputs(count, data, axes, shapes, dtypes);
  const Tensor formula_tensor = inputs.next(), plan_tensor = inputs.next();
  if (formula_tensor.size * sizeof(double) != sizeof(Formula)) return malformed;
  Formula formula;
  Plan plan;
  std::memcpy(&formula, formula_tensor.data, sizeof formula);
  std::memcpy(&plan, plan_tensor.data, sizeof plan);
  if (plan_tensor.size * sizeof(int64_t) != sizeof(Plan) + plan.weights * sizeof(Layout))
    return malformed;
  const Layout* layouts = reinterpret_cast<const Layout*>(plan_tensor.data + sizeof(Plan));

  const Tensor step_tensor = inputs.next();
  float* powers[2];
  for (float*& power : powers) power = reinterpret_cast<float*>(inputs.next().data);
  std::vector<double> learning_rates, weight_decays;
  for (auto* values : {&learning_rates, &weight_decays})
    for (int64_t i = 0; i < plan.groups; ++i) {
      const Tensor value = inputs.next();
      if (value.kind != Kind::Float32 || value.size != 1) return malformed;
      values->push_back(*reinterpret_cast<const float*>(value.data));
    }
  int32_t t;
  std::memcpy(&t, step_tensor.data, sizeof t);

  Tasks tasks;
  if (const int failure = read_tasks(inputs, formula, plan, layouts, tasks)) return failure;

  std::vector<Step> steps;
  for (int64_t i = 0; i < plan.groups; ++i)
    steps.push_back(scalars(formula, t, learning_rates[i], weight_decays[i]));

  const int64_t chunks = tasks.chunks();
  if (formula.max_grad_norm < std::numeric_limits<double>::infinity()) {
    std::vector<double> squares(chunks);
    for_each_chunk(chunks, plan.threads, [&](int64_t chunk) {
      tasks.in_chunk(chunk, [&](const Task& task, int64_t first, int64_t count) {
        squares[chunk] += task.squares(task.gradient, first, count);
      });
    });
    const double left = clipping(squares, formula.loss_scale, formula.max_grad_norm);
    for (Step& step : steps) step.scale *= left;
  }
  for_each_chunk(chunks, plan.threads,
                 [&](int64_t chunk) { step_chunk(tasks, chunk, steps); });

  *powers[0] = float(std::pow(formula.beta1, t));
  *powers[1] = float(std::pow(formula.beta2, t));
  return 0;
}
