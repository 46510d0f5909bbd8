// The plain C border of the library: which instruction sets run here, the address of each op, and the
// memory behind the ops. Compiled for the oldest machine of the platform.
#include <sched.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "kernels.h"
#include "packed.h"

namespace {

const Kernels* const everyKernels[] = {
#if defined(__x86_64__)
    &kernelsAmx,
    &kernelsAvx512,
    &kernelsAvxVnni,
    &kernelsAvx2,
#elif defined(__aarch64__)
    &kernelsNeonDot,
    &kernelsNeon,
#endif
    &kernelsPortable,
};

#if defined(__x86_64__)

/// AVX-VNNI, which compilers learnt to ask for later than to use.
bool sumsBytes() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & 1u << 4) != 0;
}

/// Asks the kernel for the tile registers, which a process does not have from the start.
bool tilesAllowed() {
#if defined(__linux__)
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  constexpr unsigned bf16 = 1u << 22, tile = 1u << 24, int8 = 1u << 25;
  if ((edx & (bf16 | tile | int8)) != (bf16 | tile | int8)) return false;
  constexpr long requestPermission = 0x1023, tileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, requestPermission, tileData) == 0;
#else
  return false;
#endif
}

#elif defined(__aarch64__)

bool multipliesBytes() {
#if defined(__linux__)
  return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#elif defined(__APPLE__)
  return true;  // all of Apple's processors for computers
#else
  return false;
#endif
}

#endif

bool runsHere(const Kernels* kernels) {
  if (!kernels->packRows) return false;  // left out of this build
#if defined(__x86_64__)
  __builtin_cpu_init();
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512vnni");
  if (kernels == &kernelsAvx2) return avx2;
  if (kernels == &kernelsAvxVnni) return avx2 && kernelsAvx2.packRows && sumsBytes();
  if (kernels == &kernelsAvx512 || kernels == &kernelsAmxEmulated) return avx512;
  static const bool tiles = avx512 && tilesAllowed();
  if (kernels == &kernelsAmx) return tiles && kernelsAvx512.packRows;
#elif defined(__aarch64__)
  if (kernels == &kernelsNeonDot) return multipliesBytes();
  if (kernels == &kernelsNeon) return !multipliesBytes();
#endif
  return true;
}

struct ThreadScratch {
  char* memory = nullptr;
  size_t bytes = 0;
  ~ThreadScratch() { free(memory); }
};

constexpr size_t largePage = size_t(1) << 21;

/// Asks for pages of 2 MiB under memory that was not used yet. A wish: where the system has none, small ones do.
void askForLargePages(void* memory, size_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t page = largePage;
  uintptr_t from = reinterpret_cast<uintptr_t>(memory), first = (from + page - 1) / page * page;
  uintptr_t end = (from + bytes) / page * page;
  if (first < end) madvise(reinterpret_cast<void*>(first), end - first, MADV_HUGEPAGE);
#endif
}

/// `large`: whole pages of 2 MiB. Tiles read 16 rows of activations at once, each from another page of 4 KiB else.
char* grow(char*& memory, size_t& bytes, size_t wanted, bool large = false) {
  if (wanted > bytes) {
    free(memory);
    const size_t unit = large ? largePage : 64;
    bytes = (wanted + wanted / 4 + unit - 1) / unit * unit;
    memory = static_cast<char*>(aligned_alloc(unit, bytes));
    // No result could be right any more, and no caller above could be told from inside a ggml op.
    if (!memory) abort();
    askForLargePages(memory, bytes);
  }
  return memory;
}

const Kernels* find(const char* instructionSet) {
  for (const Kernels* kernels : everyKernels)
    if (strcmp(kernels->name, instructionSet) == 0 && runsHere(kernels)) return kernels;
#if defined(__x86_64__)
  if (strcmp(kernelsAmxEmulated.name, instructionSet) == 0 && runsHere(&kernelsAmxEmulated)) return &kernelsAmxEmulated;
#endif
  return nullptr;
}

}  // namespace

extern "C" {

#if defined(__x86_64__)
extern bool rw_pairs_here;
bool rw_pairs_here = (__builtin_cpu_init(), __builtin_cpu_supports("avx512bf16"));

/// From now on ops go the way of CPUs without AVX-512 BF16; for tests.
void rw_forget_pairs() { rw_pairs_here = false; }
bool rw_multiplies_pairs() { return rw_pairs_here; }
#else
bool rw_multiplies_pairs() { return false; }
#endif

char* rw_workspace_reserve(Workspace* workspace, size_t bytes) {
  return grow(workspace->memory, workspace->bytes, bytes, true);
}

char* rw_thread_scratch(size_t bytes) {
  static thread_local ThreadScratch scratch;
  return grow(scratch.memory, scratch.bytes, bytes);
}

void rw_yield() { sched_yield(); }

/// For memory that ops read whole, before anybody writes it: with pages of 4 KiB finding them costs as much as reading.
void rw_large_pages(void* memory, int64_t bytes) { askForLargePages(memory, size_t(bytes)); }

/// Name of the i-th instruction set that runs here, best first; null behind the last.
const char* rw_instruction_set(int index) {
  for (const Kernels* kernels : everyKernels)
    if (runsHere(kernels) && index-- == 0) return kernels->name;
  return nullptr;
}

/// Address of an op for ggml_custom_4d; null when there is no such set or op.
void* rw_op(const char* instructionSet, const char* name) {
  const Kernels* kernels = find(instructionSet);
  return kernels ? reinterpret_cast<void*>(opNamed(*kernels, name)) : nullptr;
}

/// Bytes of a packed weight; `outputs` counts each of gate and up when they interleave.
int64_t rw_packed_bytes(int format, int64_t outputs, int64_t inputs, int interleaved) {
  size_t panels = size_t((outputs + panelOutputs - 1) / panelOutputs * (interleaved ? 2 : 1));
  // Whole cache lines, so that the next tensor in a buffer begins at one too.
  return int64_t(alignUp(packedBytes(format, panels, wholeGroups(inputs))));
}

void rw_pack_rows(const char* instructionSet, int format, char* packed, int64_t inputs, int64_t firstRow, int64_t rows,
                  int type, const char* source, int64_t sourceRowBytes, int interleave) {
  find(instructionSet)->packRows(format, packed, inputs, firstRow, rows, type, source, sourceRowBytes, interleave);
}

Workspace* rw_workspace_new() { return new Workspace{nullptr, 0}; }

void rw_workspace_free(Workspace* workspace) {
  free(workspace->memory);
  delete workspace;
}

/// The userdata of ops that run one after the other in one workspace with the same parameters.
Call* rw_call_new(Workspace* workspace, const int32_t* params, int count) {
  Call* call = new Call{};
  call->workspace = workspace;
  for (int i = 0; i < count && i < 16; i++) call->params[i] = params[i];
  return call;
}

void rw_call_free(Call* call) { delete call; }

/// Runs an op as ggml would, on threads of its own; for tests.
void rw_run(void* op, ggml_tensor* dst, int threads, Call* call) {
  CustomOp run = reinterpret_cast<CustomOp>(op);
  std::vector<std::thread> others;
  for (int i = 1; i < threads; i++) others.emplace_back(run, dst, i, threads, call);
  run(dst, 0, threads, call);
  for (std::thread& other : others) other.join();
}

/// Offsets that this library was compiled with, in the order of tensor.h, for the test of the layout.
int rw_tensor_offsets(int64_t* offsets) {
  const int64_t all[] = {offsetof(ggml_tensor, ne),  offsetof(ggml_tensor, nb),   offsetof(ggml_tensor, op),
                         offsetof(ggml_tensor, src), offsetof(ggml_tensor, data), offsetof(ggml_tensor, name),
                         sizeof(ggml_tensor)};
  memcpy(offsets, all, sizeof all);
  return int(sizeof all / sizeof all[0]);
}
}
