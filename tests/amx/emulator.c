#include "tests/amx/emulator.h"

#include <cpuid.h>
#include <immintrin.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { TILES = 8, ROWS = 16, ROW_BYTES = 64, CONFIG_BYTES = 64 };

/* Where things stand in the 64 bytes of a configuration. */
enum { AT_START_ROW = 1, AT_COLSB = 16, AT_COLSB_END = 32, AT_ROWS = 48, AT_ROWS_END = 56 };

typedef struct tile_state {
    uint8_t config[CONFIG_BYTES]; /* as loaded; palette 0: not configured */
    _Alignas(64) uint8_t data[TILES][ROWS][ROW_BYTES];
} tile_state;

static __thread tile_state tiles;

/* A VEX instruction of the map 0F38 with W = 0 and 128 bits, as all of AMX are. */
typedef struct instruction {
    unsigned char opcode, prefix; /* prefix: 0 none, 1 66, 2 F3, 3 F2 */
    unsigned reg, rm, third;      /* ModRM's register and operand, VEX.vvvv */
    bool memory, sib;
    uint64_t address; /* with sib: without the index, which is `stride` */
    int64_t stride;
    uint64_t at, next; /* of the instruction, and of the one after it */
} instruction;

static __thread const char *current; /* name of the instruction, for messages */

__attribute__((format(printf, 2, 3), noreturn)) static void fault(const instruction *in,
                                                                  const char *format, ...) {
    char text[256];
    int used = snprintf(text, sizeof text, "AMX emulator: %s at %#llx: ", current,
                        (unsigned long long)in->at);
    va_list args;
    va_start(args, format);
    vsnprintf(text + used, sizeof text - (size_t)used, format, args);
    va_end(args);
    strncat(text, "\n", sizeof text - strlen(text) - 1);
    ssize_t ignored = write(STDERR_FILENO, text, strlen(text));
    (void)ignored;
    abort();
}

static unsigned rows_of(unsigned tile) {
    return tiles.config[AT_ROWS + tile];
}

static unsigned row_bytes_of(unsigned tile) {
    return tiles.config[AT_COLSB + 2 * tile] | (unsigned)tiles.config[AT_COLSB + 2 * tile + 1] << 8;
}

static void check_tile(const instruction *in, unsigned tile) {
    if (tiles.config[0] == 0) {
        fault(in, "no tiles are configured in this thread; use ldtilecfg first");
    }
    if (tile >= TILES) {
        fault(in, "tile %u; there are %d", tile, TILES);
    }
    if (rows_of(tile) == 0) {
        fault(in, "tile %u was configured with no rows", tile);
    }
    if (row_bytes_of(tile) % 4 != 0) {
        fault(in, "tile %u has rows of %u bytes; a multiple of 4 is needed", tile,
              row_bytes_of(tile));
    }
}

static void load_config(const instruction *in) {
    uint8_t config[CONFIG_BYTES];
    memcpy(config, (const void *)in->address, sizeof config);
    memset(&tiles, 0, sizeof tiles);
    if (config[0] == 0) {
        return;
    }
    if (config[0] != 1) {
        fault(in, "palette %u; 0 and 1 exist", config[0]);
    }
    for (unsigned i = AT_START_ROW + 1; i < CONFIG_BYTES; i++) {
        const bool used = (i >= AT_COLSB && i < AT_COLSB_END) || (i >= AT_ROWS && i < AT_ROWS_END);
        if (!used && config[i]) {
            fault(in, "reserved byte %u of the configuration is %u; it must be 0", i, config[i]);
        }
    }
    memcpy(tiles.config, config, sizeof config);
    for (unsigned tile = 0; tile < TILES; tile++) {
        if (rows_of(tile) > ROWS || row_bytes_of(tile) > ROW_BYTES) {
            fault(in, "tile %u is configured as %u rows of %u bytes; at most %d of %d fit", tile,
                  rows_of(tile), row_bytes_of(tile), ROWS, ROW_BYTES);
        }
        if ((rows_of(tile) == 0) != (row_bytes_of(tile) == 0)) {
            fault(in, "tile %u is configured as %u rows of %u bytes; both are 0 or neither is",
                  tile, rows_of(tile), row_bytes_of(tile));
        }
    }
}

static unsigned first_row(const instruction *in, unsigned tile) {
    const unsigned first = tiles.config[AT_START_ROW];
    if (first >= rows_of(tile)) {
        fault(in, "starts at row %u of tile %u, which has %u", first, tile, rows_of(tile));
    }
    return first;
}

static void load_tile(const instruction *in) {
    check_tile(in, in->reg);
    const unsigned bytes = row_bytes_of(in->reg), first = first_row(in, in->reg);
    memset(tiles.data[in->reg][first], 0, (ROWS - first) * ROW_BYTES);
    for (unsigned row = first; row < rows_of(in->reg); row++) {
        const uint64_t from = in->address + (uint64_t)(row * in->stride);
        memcpy(tiles.data[in->reg][row], (const void *)from, bytes);
    }
    tiles.config[AT_START_ROW] = 0;
}

static void store_tile(const instruction *in) {
    check_tile(in, in->reg);
    const unsigned bytes = row_bytes_of(in->reg);
    for (unsigned row = first_row(in, in->reg); row < rows_of(in->reg); row++) {
        const uint64_t to = in->address + (uint64_t)(row * in->stride);
        memcpy((void *)to, tiles.data[in->reg][row], bytes);
    }
    tiles.config[AT_START_ROW] = 0;
}

typedef struct product {
    const uint32_t (*a)[ROW_BYTES / 4], (*b)[ROW_BYTES / 4]; /* words of two bf16 */
    float (*c)[ROW_BYTES / 4];
    unsigned rows, cols, words;
} product;

__attribute__((always_inline)) static inline float high_half(uint32_t word) {
    float value;
    word &= 0xffff0000u;
    memcpy(&value, &word, sizeof value);
    return value;
}

/* All columns of a tile, whatever cols is: those beyond are zero and stay so. */
__attribute__((always_inline)) static inline void multiply(const product *p) {
    enum { COLS = ROW_BYTES / 4 };
    for (unsigned row = 0; row < p->rows; row++) {
        float even[COLS] = {0}, odd[COLS] = {0};
        for (unsigned k = 0; k < p->words; k++) {
            const uint32_t a = p->a[row][k];
            for (unsigned col = 0; col < COLS; col++) {
                const uint32_t b = p->b[k][col];
                even[col] = __builtin_fmaf(high_half(a << 16), high_half(b << 16), even[col]);
                odd[col] = __builtin_fmaf(high_half(a), high_half(b), odd[col]);
            }
        }
        for (unsigned col = 0; col < COLS; col++) {
            p->c[row][col] = col < p->cols ? p->c[row][col] + (even[col] + odd[col]) : 0.0f;
        }
    }
}

__attribute__((noinline, target("avx2,fma"))) static void multiply_fma(const product *p) {
    multiply(p);
}

__attribute__((noinline)) static void multiply_any(const product *p) {
    multiply(p);
}

static void dot_product(const instruction *in) {
    const unsigned c = in->reg, a = in->rm, b = in->third;
    check_tile(in, c);
    check_tile(in, a);
    check_tile(in, b);
    if (a == b || a == c || b == c) {
        fault(in, "tiles %u, %u, %u: three different ones are needed", c, a, b);
    }
    if (tiles.config[AT_START_ROW]) {
        fault(in, "start row is %u; it must be 0", tiles.config[AT_START_ROW]);
    }
    if (rows_of(c) != rows_of(a) || row_bytes_of(c) != row_bytes_of(b) ||
        row_bytes_of(a) != 4 * rows_of(b)) {
        fault(in,
              "shapes do not match: C has %u rows of %u bytes, A %u of %u, B %u of %u; C needs A's "
              "rows and B's bytes, B a row for each 4 bytes of A",
              rows_of(c), row_bytes_of(c), rows_of(a), row_bytes_of(a), rows_of(b),
              row_bytes_of(b));
    }
    const product p = {.a = (const void *)tiles.data[a],
                       .b = (const void *)tiles.data[b],
                       .c = (void *)tiles.data[c],
                       .rows = rows_of(c),
                       .cols = row_bytes_of(c) / 4,
                       .words = rows_of(b)};
    /* To nearest even, denormals are zero, nothing is signalled, whatever the program has set; it
     * gets its own back when the handler returns. */
    _mm_setcsr(0x9fc0);
    (__builtin_cpu_supports("fma") && __builtin_cpu_supports("avx2") ? multiply_fma
                                                                     : multiply_any)(&p);
}

static const char *register_form(const instruction *in) {
    const bool tile_form = in->opcode == 0x49 && in->rm == 0;
    return tile_form && in->prefix == 0 && in->reg == 0 ? "tilerelease"
           : tile_form && in->prefix == 3               ? "tilezero"
           : in->opcode == 0x5c && in->prefix == 2      ? "tdpbf16ps"
                                                        : NULL;
}

static const char *memory_form(const instruction *in) {
    if (in->opcode == 0x49 && in->reg == 0) {
        return in->prefix == 0 ? "ldtilecfg" : in->prefix == 1 ? "sttilecfg" : NULL;
    }
    if (in->opcode == 0x4b && in->sib) {
        static const char *const names[] = {NULL, "tileloaddt1", "tilestored", "tileloadd"};
        return names[in->prefix];
    }
    return NULL;
}

static void execute(const instruction *in) {
    current = in->memory ? memory_form(in) : register_form(in);
    if (!current) {
        current = "?";
        fault(in, "opcode %02x with prefix %u is not among the instructions that are emulated",
              in->opcode, in->prefix);
    }
    if (in->opcode == 0x5c) {
        dot_product(in);
    } else if (in->opcode == 0x4b) {
        (in->prefix == 2 ? store_tile : load_tile)(in);
    } else if (in->memory && in->prefix == 0) {
        load_config(in);
    } else if (in->memory) {
        memcpy((void *)in->address, tiles.config, sizeof tiles.config);
    } else if (in->prefix == 0) {
        memset(&tiles, 0, sizeof tiles);
    } else {
        check_tile(in, in->reg);
        memset(tiles.data[in->reg], 0, sizeof tiles.data[0]);
    }
}

static uint64_t general_register(const ucontext_t *context, unsigned number) {
    static const int places[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                   REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                   REG_R12, REG_R13, REG_R14, REG_R15};
    return (uint64_t)context->uc_mcontext.gregs[places[number]];
}

/* The operand in memory whose ModRM byte is at code; sets `next`. */
static void decode_address(const ucontext_t *context, const uint8_t *code, bool x, bool b,
                           instruction *in) {
    const unsigned mode = code[0] >> 6, rm = code[0] & 7;
    const uint8_t *displacement = code + 1;
    bool based = true, relative = mode == 0 && rm == 5;
    unsigned base = rm | (unsigned)b << 3;
    if (rm == 4) {
        const uint8_t sib = *displacement++;
        const unsigned index = (sib >> 3 & 7) | (unsigned)x << 3;
        in->sib = true;
        base = (sib & 7) | (unsigned)b << 3;
        based = mode != 0 || (sib & 7) != 5;
        in->stride = index == 4 ? 0 : (int64_t)(general_register(context, index) << (sib >> 6));
    }
    int32_t offset = 0;
    if (mode == 1) {
        offset = (int8_t)*displacement;
        in->next = (uint64_t)(displacement + 1);
    } else if (mode == 2 || relative || !based) {
        memcpy(&offset, displacement, sizeof offset);
        in->next = (uint64_t)(displacement + 4);
    } else {
        in->next = (uint64_t)displacement;
    }
    in->address = (relative ? in->next
                   : based  ? general_register(context, base)
                            : 0) +
                  (uint64_t)(int64_t)offset;
}

/* False when it is none of AMX's. */
static bool decode(const ucontext_t *context, instruction *in) {
    const uint8_t *code = (const uint8_t *)context->uc_mcontext.gregs[REG_RIP];
    *in = (instruction){.at = (uint64_t)code};
    if (code[0] != 0xc4 || (code[1] & 0x1f) != 2 || (code[2] & 0x84) != 0) {
        return false;
    }
    const bool r = !(code[1] & 0x80), x = !(code[1] & 0x40), b = !(code[1] & 0x20);
    in->opcode = code[3];
    in->prefix = code[2] & 3;
    in->third = ~(code[2] >> 3) & 15;
    if (in->opcode != 0x49 && in->opcode != 0x4b && in->opcode != 0x5c && in->opcode != 0x5e &&
        in->opcode != 0x6c) {
        return false;
    }
    in->reg = (code[4] >> 3 & 7) | (unsigned)r << 3;
    in->rm = (code[4] & 7) | (unsigned)b << 3;
    in->memory = code[4] >> 6 != 3;
    in->next = (uint64_t)(code + 5);
    if (in->memory) {
        decode_address(context, code + 4, x, b, in);
        if (in->sib && in->opcode == 0x49) { /* an ordinary address: base + index + offset */
            in->address += (uint64_t)in->stride;
        }
    }
    return true;
}

static struct sigaction before;

static void on_illegal(int signal, siginfo_t *info, void *where) {
    ucontext_t *context = where;
    instruction in;
    if (decode(context, &in)) {
        do { /* and those that follow it, which a signal each would cost far more */
            execute(&in);
            context->uc_mcontext.gregs[REG_RIP] = (greg_t)in.next;
        } while (decode(context, &in));
    } else if (before.sa_flags & SA_SIGINFO) {
        before.sa_sigaction(signal, info, where);
    } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
        before.sa_handler(signal);
    } else {
        sigaction(SIGILL, &before, NULL); /* the instruction comes again */
    }
}

/* As runtime/base/cpu.c finds out. */
static bool processor_has_amx(void) {
    enum { AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24, REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d = 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & AMX_BF16) && (d & AMX_TILE) &&
           syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

static int emulated;

__attribute__((constructor)) static void install(void) {
    if (!processor_has_amx()) {
        /* SIGILL in the handler itself would be a bug of it: not deferred, so not masked. */
        const struct sigaction action = {.sa_sigaction = on_illegal,
                                         .sa_flags = SA_SIGINFO | SA_NODEFER};
        emulated = sigaction(SIGILL, &action, &before) == 0;
    }
}

__attribute__((visibility("default"))) int ls_amx_emulated(void) {
    return emulated;
}
