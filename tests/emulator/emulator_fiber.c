/* Kernels: blocks one after another, threads of a block as fibers. A fiber runs until it waits at a
 * barrier or a warp operation; those that can go on are resumed in a changing order. */
#include "tests/emulator/emulator.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

enum { THREADS_MAX = 1024, WARP = 32, GUARD_BYTES = 4096 };
enum { STATIC_SHARED_MAX = 32, DYNAMIC_ALIGN = 128 };

/* Of warps. */
typedef enum operation { SYNC, SHUFFLE, VOTE, MMA, LDMATRIX } operation;
static const char *const OPERATIONS[] = {"__syncwarp", "a shuffle", "a vote", "mma.sync",
                                         "ldmatrix"};

typedef enum fiber_state { READY, AT_BARRIER, AT_WARP, ENDED } fiber_state;

typedef struct fiber {
#if defined(__x86_64__)
    void *stack_pointer;
#else
    ucontext_t context;
#endif
    fiber_state state;
    uint3 index;
    int warp, lane;
    operation in; /* it waits in that, with this mask */
    unsigned int mask;
    uint32_t exchanges;
} fiber;

typedef struct warp {
    uint64_t given[2][WARP]; /* by parity of the lanes' count of exchanges */
    unsigned int arrived, live;
    uint32_t epoch;
} warp;

static fiber fibers[THREADS_MAX];
static warp warps[THREADS_MAX / WARP];
static fiber *now;
static char *stacks;
char *emu_stack;
static int threads, live, arrived;
static uint32_t block_epoch;
static uint3 block_index;
static const emu_kernel *kernel;
static uint64_t random_state;

static char *shared_memory;
static struct {
    const char *file;
    int line;
    size_t bytes, offset;
} statics[STATIC_SHARED_MAX];
static int static_count;
static size_t static_used;

#if defined(__x86_64__)
/* Saves what the System V ABI lets a function expect to find unchanged, and changes stacks. */
void emu_switch(void **from, void *to);
__asm__(".text\n.globl emu_switch\n.type emu_switch,@function\nemu_switch:\n"
        "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
        "movq %rsp, (%rdi)\nmovq %rsi, %rsp\n"
        "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
        ".size emu_switch,.-emu_switch\n");
static void *scheduler;
static void to_scheduler(void) {
    emu_switch(&now->stack_pointer, scheduler);
}
static void to_fiber(fiber *f) {
    emu_switch(&scheduler, f->stack_pointer);
}
#else
static ucontext_t scheduler;
static void to_scheduler(void) {
    swapcontext(&now->context, &scheduler);
}
static void to_fiber(fiber *f) {
    swapcontext(&scheduler, &f->context);
}
#endif

static char *stack_of(int thread) {
    return stacks + (size_t)thread * (EMU_STACK_BYTES + GUARD_BYTES) + GUARD_BYTES;
}

static void start(void) {
    if (stacks) {
        return;
    }
    const size_t bytes = (size_t)THREADS_MAX * (EMU_STACK_BYTES + GUARD_BYTES);
    stacks = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                  -1, 0);
    shared_memory =
        mmap(NULL, EMU_SHARED_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stacks == MAP_FAILED || shared_memory == MAP_FAILED) {
        emu_report("no memory for the stacks of a block");
    }
    for (int t = 0; t < THREADS_MAX; t++) {
        mprotect(stack_of(t) - GUARD_BYTES, GUARD_BYTES, PROT_NONE);
    }
    const char *seed = getenv("LOCKSTEP_EMULATOR_SEED");
    random_state = seed ? strtoull(seed, NULL, 10) : 1;
}

static uint32_t draw(uint32_t below) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((random_state >> 33) % below);
}

/* The last to come lets the others go. */
static void check_barrier(void) {
    if (arrived == 0 || arrived < live) {
        return;
    }
    for (int t = 0; t < threads; t++) {
        if (fibers[t].state == AT_BARRIER) {
            fibers[t].state = READY;
        }
    }
    arrived = 0;
    block_epoch++;
}

/* Who of a lane's warp waits in the operation that it waits in, with the same mask. */
static unsigned int partners(int w, int lane) {
    const fiber *f = &fibers[w * WARP + lane];
    unsigned int alike = 0;
    for (int other = 0; other < WARP; other++) {
        const fiber *with = &fibers[w * WARP + other];
        alike |= (unsigned int)(with->in == f->in && with->mask == f->mask) << other;
    }
    return alike & warps[w].arrived;
}

/* Operations of which all lanes of the mask have come, but those that have ended, are over. */
static void check_warp(int w) {
    warp *p = &warps[w];
    for (unsigned int left = p->arrived; left != 0;) {
        const int first = __builtin_ctz(left);
        const fiber *f = &fibers[w * WARP + first];
        const unsigned int alike = partners(w, first), wanted = f->mask & p->live;
        left &= ~alike;
        if ((alike & wanted) != wanted) {
            continue;
        }
        if (f->in >= MMA && p->live != 0xffffffffu) {
            emu_report("kernel %s: %s in a warp of which lanes have ended", kernel->name,
                       OPERATIONS[f->in]);
        }
        p->epoch += f->in == SYNC && wanted == p->live;
        p->arrived &= ~wanted;
        for (unsigned int over = wanted; over != 0; over &= over - 1) {
            fibers[w * WARP + __builtin_ctz(over)].state = READY;
        }
    }
}

/* cp.async: of each thread. */
enum { COPIES_MAX = 256 };
static struct {
    struct {
        void *to;
        uint32_t bytes[4];
        int group;
    } copy[COPIES_MAX];
    int first, count; /* a ring */
    int groups;       /* that are complete */
} copies[THREADS_MAX];

static bool copies_under_way(void) {
    return copies[now->warp * WARP + now->lane].count > 0;
}

static void fiber_main(void) {
    kernel->call(kernel->closure);
    fiber *f = now;
    if (copies_under_way()) {
        emu_report("kernel %s: a thread ends without having waited for its copies", kernel->name);
    }
    f->state = ENDED;
    live--;
    warps[f->warp].live &= ~(1u << f->lane);
    check_barrier();
    check_warp(f->warp);
    to_scheduler();
    abort(); /* an ended fiber is not resumed */
}

static void prepare(int t) {
    fiber *f = &fibers[t];
    const dim3 size = kernel->block;
    const unsigned int i = (unsigned int)t;
    *f = (fiber){.state = READY, .warp = t / WARP, .lane = t % WARP};
    f->index = (uint3){i % size.x, i / size.x % size.y, i / size.x / size.y};
#if defined(__x86_64__)
    void **top = (void **)(void *)(stack_of(t) + EMU_STACK_BYTES);
    *--top = NULL; /* no return address: fiber_main begins with the stack as after a call */
    *--top = (void *)fiber_main;
    top -= 6;
    memset(top, 0, 6 * sizeof *top);
    f->stack_pointer = top;
#else
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = stack_of(t);
    f->context.uc_stack.ss_size = EMU_STACK_BYTES;
    f->context.uc_link = NULL;
    makecontext(&f->context, fiber_main, 0);
#endif
}

/* Of a lane and one of its mask that is in another operation, where there are such. */
static void report_unlike(int w, int lane) {
    const fiber *f = &fibers[w * WARP + lane];
    const unsigned int unlike = f->mask & warps[w].arrived & ~partners(w, lane);
    if (unlike != 0) {
        const int other = __builtin_ctz(unlike);
        const fiber *with = &fibers[w * WARP + other];
        emu_report("kernel %s: lane %d of a warp calls %s with mask %08x, lane %d of that mask %s "
                   "with mask %08x",
                   kernel->name, lane, OPERATIONS[f->in], f->mask, other, OPERATIONS[with->in],
                   with->mask);
    }
}

static void report_deadlock(void) {
    for (int t = 0; t < threads; t++) {
        if (fibers[t].state == AT_WARP) {
            report_unlike(t / WARP, t % WARP);
        }
    }
    int at_barrier = 0, at_warp = 0, example = 0;
    for (int t = 0; t < threads; t++) {
        at_barrier += fibers[t].state == AT_BARRIER;
        at_warp += fibers[t].state == AT_WARP;
        example = fibers[t].state == AT_WARP ? t : example;
    }
    emu_report("deadlock: kernel %s, block (%u,%u,%u): %d threads wait at __syncthreads, %d at a "
               "warp operation (thread %d with mask %08x), %d have ended",
               kernel->name, block_index.x, block_index.y, block_index.z, at_barrier, at_warp,
               example, fibers[example].mask, threads - live);
}

static void run_block(void) {
    for (int t = 0; t < threads; t++) {
        prepare(t);
    }
    for (int w = 0; w * WARP < threads; w++) {
        const int lanes = threads - w * WARP < WARP ? threads - w * WARP : WARP;
        warps[w] = (warp){.live = lanes == WARP ? 0xffffffffu : (1u << lanes) - 1u, .epoch = 1};
    }
    live = threads;
    arrived = 0;
    block_epoch++;
    static_count = 0;
    static_used = 0;
    while (live > 0) {
        /* Any start, and steps of a prime that divides no number of threads. */
        static const uint32_t primes[] = {1031, 1033, 1039, 1543, 2053, 3079};
        const uint32_t step = primes[draw(6)];
        uint32_t at = draw((uint32_t)threads);
        bool moved = false;
        for (int i = 0; i < threads; i++) {
            fiber *f = &fibers[at];
            at = (at + step) % (uint32_t)threads;
            if (f->state == READY) {
                moved = true;
                now = f;
                emu_stack = stack_of((int)(f - fibers));
                to_fiber(f);
                now = NULL;
                emu_stack = NULL;
            }
        }
        if (!moved) {
            report_deadlock();
        }
    }
}

void emu_kernel_run(const emu_kernel *k) {
    start();
    const dim3 b = k->block, g = k->grid;
    threads = (int)(b.x * b.y * b.z);
    const size_t poisoned = k->shared_bytes + 48 * 1024;
    const uint64_t blocks = (uint64_t)g.x * g.y * g.z;
    const uint64_t rotate = blocks > 1 ? draw((uint32_t)blocks) : 0;
    kernel = k;
    for (uint64_t i = 0; i < blocks; i++) {
        const uint64_t n = (i + rotate) % blocks;
        block_index = (uint3){(unsigned int)(n % g.x), (unsigned int)(n / g.x % g.y),
                              (unsigned int)(n / g.x / g.y)};
        if (i == 0 || static_count > 0 || k->shared_bytes > 0) {
            memset(shared_memory, 0xff, poisoned < EMU_SHARED_BYTES ? poisoned : EMU_SHARED_BYTES);
        }
        run_block();
    }
    kernel = NULL;
}

emu_thread_place emu_here(void) {
    return (emu_thread_place){.thread = now->warp * WARP + now->lane,
                              .warp = now->warp,
                              .block_epoch = block_epoch,
                              .warp_epoch = warps[now->warp].epoch};
}

void emu_describe_here(char *text, size_t size) {
    snprintf(text, size, "block (%u,%u,%u) thread (%u,%u,%u)", block_index.x, block_index.y,
             block_index.z, now->index.x, now->index.y, now->index.z);
}

bool emu_is_argument(const void *address) {
    const char *base = kernel->closure;
    return (const char *)address >= base && (const char *)address < base + kernel->closure_bytes;
}

int64_t emu_shared_offset(const void *address) {
    const char *a = address;
    return a >= shared_memory && a < shared_memory + EMU_SHARED_BYTES ? a - shared_memory : -1;
}

int64_t emu_shared_used(void) {
    return (int64_t)(kernel->shared_bytes + static_used);
}

uint3 emu_thread_index(void) {
    return now->index;
}
uint3 emu_block_index(void) {
    return block_index;
}
uint3 emu_block_size(void) {
    return (uint3){kernel->block.x, kernel->block.y, kernel->block.z};
}
uint3 emu_grid_size(void) {
    return (uint3){kernel->grid.x, kernel->grid.y, kernel->grid.z};
}
int emu_lane(void) {
    return now->lane;
}

void emu_syncthreads(void) {
    now->state = AT_BARRIER;
    arrived++;
    check_barrier();
    if (now->state != READY) {
        to_scheduler();
    }
}

static void warp_wait(unsigned int mask, operation in) {
    if (!(mask >> now->lane & 1)) {
        char who[96];
        emu_describe_here(who, sizeof who);
        emu_report("kernel %s, %s: calls a warp operation with mask %08x, which leaves it out",
                   kernel->name, who, mask);
    }
    now->state = AT_WARP;
    now->mask = mask;
    now->in = in;
    warp *w = &warps[now->warp];
    w->arrived |= 1u << now->lane;
    if ((mask & w->live & ~w->arrived) == 0) { /* else not over: a lane of the mask is to come */
        check_warp(now->warp);
    }
    if (now->state != READY) {
        to_scheduler();
    }
}

void emu_syncwarp(unsigned int mask) {
    warp_wait(mask, SYNC);
}

uint64_t emu_warp_exchange(unsigned int mask, uint64_t bits, int from) {
    uint64_t *given = warps[now->warp].given[now->exchanges++ & 1];
    given[now->lane] = bits;
    warp_wait(mask, from < 0 ? VOTE : SHUFFLE);
    if (from < 0) {
        uint64_t ballot = 0;
        for (int lane = 0; lane < WARP; lane++) {
            ballot |= (uint64_t)((mask >> lane & 1) && given[lane]) << lane;
        }
        return ballot;
    }
    if (!(mask >> from & 1)) {
        emu_report("kernel %s: a shuffle with mask %08x reads lane %d, which is not in it",
                   kernel->name, mask, from);
    }
    return given[from];
}

/* Lanes hold, with g = lane / 4 and t = lane % 4: A rows g and g + 8, columns 2t, 2t+1 and the same
 * + 8; B rows 2t, 2t+1 and the same + 8, column g; C rows g and g + 8, columns 2t, 2t+1. */
void emu_mma_bf16_16x8x16(float *c, const uint32_t *a, const uint32_t *b) {
    static struct { uint32_t a[4], b[2]; } registers[THREADS_MAX / WARP][2][WARP];
    const int parity = now->exchanges++ & 1;
    const int g = now->lane / 4, t = now->lane % 4;
    memcpy(registers[now->warp][parity][now->lane].a, a, 4 * sizeof *a);
    memcpy(registers[now->warp][parity][now->lane].b, b, 2 * sizeof *b);
    warp_wait(0xffffffffu, MMA);
    for (int i = 0; i < 4; i++) {
        const int row = g + (i / 2) * 8, column = 2 * t + i % 2;
        float sum = c[i];
        for (int k = 0; k < 16; k++) {
            const uint32_t pair_a =
                registers[now->warp][parity][row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2];
            const uint32_t pair_b = registers[now->warp][parity][column * 4 + k % 8 / 2].b[k / 8];
            const uint32_t bits_a = (k % 2 ? pair_a >> 16 : pair_a) << 16;
            const uint32_t bits_b = (k % 2 ? pair_b >> 16 : pair_b) << 16;
            float x, y;
            memcpy(&x, &bits_a, sizeof x);
            memcpy(&y, &bits_b, sizeof y);
            sum += x * y;
        }
        c[i] = sum;
    }
}

void emu_check_aligned(const char *what, const void *address, size_t bytes) {
    if ((uintptr_t)address % bytes != 0) {
        emu_report("kernel %s: %s at %p, which is not aligned to %zu bytes", kernel->name, what,
                   address, bytes);
    }
}

/* Matrix m's row r is that of lane 8 m + r. A lane gets of each row lane / 4, columns 2 (lane % 4)
 * and the next; transposed: of rows 2 (lane % 4) and the next, column lane / 4. */
void emu_share_matrices(uint32_t *r, const uint32_t *bytes, int transposed) {
    static uint16_t given[THREADS_MAX / WARP][2][WARP][8];
    uint16_t(*rows)[8] = given[now->warp][now->exchanges++ & 1];
    const int g = now->lane / 4, t = now->lane % 4;
    memcpy(rows[now->lane], bytes, sizeof rows[0]);
    warp_wait(0xffffffffu, LDMATRIX);
    for (int m = 0; m < 4; m++) {
        const uint16_t low = transposed ? rows[8 * m + 2 * t][g] : rows[8 * m + g][2 * t];
        const uint16_t high = transposed ? rows[8 * m + 2 * t + 1][g] : rows[8 * m + g][2 * t + 1];
        r[m] = (uint32_t)low | (uint32_t)high << 16;
    }
}

void emu_copy_later(void *to, const uint32_t *bytes) {
    const int thread = now->warp * WARP + now->lane;
    emu_access_pending(to, thread + 1);
    if (copies[thread].count == COPIES_MAX) {
        emu_report("kernel %s: a thread has more than %d copies under way", kernel->name,
                   COPIES_MAX);
    }
    const int i = (copies[thread].first + copies[thread].count++) % COPIES_MAX;
    copies[thread].copy[i].to = to;
    copies[thread].copy[i].group = copies[thread].groups;
    memcpy(copies[thread].copy[i].bytes, bytes, 4 * sizeof *bytes);
}

void emu_copy_commit(void) {
    copies[now->warp * WARP + now->lane].groups++;
}

int emu_copy_next(int but, void **to, uint32_t *bytes) {
    const int thread = now->warp * WARP + now->lane, i = copies[thread].first;
    if (copies[thread].count == 0 ||
        (but >= 0 && copies[thread].copy[i].group >= copies[thread].groups - but)) {
        return 0;
    }
    copies[thread].first = (i + 1) % COPIES_MAX;
    copies[thread].count--;
    *to = copies[thread].copy[i].to;
    emu_access_pending(*to, 0);
    memcpy(bytes, copies[thread].copy[i].bytes, 4 * sizeof *bytes);
    return 1;
}

/* One piece for each declaration of a kernel; a declaration is told by its place. */
void *emu_shared(const char *file, int line, size_t bytes) {
    for (int i = 0; i < static_count; i++) {
        if (statics[i].line == line && statics[i].bytes == bytes &&
            strcmp(statics[i].file, file) == 0) {
            return shared_memory + statics[i].offset;
        }
    }
    const size_t offset = kernel->shared_bytes + static_used;
    if (static_count == STATIC_SHARED_MAX || offset + bytes > EMU_SHARED_OPTIN_BYTES ||
        static_used + bytes > 48 * 1024) {
        emu_report("kernel %s has too much shared memory (%zu bytes and %zu more, of %d)",
                   kernel->name, offset, bytes, EMU_SHARED_OPTIN_BYTES);
    }
    statics[static_count].file = file;
    statics[static_count].line = line;
    statics[static_count].bytes = bytes;
    statics[static_count++].offset = offset;
    static_used += (bytes + 15) / 16 * 16;
    return shared_memory + offset;
}

void *emu_shared_dynamic(void) {
    return shared_memory;
}
