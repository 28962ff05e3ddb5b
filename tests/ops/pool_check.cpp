// Loops of several threads at once, by more and fewer threads, and in a forked process.
#include "../../gm/ops/native/pool.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

extern "C" void UseThreads(int64_t);

// How many of n items are not computed exactly once.
int64_t wrong(int64_t n) {
  std::vector<int> counts(static_cast<size_t>(n));
  int *to = counts.data();
  svd::parallel(n, 1 << 15, [=](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) ++to[i];
  });
  int64_t found = 0;
  for (int count : counts) found += count != 1;
  return found;
}

// Whether two threads work on a loop at the same time: each waits for the other.
bool together() {
  std::atomic<int> there{0}, met{0};
  auto *arrived = &there, *all = &met;
  svd::parallel(2, 1 << 20, [=](int64_t, int64_t) {
    ++*arrived;
    for (int wait = 0; wait < 10000 && *arrived < 2; ++wait) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    *all += *arrived == 2;
  });
  return met == 2;
}

int main() {
  int64_t failed = 0;
  for (int64_t count : {1, 2, 3, 16}) {
    UseThreads(count);
    if (svd::threads() != count) ++failed;
    std::vector<std::thread> callers;
    std::vector<int64_t> results(5);
    for (int64_t caller = 0; caller < 5; ++caller)
      callers.emplace_back([&results, caller] {
        for (int64_t turn = 0; turn < 200; ++turn) results[static_cast<size_t>(caller)] += wrong(turn % 40);
      });
    for (std::thread &caller : callers) caller.join();
    for (int64_t result : results) failed += result;
  }
  failed += !together();
  if (const pid_t child = fork(); child == 0) {
    _exit(wrong(33) != 0 || !together());  // it has none of the threads of its parent
  } else {
    int status = 1;
    waitpid(child, &status, 0);
    failed += status != 0;
  }
  std::printf("%lld wrong\n", static_cast<long long>(failed));
  return failed != 0;
}
