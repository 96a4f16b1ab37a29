// The machine: runs a grid block by block, the threads of a block as fibers.
//
// Between two barriers the threads run one after the other, in rising, falling or
// shuffled order: a missing barrier shows as a result that depends on the order.
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

struct Dim {
    unsigned x, y, z;
};

enum State { READY, AT_BARRIER, AT_EXCHANGE, DONE };
enum Order { RISING, FALLING, SHUFFLED };

static const int MOST = 1024, WARP = 32;
static const size_t STACK = 64 << 10;

// A fiber is entered once through its context; all later switches are jumps, which
// unlike swapcontext make no system call.
static ucontext_t scheduler, fibers[MOST];
static jmp_buf back, places[MOST];
static bool entered[MOST];
static State state[MOST];
static char* stacks;
static int current, threads;
static void (*entry)(void**);
static void** entry_arguments;
static char slots[MOST][8];
static bool misaligned;

extern "C" {
Dim threadIdx, blockIdx, blockDim, gridDim;

// Kernels are compiled with -fsanitize=alignment, which calls this before an access to
// an address that is no multiple of its size: a fault on a GPU.
void __ubsan_handle_type_mismatch_v1(void*, void*) { misaligned = true; }

void wait_in(State s) {
    state[current] = s;
    if (!_setjmp(places[current])) _longjmp(back, 1);
}

void machine_barrier() { wait_in(AT_BARRIER); }

// Every lane of the warp gives a value and takes that of lane ^ lane_xor, or of
// lane + lane_down (its own beyond the warp's end).
void machine_exchange(void* value, int bytes, int lane_xor, int lane_down) {
    std::memcpy(slots[current], value, bytes);
    wait_in(AT_EXCHANGE);
    int lane = current % WARP, other = lane ^ lane_xor;
    if (lane_down) other = lane + lane_down < WARP ? lane + lane_down : lane;
    other += current - lane;
    if (other < threads) std::memcpy(value, slots[other], bytes);
    wait_in(AT_EXCHANGE);
}
}

static void start() {
    entry(entry_arguments);
    wait_in(DONE);
}

static void resume(int t) {
    if (_setjmp(back)) return;
    if (entered[t]) _longjmp(places[t], 1);
    entered[t] = true;
    setcontext(&fibers[t]);
}

static void set_thread(int t) {
    threadIdx.x = t % blockDim.x;
    threadIdx.y = t / blockDim.x % blockDim.y;
    threadIdx.z = t / (blockDim.x * blockDim.y);
    current = t;
}

static uint32_t seed = 1;
static void arrange(int* order, int n, int how) {
    for (int i = 0; i < n; ++i) order[i] = how == FALLING ? n - 1 - i : i;
    if (how != SHUFFLED) return;
    for (int i = n - 1; i > 0; --i) {
        seed = seed * 1664525u + 1013904223u;
        int j = (seed >> 8) % (i + 1), keep = order[i];
        order[i] = order[j];
        order[j] = keep;
    }
}

static const char* run_block(int how) {
    static int order[MOST];
    for (int t = 0; t < threads; ++t) {
        getcontext(&fibers[t]);
        fibers[t].uc_stack.ss_sp = stacks + t * STACK;
        fibers[t].uc_stack.ss_size = STACK;
        fibers[t].uc_link = &scheduler;
        makecontext(&fibers[t], start, 0);
        state[t] = READY;
        entered[t] = false;
    }
    for (;;) {
        bool moved = false;
        arrange(order, threads, how);
        for (int i = 0; i < threads; ++i) {
            if (state[order[i]] != READY) continue;
            set_thread(order[i]);
            resume(order[i]);
            moved = true;
        }
        int counts[4] = {0, 0, 0, 0};
        for (int t = 0; t < threads; ++t) ++counts[state[t]];
        if (counts[DONE] == threads) return nullptr;
        if (counts[AT_BARRIER] && counts[AT_BARRIER] + counts[DONE] == threads) {
            if (counts[DONE]) return "some threads left before a barrier";
            for (int t = 0; t < threads; ++t) state[t] = READY;
            continue;
        }
        for (int w = 0; w < threads; w += WARP) {
            int end = w + WARP < threads ? w + WARP : threads, there = 0;
            for (int t = w; t < end; ++t) there += state[t] == AT_EXCHANGE;
            if (there != end - w) continue;
            for (int t = w; t < end; ++t) state[t] = READY;
            moved = true;
        }
        if (!moved) return "threads wait for each other for ever";
    }
}

// Returns null, or what went wrong.
extern "C" const char* machine_run(void (*kernel)(void**), void** arguments,
                                   const unsigned* grid, const unsigned* block,
                                   char* shared, size_t shared_bytes, int how) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    if (grid[1] > 65535 || grid[2] > 65535) return "the grid is too large";
    threads = block[0] * block[1] * block[2];
    if (threads < 1 || threads > MOST) return "a block has 1 to 1024 threads";
    if (!stacks)
        stacks = static_cast<char*>(mmap(nullptr, MOST * STACK, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (shared_bytes > 48 << 10) return "more than 48 KiB of shared memory";
    entry = kernel;
    entry_arguments = arguments;
    int blocks = grid[0] * grid[1] * grid[2];
    int* order = static_cast<int*>(std::malloc(blocks * sizeof(int)));
    arrange(order, blocks, how);
    const char* problem = nullptr;
    misaligned = false;
    for (int i = 0; i < blocks && !problem; ++i) {
        int b = order[i];
        blockIdx = {b % grid[0], b / grid[0] % grid[1], b / (grid[0] * grid[1])};
        if (shared_bytes) std::memset(shared, 0xff, shared_bytes);
        problem = run_block(how);
        if (misaligned) problem = "an access is not aligned to its size";
    }
    std::free(order);
    return problem;
}
