/* The emulator of AMX, or the processor's own, against the manual's text: addresses,
 * configurations, arithmetic to the bit, state by thread; and what must be refused. */
#include "runtime/base/dtype.h"
#include "runtime/base/rng.h"
#include "tests/amx/emulator.h"
#include "tests/test.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} config;

#define LOAD_CONFIG(c)  __asm__ volatile("ldtilecfg %0" ::"m"(c) : "memory")
#define STORE_CONFIG(c) __asm__ volatile("sttilecfg %0" : "=m"(c)::"memory")
#define RELEASE()       __asm__ volatile("tilerelease" ::: "memory")
#define ZERO(t)         __asm__ volatile("tilezero %%tmm" #t ::: "memory")
#define LOAD(t, p, s)                                                                              \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #t ::"r"(p), "r"((long)(s)) : "memory")
#define LOAD_ONCE(t, p, s)                                                                         \
    __asm__ volatile("tileloaddt1 (%0,%1,1), %%tmm" #t ::"r"(p), "r"((long)(s)) : "memory")
#define STORE(t, p, s)                                                                             \
    __asm__ volatile("tilestored %%tmm" #t ", (%0,%1,1)" ::"r"(p), "r"((long)(s)) : "memory")
#define PRODUCT(c, a, b)                                                                           \
    __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #c ::: "memory")

static const config whole = {.palette = 1,
                             .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
                             .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
static uint64_t draws;

static uint8_t memory[1 << 16], stored[1024];

static void fill_memory(void) {
    for (size_t i = 0; i < sizeof memory; i++) {
        memory[i] = (uint8_t)(ls_rng_uniform(3, 1, draws++) * 256.0);
    }
}

static void test_config(void) {
    config found, zero = {0};
    config odd = {.palette = 1, .row_bytes = {4, 0, 60, 8}, .rows = {16, 0, 1, 7}};
    LOAD_CONFIG(odd);
    STORE_CONFIG(found);
    CHECK(memcmp(&found, &odd, sizeof found) == 0);
    LOAD_CONFIG(zero); /* palette 0: as if released */
    STORE_CONFIG(found);
    CHECK(memcmp(&found, &zero, sizeof found) == 0);
    LOAD_CONFIG(whole);
    RELEASE();
    STORE_CONFIG(found);
    CHECK(memcmp(&found, &zero, sizeof found) == 0);
    config many[3] = {whole, odd, whole};
    const config *base = many;
    long index = (long)sizeof *base / 8;
    __asm__ volatile("ldtilecfg (%0,%1,8)" ::"r"(base), "r"(index) : "memory");
    __asm__ volatile("sttilecfg -64(%0)" ::"r"(&many[1]) : "memory");
    CHECK(memcmp(&many[0], &odd, sizeof odd) == 0);
}

/* `stored` holds the tile whose rows of `bytes` bytes were read from `from` with that stride. */
static void check_stored(const uint8_t *from, long stride, int rows, int bytes, const char *what) {
    int wrong = 0;
    for (int row = 0; row < 16; row++) {
        for (int i = 0; i < 64; i++) {
            const bool inside = row < rows && i < bytes;
            wrong += stored[row * 64 + i] != (inside ? from[row * stride + i] : 0xee);
        }
    }
    if (wrong) {
        fprintf(stderr, "%s: %d of 1024 bytes are wrong\n", what, wrong);
    }
    CHECK_INT(wrong, 0);
}

/* A tile of 11 rows of 52 bytes through one form of address, out through the plain one. */
#define CHECK_FORM(text, from, stride, ...)                                                        \
    do {                                                                                           \
        ZERO(2);                                                                                   \
        __asm__ volatile(text ", %%tmm2" ::__VA_ARGS__ : "r9", "r12", "r13", "r15", "memory");     \
        memset(stored, 0xee, sizeof stored);                                                       \
        STORE(2, stored, 64);                                                                      \
        check_stored(from, stride, 11, 52, text);                                                  \
    } while (0)

static void test_addresses(void) {
    const config c = {.palette = 1, .row_bytes = {0, 0, 52}, .rows = {0, 0, 11}};
    LOAD_CONFIG(c);
    fill_memory();
    const uint8_t *p = memory + 1000;
    long s = 72;
    CHECK_FORM("tileloadd (%0,%1,1)", p, 72, "r"(p), "r"(s));
    CHECK_FORM("tileloadd (%0,%1,8)", p, 576, "r"(p), "r"(s));
    CHECK_FORM("tileloadd (%0)", p, 0, "r"(p)); /* no index: every row is the same */
    CHECK_FORM("tileloadd 17(%0,%1,2)", p + 17, 144, "r"(p), "r"(s));
    CHECK_FORM("tileloadd -1000(%0,%1,4)", p - 1000, 288, "r"(p), "r"(s));
    CHECK_FORM("mov %0, %%r12; mov %1, %%r9; tileloadd (%%r12,%%r9,2)", p, 144, "r"(p), "r"(s));
    CHECK_FORM("mov %0, %%r13; mov %1, %%r15; tileloadd 0x300(%%r13,%%r15,1)", p + 0x300, -36,
               "r"(p), "r"(-36l));
    /* Through the stack pointer, below which the signal's frame must have room. */
    static uint8_t stack[1 << 17];
    uint8_t *top = stack + sizeof stack - 2048;
    memcpy(top, memory, 2048);
    __asm__ volatile("mov %%rsp, %%rbx\n\tmov %0, %%rsp\n\ttileloadd 8(%%rsp,%1,1), %%tmm2\n\t"
                     "mov %%rbx, %%rsp" ::"r"(top + 512),
                     "r"(s)
                     : "rbx", "memory");
    memset(stored, 0xee, sizeof stored);
    STORE(2, stored, 64);
    check_stored(memory + 520, 72, 11, 52, "8(rsp,s,1)");
    memset(stored, 0xee, sizeof stored); /* out through another form */
    LOAD_ONCE(2, p, s);
    __asm__ volatile("tilestored %%tmm2, -256(%0,%1,8)" ::"r"(stored + 256), "r"(8l) : "memory");
    check_stored(p, 72, 11, 52, "-256(r,8,8)");
    ZERO(2);
    memset(stored, 0xee, sizeof stored);
    STORE(2, stored, 64);
    static const uint8_t zeros[64];
    check_stored(zeros, 0, 11, 52, "tilezero");
    RELEASE();
}

/* Numbers that want care: subnormal, huge, of mixed signs and sizes. */
static uint16_t draw_bf16(int kind) {
    const double u = ls_rng_uniform(3, 2, draws++);
    const uint16_t sign = ls_rng_uniform(3, 3, draws++) < 0.5 ? 0x8000 : 0;
    if (kind == 1) { /* around the least normal number once multiplied */
        return sign | (uint16_t)((60 + (int)(u * 8)) << 7) | (uint16_t)(u * 1e4) % 128;
    }
    if (kind == 2) { /* subnormal operands among others */
        return sign | (uint16_t)(u * 300);
    }
    if (kind == 3) {
        return sign | (uint16_t)((0x7f + (int)(u * 24) - 12) << 7) | (uint16_t)(u * 1e6) % 128;
    }
    return ls_bf16_from_f32((float)ls_rng_normal(3, 4, draws++));
}

static float flushed(float x) {
    return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x;
}

/* a b + c in fp32 with one rounding: exact in double but for the last sum, whose error decides a
 * tie (Boldo & Melquiond: round to odd, then to nearest). */
static float multiply_add(float a, float b, float c) {
    const double product = (double)a * b, sum = product + c;
    const double back = sum - product, error = (product - (sum - back)) + (c - back);
    double odd = sum;
    uint64_t bits;
    memcpy(&bits, &odd, sizeof bits);
    if (error != 0 && !(bits & 1)) {
        odd = nextafter(odd, error > 0 ? INFINITY : -INFINITY);
    }
    return flushed((float)odd);
}

static float as_float(uint16_t bits) {
    const uint32_t word = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return flushed(value);
}

static void check_product(int kind, int rows, int cols, int words) {
    config c = {.palette = 1};
    const int t[3] = {5, 0, 7}; /* C, A, B */
    c.rows[t[0]] = c.rows[t[1]] = (uint8_t)rows;
    c.rows[t[2]] = (uint8_t)words;
    c.row_bytes[t[0]] = c.row_bytes[t[2]] = (uint16_t)(4 * cols);
    c.row_bytes[t[1]] = (uint16_t)(4 * words);
    static uint16_t a[16][32], b[16][32];
    static float sum[16][16], expected[16][16];
    for (int i = 0; i < 16 * 32; i++) {
        a[i / 32][i % 32] = draw_bf16(kind);
        b[i / 32][i % 32] = draw_bf16(kind);
    }
    for (int i = 0; i < 16; i++) {
        for (int j = 0; j < 16; j++) {
            const float scale = kind == 1 ? 0x1p-126f : kind == 2 ? 0x1p-127f : 1.0f;
            sum[i][j] = scale * (float)ls_rng_normal(3, 5, draws++);
            float even = 0.0f, odd = 0.0f;
            for (int k = 0; k < words; k++) {
                even = multiply_add(as_float(a[i][2 * k]), as_float(b[k][2 * j]), even);
                odd = multiply_add(as_float(a[i][2 * k + 1]), as_float(b[k][2 * j + 1]), odd);
            }
            const float both = flushed(even + odd);
            const bool inside = i < rows && j < cols;
            expected[i][j] = inside ? flushed(flushed(sum[i][j]) + both) : -1.0f;
        }
    }
    LOAD_CONFIG(c);
    LOAD(5, sum, 64);
    LOAD(0, a, 64);
    LOAD(7, b, 64);
    PRODUCT(5, 0, 7);
    for (int i = 0; i < 256; i++) {
        sum[i / 16][i % 16] = -1.0f;
    }
    STORE(5, sum, 64);
    RELEASE();
    int differ = 0;
    for (int i = 0; i < 256; i++) {
        differ += memcmp(&sum[i / 16][i % 16], &expected[i / 16][i % 16], sizeof(float)) != 0;
    }
    if (differ) {
        fprintf(stderr, "kind %d, %d x %d x %d: %d elements differ\n", kind, rows, cols, words,
                differ);
    }
    CHECK_INT(differ, 0);
}

static void test_products(void) {
    for (int kind = 0; kind < 4; kind++) {
        check_product(kind, 16, 16, 16);
        check_product(kind, 1, 1, 1);
        check_product(kind, 5, 16, 16);
        check_product(kind, 16, 3, 9);
        check_product(kind, 7, 11, 2);
    }
}

/* Rounding and order, in numbers chosen by hand. */
static void test_rounding(void) {
    static const struct {
        float a[4], b[4], c, expected;
    } rows[] = {
        {{1.0f}, {1.0f}, 0x1p24f, 0x1p24f},                 /* a tie goes to the even one: down */
        {{1.0f}, {1.0f}, 0x1p24f + 2, 0x1p24f + 4},         /* up */
        {{1.0f, 1.0f}, {1.0f, 1.0f}, 0x1p24f, 0x1p24f + 2}, /* the pair is summed first */
        {{0x1p24f, 0, 1.0f}, {1.0f, 0, 1.0f}, 0, 0x1p24f},  /* along K a sum is rounded each time */
        {{0x1p24f, 1.0f, -0x1p24f}, {1.0f, 1.0f, 1.0f}, 0, 1.0f}, /* even and odd are apart */
        {{0x1p-70f}, {0x1p-57f}, 0, 0},                           /* a subnormal product */
        {{0x1p-63f, 0, 0x1p-70f}, {0x1p-63f, 0, 0x1p-57f}, 0, 0x1.8p-126f}, /* not inside a sum */
        {{0x1p-127f}, {0x1p127f}, 1.0f, 1.0f},  /* a subnormal operand */
        {{1.0f}, {0x1p-126f}, -0x1.8p-126f, 0}, /* a subnormal sum */
        {{-0x1p100f}, {0x1p100f}, 1.0f, -INFINITY},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const config c = {.palette = 1, .row_bytes = {4, 8, 4}, .rows = {1, 1, 2}};
        uint16_t a[4], b[4];
        for (int k = 0; k < 4; k++) {
            uint32_t word;
            memcpy(&word, &rows[i].a[k], sizeof word);
            a[k] = (uint16_t)(word >> 16);
            memcpy(&word, &rows[i].b[k], sizeof word);
            b[k] = (uint16_t)(word >> 16);
        }
        float sum = rows[i].c;
        LOAD_CONFIG(c);
        LOAD(0, &sum, 64);
        LOAD(1, a, 64);
        LOAD(2, b, 4);
        PRODUCT(0, 1, 2);
        STORE(0, &sum, 64);
        RELEASE();
        if (sum != rows[i].expected) {
            fprintf(stderr, "row %zu\n", i);
        }
        CHECK(sum == rows[i].expected);
    }
}

static void *other_thread(void *result) {
    config found;
    STORE_CONFIG(found); /* a thread begins with nothing */
    int wrong = found.palette != 0;
    LOAD_CONFIG(whole);
    LOAD(1, memory + 2048, 64);
    static uint8_t out[1024];
    STORE(1, out, 64);
    wrong += memcmp(out, memory + 2048, sizeof out) != 0;
    *(int *)result = wrong;
    return NULL;
}

static void test_threads(void) {
    fill_memory();
    LOAD_CONFIG(whole);
    LOAD(1, memory, 64);
    pthread_t thread;
    int wrong = -1;
    CHECK_INT(pthread_create(&thread, NULL, other_thread, &wrong), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
    CHECK_INT(wrong, 0);
    STORE(1, stored, 64);
    CHECK(memcmp(stored, memory, sizeof stored) == 0);
    RELEASE();
}

static const config *planted;

static void run_planted(void) {
    LOAD_CONFIG(*planted);
}
static void run_unconfigured(void) {
    RELEASE();
    ZERO(0);
}
static void run_same_tile(void) {
    LOAD_CONFIG(whole);
    __asm__ volatile(".byte 0xc4, 0xe2, 0x72, 0x5c, 0xc1"); /* tdpbf16ps of 0, 1, 1 */
}
static void run_shapes(void) {
    LOAD_CONFIG(*planted);
    PRODUCT(0, 1, 2);
}
static void run_other(void) {
    LOAD_CONFIG(whole);
    __asm__ volatile(".byte 0xc4, 0xe2, 0x73, 0x5e, 0xc2"); /* tdpbssd */
}
static void run_undefined(void) {
    __asm__ volatile("ud2");
}

/* A child process runs it, and ends with the signal and, unless NULL, a message that has `text`. */
static void check_fault(void (*run)(void), const config *c, int signal, const char *text) {
    int ends[2];
    CHECK_INT(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        planted = c;
        run();
        _exit(0);
    }
    close(ends[1]);
    char message[512] = "";
    ssize_t n, used = 0;
    while ((n = read(ends[0], message + used, sizeof message - 1 - (size_t)used)) > 0) {
        used += n;
    }
    close(ends[0]);
    int status = 0;
    CHECK_INT(waitpid(child, &status, 0), child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == signal);
    if (text && !strstr(message, text)) {
        fprintf(stderr, "the message is: %s; it lacks: %s\n", message, text);
    }
    CHECK(!text || strstr(message, text));
}

static void test_faults(void) {
    config c = whole;
    c.palette = 2;
    check_fault(run_planted, &c, SIGABRT, "ldtilecfg at 0x");
    check_fault(run_planted, &c, SIGABRT, "palette 2; 0 and 1 exist");
    c = whole;
    c.rows[3] = 17;
    check_fault(run_planted, &c, SIGABRT,
                "tile 3 is configured as 17 rows of 64 bytes; at most 16");
    c = whole;
    c.row_bytes[6] = 320;
    check_fault(run_planted, &c, SIGABRT, "tile 6 is configured as 16 rows of 320 bytes");
    c = whole;
    c.row_bytes[2] = 0;
    check_fault(run_planted, &c, SIGABRT, "both are 0 or neither is");
    c = whole;
    c.reserved[0] = 9;
    check_fault(run_planted, &c, SIGABRT, "reserved byte 2 of the configuration is 9");
    c = whole;
    c.rows[9] = 1;
    check_fault(run_planted, &c, SIGABRT, "reserved byte 57");
    check_fault(run_unconfigured, NULL, SIGABRT, "tilezero at 0x");
    check_fault(run_unconfigured, NULL, SIGABRT, "no tiles are configured");
    check_fault(run_same_tile, NULL, SIGABRT, "tiles 0, 1, 1: three different ones");
    c = whole;
    c.rows[2] = 8;
    check_fault(run_shapes, &c, SIGABRT, "shapes do not match: C has 16 rows of 64 bytes");
    c = whole;
    c.row_bytes[1] = 62;
    check_fault(run_shapes, &c, SIGABRT, "tile 1 has rows of 62 bytes");
    c = whole;
    c.start_row = 1;
    check_fault(run_shapes, &c, SIGABRT, "start row is 1");
    check_fault(run_other, NULL, SIGABRT, "opcode 5e");
    check_fault(run_undefined, NULL, SIGILL, NULL);
}

int main(void) {
    if (!ls_amx_emulated()) {
        printf("AMX is the processor's own; what it refuses is left out\n");
    }
    test_config();
    test_addresses();
    test_products();
    test_rounding();
    test_threads();
    if (ls_amx_emulated()) {
        test_faults();
    }
    return test_end();
}
