// Threads of our own for the ops, so that nobody waits at a barrier for a thread that has no core.
//
// ggml's threads meet spinning after every node: when a neighbour takes a core, all wait for the one that
// lost it. Here ggml runs on one thread. An op is opened to the pool, its caller starts at once, and workers
// that are awake join in and take pieces. When the pieces are gone the caller closes the op and waits only
// for those who joined. Waiting spins for a moment and then sleeps, which lets the kernel move a worker to
// the free core.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

#include "call.h"
#include "tensor.h"

namespace {

using Op = void (*)(ggml_tensor*, int, int, void*);

constexpr uint32_t closed = 0x80000000u;
constexpr int spinsBeforeSleep = 3000;  // some tens of microseconds: longer than the gap between two ops
constexpr int unknownThreads = 0x7fffffff;

struct Pool {
  Op op = nullptr;
  ggml_tensor* dst = nullptr;
  Call* call = nullptr;
  std::atomic<uint32_t> opened{0};      // counts ops; workers wait for it to change
  std::atomic<uint32_t> state{closed};  // threads that joined the open op, and whether more may
  std::atomic<bool> stopping{false};
  std::vector<std::thread> workers;
};

/// What stands behind a pooled op's userdata.
struct PooledCall {
  Pool* pool;
  Op op;
  Call* call;
  int64_t nanoseconds;  // of all its runs
};

/// Returns once `word` differs from `old`.
void waitForChange(const std::atomic<uint32_t>& word, uint32_t old) {
  for (int spins = 0; spins < spinsBeforeSleep; spins++) {
    if (word.load(std::memory_order_acquire) != old) return;
    relax();
  }
  word.wait(old, std::memory_order_acquire);
}

bool join(Pool* pool) {
  uint32_t state = pool->state.load(std::memory_order_relaxed);
  while (!(state & closed))
    if (pool->state.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel)) return true;
  return false;
}

void work(Pool* pool, int index) {
  for (uint32_t seen = 0; !pool->stopping.load(std::memory_order_acquire);) {
    uint32_t opened = pool->opened.load(std::memory_order_acquire);
    if (opened == seen) {
      waitForChange(pool->opened, seen);
      continue;
    }
    seen = opened;
    if (!join(pool)) continue;
    pool->op(pool->dst, index, unknownThreads, pool->call);
    if (pool->state.fetch_sub(1, std::memory_order_acq_rel) == (closed | 1)) pool->state.notify_one();
  }
}

/// Runs one op on the calling thread and on whichever workers come.
void run(Pool* pool, Op op, ggml_tensor* dst, Call* call) {
  pool->op = op;
  pool->dst = dst;
  pool->call = call;
  pool->state.store(0, std::memory_order_release);
  pool->opened.fetch_add(1, std::memory_order_acq_rel);
  pool->opened.notify_all();
  op(dst, 0, unknownThreads, call);
  uint32_t state = pool->state.fetch_or(closed, std::memory_order_acq_rel) | closed;
  while (state != closed) {
    waitForChange(pool->state, state);
    state = pool->state.load(std::memory_order_acquire);
  }
  // The op could not count its threads, so nobody has put the counters back.
  call->arrived = call->ready = call->next = call->prepared = call->nextPrepare = call->left = 0;
}

}  // namespace

extern "C" {

/// A pool that runs ops on `threads` threads, the caller's included, or on as many as the system lets us have.
Pool* rw_pool_new(int threads) {
  Pool* pool = new Pool;
  try {
    for (int i = 1; i < threads; i++) pool->workers.emplace_back(work, pool, i);
  } catch (const std::system_error&) {
    // Fewer do the same work.
  }
  return pool;
}

void rw_pool_free(Pool* pool) {
  pool->stopping.store(true, std::memory_order_release);
  pool->opened.fetch_add(1, std::memory_order_acq_rel);
  pool->opened.notify_all();
  for (std::thread& worker : pool->workers) worker.join();
  delete pool;
}

PooledCall* rw_pooled_call_new(Pool* pool, void* op, Call* call) {
  call->poolThreads = int32_t(pool->workers.size()) + 1;
  return new PooledCall{pool, reinterpret_cast<Op>(op), call, 0};
}

void rw_pooled_call_free(PooledCall* call) { delete call; }

/// What all runs of this call took, while none runs.
int64_t rw_pooled_call_nanoseconds(const PooledCall* call) { return call->nanoseconds; }

/// The op that ggml calls, on its only thread.
void rw_pooled(ggml_tensor* dst, int ith, int, void* userdata) {
  PooledCall* pooled = static_cast<PooledCall*>(userdata);
  if (ith != 0) return;
  auto start = std::chrono::steady_clock::now();
  run(pooled->pool, pooled->op, dst, pooled->call);
  pooled->nanoseconds += std::chrono::nanoseconds(std::chrono::steady_clock::now() - start).count();
}

void* rw_pooled_address() { return reinterpret_cast<void*>(&rw_pooled); }
}
