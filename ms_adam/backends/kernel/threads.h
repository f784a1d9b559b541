// Threads that share the chunks of a launch, and the floating-point mode that they compute in.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace {

// Flushes subnormal numbers to zero while it lives, as MindSpore's own threads do. The moments of a
// weight whose gradient stays zero decay to subnormal numbers and remain there, where each product
// takes 20 to 40 times as long. All threads set the mode here, because the result of a step must not
// depend on the caller's mode.
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

// A thread needs this many chunks to be worth its start: 0.1 ms of work against 0.03 ms.
constexpr int64_t chunks_per_thread = 4;

// Work on chunks 0, 1, ..., shared by threads that live no longer than it.
//
// Each thread has a range of chunks, so that it reads memory in long runs. When its range is done it
// helps with the other ranges. The caller waits for chunks, not for threads: a thread that gets no
// core has taken no chunk. An OpenMP region waits for all of its threads, so that one busy core made
// it 5 to 10 times slower than a single thread; and its threads then spin for milliseconds on the
// cores that MindSpore's next kernels need.
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
    int64_t done = 0;
    for (int i = 0; i < threads; ++i) {
      Range& range = ranges_[(thread + i) % threads];
      for (int64_t chunk; (chunk = range.next++) < range.end; ++done) body_(chunk);
    }
    if (!done) return;  // the caller may have returned, and body_ with it
    const std::lock_guard<std::mutex> lock(mutex_);
    done_ += done;
    if (done_ == chunks_) all_done_.notify_one();
  }

  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    all_done_.wait(lock, [this] { return done_ == chunks_; });
  }

 private:
  struct alignas(64) Range {  // a cache line for each
    std::atomic<int64_t> next;
    int64_t end;
  };

  const int64_t chunks_;
  const std::function<void(int64_t)>& body_;
  std::vector<Range> ranges_;
  std::mutex mutex_;
  std::condition_variable all_done_;
  int64_t done_ = 0;
};

void for_each_chunk(int64_t chunks, int64_t threads, const std::function<void(int64_t)>& body) {
  threads = std::max<int64_t>(1, std::min(threads, chunks / chunks_per_thread));
  const auto work = std::make_shared<Work>(chunks, int(threads), body);
  try {
    for (int i = 1; i < threads; ++i) std::thread([work, i] { work->run(i); }).detach();
  } catch (const std::system_error&) {
    // The system gives no more threads; those that run do all the work.
  }
  work->run(0);
  work->wait();
}

}  // namespace
