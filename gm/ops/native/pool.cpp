// The threads of `parallel`: started once, asleep while there is nothing to do.

#include "pool.h"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <pthread.h>
#include <sched.h>
#include <system_error>
#include <thread>
#include <unistd.h>

namespace svd {
namespace {

struct Loop {
  void (*part)(const void *, int64_t);
  const void *data;
  int64_t parts, begun = 0, ended = 0;
};

std::atomic<int64_t> wanted{0};  // threads; 0: as many as there are processors

class Pool {
 public:
  // Several threads may run loops at once. Each works on its own loop too, so that one ends whatever the others do.
  void run(Loop &loop) {
    std::unique_lock<std::mutex> lock(mutex_);
    start(loop.parts - 1);
    loops_.push_back(&loop);
    for (int64_t i = 1; i < loop.parts; ++i) wake_.notify_one();
    while (loop.begun < loop.parts) work(loop, lock);
    ended_.wait(lock, [&] { return loop.ended == loop.parts; });
  }

 private:
  void start(int64_t count) {
    for (; started_ < count; ++started_) {
      try {
        std::thread([this] { serve(); }).detach();
      } catch (const std::system_error &) {
        return;  // the system gives no more: those that are there do it
      }
    }
  }

  void serve() {
    // MindSpore may have bound the thread that started this one to a core of its own.
    cpu_set_t cores;
    if (sched_getaffinity(getpid(), sizeof cores, &cores) == 0) sched_setaffinity(0, sizeof cores, &cores);
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return !loops_.empty(); });
      work(*loops_.front(), lock);
    }
  }

  // The next part of a loop that has one left.
  void work(Loop &loop, std::unique_lock<std::mutex> &lock) {
    const int64_t k = loop.begun++;
    if (loop.begun == loop.parts) loops_.erase(std::find(loops_.begin(), loops_.end(), &loop));
    lock.unlock();
    loop.part(loop.data, k);
    lock.lock();
    if (++loop.ended == loop.parts) ended_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable wake_, ended_;
  std::deque<Loop *> loops_;
  int64_t started_ = 0;
};

std::atomic<Pool *> pool{nullptr};

// Never destroyed, as its threads outlive main; and left behind by a fork, whose process has none of them.
Pool &the_pool() {
  static const int forks = pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
  (void)forks;
  Pool *found = pool;
  if (found == nullptr) {
    Pool *made = new Pool;
    if (pool.compare_exchange_strong(found, made)) return *made;
    delete made;
  }
  return *found;
}

}  // namespace

int64_t threads() {
  const int64_t count = wanted;
  return count ? count : std::max<int64_t>(1, std::thread::hardware_concurrency());
}

void run_parts(int64_t parts, void (*part)(const void *, int64_t), const void *data) {
  Loop loop{part, data, parts};
  the_pool().run(loop);
}

}  // namespace svd

// How many threads compute from here on, the calling one included; called through ctypes.
extern "C" void UseThreads(int64_t count) { svd::wanted = count; }
