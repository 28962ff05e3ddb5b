// Waiting for signals without Python, called through ctypes: see gm/interrupts.py.

#include <atomic>
#include <csignal>
#include <initializer_list>
#include <thread>
#include <unistd.h>

static std::atomic<int> finish_first{0};

// Whether what the process is doing must be finished before it may end.
extern "C" void FinishFirst(int yes) { finish_first = yes; }

// Waits for SIGINT, SIGTERM or SIGHUP, which every thread blocks, and returns its number; 0 where that fails. Should the
// process still live `seconds` later, it ends with the shell's status for the signal: Python may get its lock back too
// late to do so, as MindSpore keeps it while it compiles.
extern "C" int WaitForSignal(int seconds) {
  sigset_t numbers;
  sigemptyset(&numbers);
  for (int number : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&numbers, number);
  int number = 0;
  if (sigwait(&numbers, &number) != 0) return 0;
  std::thread([number, seconds] {
    sleep(seconds);
    if (finish_first) return;
    static const char line[] = "\ninterrupted\n";
    if (write(2, line, sizeof line - 1) < 0) {
    }
    _exit(128 + number);
  }).detach();
  return number;
}
