// What every op finds behind its userdata pointer, and how the threads of one op share its work.
//
// ggml runs an op on all its threads at once and puts a barrier behind it, nothing else. So the work is
// handed out by a counter: a thread that lost its core takes fewer pieces, and nobody waits for a thread
// that has not arrived. The last thread to leave resets the counters, which is safe because no thread
// can enter the next op before all have left this one.
//
// Only built-in atomics and static functions here: this header is compiled once per instruction set, and
// an inline function of the standard library might be kept in its AVX-512 form for all of them.
#pragma once

#include <cstddef>
#include <cstdint>

/// Memory that the ops of one compute context share, one op at a time. Grows, never shrinks.
struct Workspace {
  char* memory;
  size_t bytes;
};

struct Call {
  Workspace* workspace;
  int32_t arrived;  // threads that entered the op
  int32_t ready;    // 1 once the first of them has prepared the workspace
  int32_t next;     // next piece of work that nobody has
  int32_t left;     // threads that are through
  int32_t prepared; // pieces of the preparing phase that are finished
  int32_t nextPrepare;
  int32_t params[16];
  int32_t poolThreads; // of the pool that runs it; 0 where ggml's threads do
};

extern "C" {
/// At least `bytes` of the workspace, 64-byte aligned; contents are kept only when it did not grow.
char* rw_workspace_reserve(Workspace* workspace, size_t bytes);
/// Scratch of the calling thread, 64-byte aligned, valid until its next call of this function.
char* rw_thread_scratch(size_t bytes);
/// Gives the core away for a moment: the thread that we wait for may need it.
void rw_yield();
}

namespace {

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Spins briefly, then yields: with a busy neighbour the other thread may have no core at all.
inline void waitUntilAtLeast(int32_t* counter, int32_t value) {
  for (int spins = 0; __atomic_load_n(counter, __ATOMIC_ACQUIRE) < value; spins++) {
    if (spins < 2000) relax();
    else rw_yield();
  }
}

/// True for exactly one thread, which must prepare what all share and then call `publish`.
/// Returns to the others after that.
inline bool arriveFirst(Call* call) {
  if (__atomic_fetch_add(&call->arrived, 1, __ATOMIC_ACQ_REL) == 0) return true;
  waitUntilAtLeast(&call->ready, 1);
  return false;
}

inline void publish(Call* call) { __atomic_store_n(&call->ready, 1, __ATOMIC_RELEASE); }

inline int32_t takePiece(Call* call) { return __atomic_fetch_add(&call->next, 1, __ATOMIC_RELAXED); }

/// Takes a run of neighbouring units: `most` while there are many, fewer and fewer towards the end, so that threads end
/// together; the last ones in parts of a unit. False when none is left. In parts: whole units, or within one.
inline bool takeRun(Call* call, int nth, int32_t units, int32_t most, int32_t parts, int32_t* first, int32_t* count) {
  int32_t threads = call->poolThreads ? call->poolThreads : nth;
  units *= parts, most *= parts;
  int32_t next = __atomic_load_n(&call->next, __ATOMIC_RELAXED);
  for (;;) {
    int32_t wanted = (units - next) / (2 * threads);
    int32_t run = wanted > most ? most : wanted < 1 ? 1 : wanted;
    if (next >= units) return false;
    int32_t rest = parts - next % parts;
    if (rest < parts || run < parts) run = run < rest ? run : rest;
    else run -= run % parts;
    if (__atomic_compare_exchange_n(&call->next, &next, next + run, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
      *first = next, *count = run;
      return true;
    }
  }
}

/// Runs `work(piece)` for the pieces of a phase whose results all threads need, and returns when every
/// piece is finished, whoever had it.
template <class Work>
inline void preparePhase(Call* call, int32_t pieces, Work work) {
  for (;;) {
    int32_t piece = __atomic_fetch_add(&call->nextPrepare, 1, __ATOMIC_RELAXED);
    if (piece >= pieces) break;
    work(piece);
    __atomic_fetch_add(&call->prepared, 1, __ATOMIC_ACQ_REL);
  }
  waitUntilAtLeast(&call->prepared, pieces);
}

inline void leave(Call* call, int nth) {
  if (__atomic_add_fetch(&call->left, 1, __ATOMIC_ACQ_REL) < nth) return;
  call->arrived = call->ready = call->next = call->prepared = call->nextPrepare = 0;
  __atomic_store_n(&call->left, 0, __ATOMIC_RELEASE);
}

inline float floatParam(const Call* call, int index) {
  float value;
  __builtin_memcpy(&value, &call->params[index], 4);
  return value;
}

inline size_t alignUp(size_t bytes) { return (bytes + 63) & ~size_t(63); }

}  // namespace
