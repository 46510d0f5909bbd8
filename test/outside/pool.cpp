// The pool of native/pool.cpp as a stranger uses it, for -fsanitize=thread: more threads than cores, pools that come and
// go, workers that fall asleep between ops and then use no processor, threads that the system refuses. It says "right",
// or what was wrong.
// By hand, in native/: F="-O1 -g -pthread -fsanitize=thread -w"; g++ $F -std=c++17 -c library.cpp -o /tmp/l.o;
// for u in isa_*.cpp; do g++ $F -std=c++17 -DROPEWAY_LEFT_OUT -c $u -o /tmp/$u.o; done;
// g++ $F -std=c++20 ../test/outside/pool.cpp pool.cpp /tmp/l.o /tmp/isa_*.o -o /tmp/pool && setarch -R /tmp/pool
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <vector>

#include "../../native/call.h"
#include "../../native/tensor.h"

struct Pool;
struct PooledCall;
extern "C" {
Pool* rw_pool_new(int threads);
void rw_pool_free(Pool* pool);
PooledCall* rw_pooled_call_new(Pool* pool, void* op, Call* call);
void rw_pooled_call_free(PooledCall* call);
void rw_pooled(ggml_tensor* dst, int ith, int nth, void* userdata);
Workspace* rw_workspace_new();
void rw_workspace_free(Workspace* workspace);
Call* rw_call_new(Workspace* workspace, const int32_t* params, int count);
void rw_call_free(Call* call);
}

/// What all threads prepare and all read, then work in runs: everything by which the threads of an op meet.
static void op(ggml_tensor* dst, int, int nth, void* userdata) {
  Call* call = static_cast<Call*>(userdata);
  int n = call->params[0];
  if (arriveFirst(call)) {
    rw_workspace_reserve(call->workspace, n * 4 + 64);
    publish(call);
  }
  int *shared = reinterpret_cast<int*>(call->workspace->memory), *out = static_cast<int*>(dst->data);
  preparePhase(call, n, [&](int piece) { shared[piece] = piece * 3; });
  int first, count;
  while (takeRun(call, nth, n, 4, 1, &first, &count))
    for (int i = first; i < first + count; i++) out[i] += shared[n - 1 - i] + 1;
  leave(call, nth);
}

static double processorSeconds() {
  timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return double(time.tv_sec) + double(time.tv_nsec) * 1e-9;
}

/// Workers spin for a moment behind an op and then sleep: a fifth of a second costs all of them together next to nothing.
static bool sleepsBetweenOps() {
  double before = processorSeconds();
  timespec nap{0, 200000000};
  nanosleep(&nap, nullptr);
  return processorSeconds() - before < 0.05;
}

static bool callsAreRight(Pool* pool, Workspace* workspace) {
  constexpr int runs = 60;
  int32_t n = 1 + rand() % 300;
  Call* call = rw_call_new(workspace, &n, 1);
  PooledCall* pooled = rw_pooled_call_new(pool, reinterpret_cast<void*>(op), call);
  std::vector<int> out(n);
  ggml_tensor dst{};
  dst.data = out.data();
  for (int r = 0; r < runs; r++) {
    rw_pooled(&dst, 0, 1, pooled);
    timespec nap{0, 300000};
    if (r % 20 == 7) nanosleep(&nap, nullptr);
  }
  bool right = true;
  for (int i = 0; i < n; i++) right = right && out[i] == runs * ((n - 1 - i) * 3 + 1);
  rw_pooled_call_free(pooled);
  rw_call_free(call);
  return right;
}

int main(int count, char** most) {
  const int last = count > 1 ? atoi(most[1]) : 16;
  for (int round = 0; round < 12; round++)
    for (int threads : {1, 2, 3, 8, last}) {
      Workspace* workspace = rw_workspace_new();
      Pool* pool = rw_pool_new(threads);
      for (int c = 0; c < 3; c++)
        if (!callsAreRight(pool, workspace)) return printf("%d threads: wrong\n", threads), 1;
      if (round == 0 && !sleepsBetweenOps()) return printf("%d threads: awake\n", threads), 1;
      rw_pool_free(pool);
      rw_workspace_free(workspace);
    }
  puts("right");
}
