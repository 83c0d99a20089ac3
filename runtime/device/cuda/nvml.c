/* The calls and structures of the driver's library, by its published interface (nvml.h of NVML
 * API 12 and 13); only what is used here. */
#include "runtime/device/cuda/nvml.h"

#include "runtime/base/arena.h"
#include "runtime/device/cuda/nvml_layout.h"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef void *event_set;

enum { /* nvmlReturn_t */
       SUCCESS = 0,
       NO_PERMISSION = 4,
       TIMEOUT = 10,
       FUNCTION_NOT_FOUND = 13,
       GPU_IS_LOST = 15,
       RESET_REQUIRED = 16
};
enum { FIELD_NVLINKS = 91, FIELD_POWER_INSTANT = 186, FIELD_ENERGY = 191 };
enum { SCOPE_GPU = 0, SCOPE_MODULE = 1 };
enum { VALUE_DOUBLE, VALUE_UINT, VALUE_ULONG, VALUE_ULL, VALUE_LL, VALUE_INT, VALUE_USHORT };
enum { CLOCK_SM = 1 };
enum { EVENT_XID = 8 };

/* X(member, symbol, parameters). A call that the library does not have is NULL. */
#define CALLS(X)                                                                                   \
    X(init, "nvmlInit_v2", (void))                                                                 \
    X(shutdown, "nvmlShutdown", (void))                                                            \
    X(driver, "nvmlSystemGetDriverVersion", (char *, unsigned))                                    \
    X(count, "nvmlDeviceGetCount_v2", (unsigned *))                                                \
    X(device, "nvmlDeviceGetHandleByIndex_v2", (unsigned, device_handle *))                        \
    X(name, "nvmlDeviceGetName", (device_handle, char *, unsigned))                                \
    X(uuid, "nvmlDeviceGetUUID", (device_handle, char *, unsigned))                                \
    X(pci, "nvmlDeviceGetPciInfo_v3", (device_handle, pci_info *))                                 \
    X(energy, "nvmlDeviceGetTotalEnergyConsumption", (device_handle, unsigned long long *))        \
    X(power, "nvmlDeviceGetPowerUsage", (device_handle, unsigned *))                               \
    X(power_limit, "nvmlDeviceGetEnforcedPowerLimit", (device_handle, unsigned *))                 \
    X(fields, "nvmlDeviceGetFieldValues", (device_handle, int, field_value *))                     \
    X(temperature, "nvmlDeviceGetTemperature", (device_handle, int, unsigned *))                   \
    X(clock, "nvmlDeviceGetClockInfo", (device_handle, int, unsigned *))                           \
    X(max_clock, "nvmlDeviceGetMaxClockInfo", (device_handle, int, unsigned *))                    \
    X(throttle, "nvmlDeviceGetCurrentClocksEventReasons", (device_handle, unsigned long long *))   \
    X(throttle_old, "nvmlDeviceGetCurrentClocksThrottleReasons",                                   \
      (device_handle, unsigned long long *))                                                       \
    X(memory, "nvmlDeviceGetMemoryInfo", (device_handle, memory_info *))                           \
    X(ecc, "nvmlDeviceGetTotalEccErrors", (device_handle, int, int, unsigned long long *))         \
    X(nvlink, "nvmlDeviceGetNvLinkState", (device_handle, unsigned, unsigned *))                   \
    X(fabric, "nvmlDeviceGetGpuFabricInfoV", (device_handle, fabric_info *))                       \
    X(event_create, "nvmlEventSetCreate", (event_set *))                                           \
    X(event_register, "nvmlDeviceRegisterEvents", (device_handle, unsigned long long, event_set))  \
    X(event_wait, "nvmlEventSetWait_v2", (event_set, event_data *, unsigned))                      \
    X(event_free, "nvmlEventSetFree", (event_set))

struct ls_nvml {
    void *library;
    const char *(*error_text)(int);
#define X(member, symbol, parameters) int(*member) parameters;
    CALLS(X)
#undef X
    bool running;
    char driver_version[80];
    device_handle *devices;
    int device_count;
    event_set events; /* NULL: not offered */
};

/* A call that the library lacks answers as the library does for one that the driver lacks. */
#define CALL(nvml, member, ...) ((nvml)->member ? (nvml)->member(__VA_ARGS__) : FUNCTION_NOT_FOUND)

static const char *text_of(const ls_nvml *n, int error) {
    const char *text = n->error_text ? n->error_text(error) : NULL;
    return text ? text : "no text";
}

static ls_status fault(const ls_nvml *n, int gpu, const char *what, int error) {
    return LS_FAIL(LS_E_DEVICE, "GPU %d, %s: %s (NVML error %d); %s", gpu, what, text_of(n, error),
                   error,
                   error == RESET_REQUIRED ? "reset it or restart the host"
                                           : "see the kernel's log (dmesg) and drain the host");
}

/* LS_OK: *known says whether there is a value. Drivers of virtual machines and of parts of GPUs
 * refuse readings in many words; a fault is what ends work on the GPU. */
static ls_status optional(const ls_nvml *n, int gpu, const char *what, int error, bool *known) {
    *known = error == SUCCESS;
    return error == GPU_IS_LOST || error == RESET_REQUIRED ? fault(n, gpu, what, error) : LS_OK;
}

static ls_status load(const char *path, ls_nvml *n) {
    const char *chosen = getenv("LOCKSTEP_NVML");
    path = path ? path : chosen && chosen[0] ? chosen : "libnvidia-ml.so.1";
    n->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!n->library) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "no NVIDIA driver library: %s; install the driver where there is a GPU",
                       dlerror());
    }
    /* POSIX lets dlsym's result be a function, ISO C does not let it be cast: hence memcpy. */
    void *symbol;
#define X(member, name, parameters)                                                                \
    symbol = dlsym(n->library, name);                                                              \
    memcpy(&n->member, &symbol, sizeof symbol);
    CALLS(X)
#undef X
    symbol = dlsym(n->library, "nvmlErrorString");
    memcpy(&n->error_text, &symbol, sizeof symbol);
    if (!n->init || !n->count || !n->device) {
        return LS_FAIL(LS_E_UNSUPPORTED,
                       "'%s' is not a driver library that lockstep can use: it "
                       "lacks nvmlInit_v2 or nvmlDeviceGetCount_v2",
                       path);
    }
    return LS_OK;
}

static ls_status start(ls_nvml *n) {
    int error = n->init();
    if (error != SUCCESS) {
        return LS_FAIL(LS_E_UNSUPPORTED, "the NVIDIA driver does not answer: %s (NVML error %d)",
                       text_of(n, error), error);
    }
    n->running = true;
    unsigned count = 0;
    error = n->count(&count);
    if (error != SUCCESS || count == 0) {
        return LS_FAIL(LS_E_UNSUPPORTED, "the NVIDIA driver finds no GPU: %s",
                       error ? text_of(n, error) : "it counts 0");
    }
    if (CALL(n, driver, n->driver_version, sizeof n->driver_version) != SUCCESS) {
        n->driver_version[0] = '\0';
    }
    LS_TRY(ls_calloc(count, sizeof *n->devices, &n->devices));
    n->device_count = (int)count;
    for (unsigned i = 0; i < count; i++) {
        error = n->device(i, &n->devices[i]);
        if (error == NO_PERMISSION) {
            n->devices[i] = NULL; /* of another job */
        } else if (error != SUCCESS) {
            return fault(n, (int)i, "opening it", error);
        }
    }
    return LS_OK;
}

/* Events are a convenience: without them nothing fails until they are asked for. */
static void watch_events(ls_nvml *n) {
    if (CALL(n, event_create, &n->events) != SUCCESS) {
        n->events = NULL;
        return;
    }
    bool any = false;
    for (int i = 0; i < n->device_count; i++) {
        any |= n->devices[i] &&
               CALL(n, event_register, n->devices[i], EVENT_XID, n->events) == SUCCESS;
    }
    if (!any) {
        (void)CALL(n, event_free, n->events);
        n->events = NULL;
    }
}

ls_status ls_nvml_open(const char *library, ls_nvml **nvml) {
    *nvml = NULL;
    ls_nvml *n;
    LS_TRY(ls_calloc(1, sizeof *n, &n));
    ls_status status = load(library, n);
    if (status == LS_OK) {
        status = start(n);
    }
    if (status != LS_OK) {
        ls_nvml_close(n);
        return status;
    }
    watch_events(n);
    *nvml = n;
    return LS_OK;
}

void ls_nvml_close(ls_nvml *n) {
    if (!n) {
        return;
    }
    if (n->events) {
        (void)CALL(n, event_free, n->events);
    }
    if (n->running) {
        (void)CALL(n, shutdown);
    }
    if (n->library) {
        dlclose(n->library);
    }
    free(n->devices);
    free(n);
}

int ls_nvml_count(const ls_nvml *n) {
    return n->device_count;
}

const char *ls_nvml_driver(const ls_nvml *n) {
    return n->driver_version;
}

static ls_status check_gpu(const ls_nvml *n, int gpu) {
    if (gpu < 0 || gpu >= n->device_count) {
        return LS_FAIL(LS_E_INPUT, "GPU %d was asked for; the driver has 0 to %d", gpu,
                       n->device_count - 1);
    }
    if (!n->devices[gpu]) {
        return LS_FAIL(LS_E_UNSUPPORTED, "GPU %d may not be looked at by this job", gpu);
    }
    return LS_OK;
}

ls_status ls_nvml_identify(const ls_nvml *n, int gpu, ls_nvml_gpu *identity) {
    *identity = (ls_nvml_gpu){0};
    LS_TRY(check_gpu(n, gpu));
    device_handle d = n->devices[gpu];
    bool known;
    pci_info pci = {0};
    LS_TRY(optional(n, gpu, "asking for its name",
                    CALL(n, name, d, identity->name, sizeof identity->name), &known));
    LS_TRY(optional(n, gpu, "asking for its UUID",
                    CALL(n, uuid, d, identity->uuid, sizeof identity->uuid), &known));
    LS_TRY(optional(n, gpu, "asking for its address", CALL(n, pci, d, &pci), &known));
    if (known) {
        snprintf(identity->bus_id, sizeof identity->bus_id, "%.31s", pci.bus_id);
    }
    return LS_OK;
}

/* CUDA writes the domain with 4 digits, the driver with 8. */
static const char *without_zeros(const char *bus_id) {
    return bus_id + strspn(bus_id, "0");
}

ls_status ls_nvml_find(const ls_nvml *n, const char *bus_id, int *gpu) {
    for (int i = 0; i < n->device_count; i++) {
        ls_nvml_gpu identity;
        if (n->devices[i] && ls_nvml_identify(n, i, &identity) == LS_OK && identity.bus_id[0] &&
            strcasecmp(without_zeros(identity.bus_id), without_zeros(bus_id)) == 0) {
            *gpu = i;
            return LS_OK;
        }
    }
    *gpu = -1;
    return LS_FAIL(LS_E_INPUT, "the driver has no GPU at PCI address '%s' among its %d", bus_id,
                   n->device_count);
}

const char *ls_nvml_scope_name(ls_nvml_scope scope) {
    return scope == LS_NVML_GPU ? "GPU" : scope == LS_NVML_MODULE ? "module" : "none";
}

const char *ls_nvml_throttle_text(uint64_t reasons, char *text, size_t size) {
    static const struct {
        uint64_t bit;
        const char *text;
    } all[] = {
#define X(code, mask, words) {mask, words},
        LS_NVML_THROTTLE_LIST(X)
#undef X
    };
    size_t used = 0;
    snprintf(text, size, "none");
    for (size_t i = 0; i < sizeof all / sizeof all[0] && used < size; i++) {
        if (reasons & all[i].bit) {
            used +=
                (size_t)snprintf(text + used, size - used, "%s%s", used ? ", " : "", all[i].text);
        }
    }
    return text;
}

static double field_number(const field_value *f) {
    switch (f->type) {
    case VALUE_DOUBLE:
        return f->value.d;
    case VALUE_UINT:
        return (double)f->value.u;
    case VALUE_ULONG:
        return (double)f->value.ul;
    case VALUE_ULL:
        return (double)f->value.ull;
    case VALUE_LL:
        return (double)f->value.ll;
    case VALUE_INT:
        return (double)f->value.i;
    case VALUE_USHORT:
        return (double)f->value.us;
    default:
        return NAN;
    }
}

/* NAN where it is not offered. */
static double read_field(const ls_nvml *n, int gpu, unsigned field, unsigned scope) {
    field_value f = {.field = field, .scope = scope};
    const int error = CALL(n, fields, n->devices[gpu], 1, &f);
    return error == SUCCESS && f.status == SUCCESS ? field_number(&f) : NAN;
}

/* A field in thousandths, of the GPU alone or else of its module. */
static double read_scoped(const ls_nvml *n, int gpu, unsigned field, ls_nvml_scope *scope) {
    double milli = read_field(n, gpu, field, SCOPE_GPU);
    *scope = LS_NVML_GPU;
    if (isnan(milli)) {
        milli = read_field(n, gpu, field, SCOPE_MODULE);
        *scope = isnan(milli) ? LS_NVML_NONE : LS_NVML_MODULE;
    }
    return 1e-3 * milli;
}

ls_status ls_nvml_energy(const ls_nvml *n, int gpu, double *joules, ls_nvml_scope *scope) {
    *joules = NAN;
    *scope = LS_NVML_NONE;
    LS_TRY(check_gpu(n, gpu));
    unsigned long long mj;
    bool known;
    LS_TRY(optional(n, gpu, "reading its energy", CALL(n, energy, n->devices[gpu], &mj), &known));
    if (known) {
        *joules = 1e-3 * (double)mj;
        *scope = LS_NVML_GPU;
    } else {
        *joules = read_scoped(n, gpu, FIELD_ENERGY, scope);
    }
    return LS_OK;
}

static ls_status read_power(const ls_nvml *n, int gpu, ls_nvml_reading *r) {
    unsigned mw;
    bool known;
    r->power_watts = read_scoped(n, gpu, FIELD_POWER_INSTANT, &r->power_scope);
    if (isnan(r->power_watts)) { /* drivers before that field */
        LS_TRY(optional(n, gpu, "reading its power", CALL(n, power, n->devices[gpu], &mw), &known));
        r->power_watts = known ? 1e-3 * mw : NAN;
        r->power_scope = known ? LS_NVML_GPU : LS_NVML_NONE;
    }
    LS_TRY(optional(n, gpu, "reading its power limit", CALL(n, power_limit, n->devices[gpu], &mw),
                    &known));
    r->power_limit_watts = known ? 1e-3 * mw : NAN;
    return LS_OK;
}

static ls_status read_clocks(const ls_nvml *n, int gpu, ls_nvml_reading *r) {
    device_handle d = n->devices[gpu];
    unsigned mhz;
    bool known;
    LS_TRY(optional(n, gpu, "reading its clock", CALL(n, clock, d, CLOCK_SM, &mhz), &known));
    r->sm_mhz = known ? mhz : NAN;
    LS_TRY(optional(n, gpu, "reading its highest clock", CALL(n, max_clock, d, CLOCK_SM, &mhz),
                    &known));
    r->sm_max_mhz = known ? mhz : NAN;
    unsigned long long reasons;
    int error = CALL(n, throttle, d, &reasons);
    if (error == FUNCTION_NOT_FOUND) { /* its name before driver 535 */
        error = CALL(n, throttle_old, d, &reasons);
    }
    LS_TRY(optional(n, gpu, "asking what holds its clock", error, &known));
    r->throttle = known ? (int64_t)reasons : -1;
    return LS_OK;
}

static ls_status read_memory(const ls_nvml *n, int gpu, ls_nvml_reading *r) {
    device_handle d = n->devices[gpu];
    memory_info memory;
    unsigned long long errors;
    bool known;
    LS_TRY(optional(n, gpu, "asking for its memory", CALL(n, memory, d, &memory), &known));
    r->memory_used_bytes = known ? (int64_t)memory.used : -1;
    r->memory_total_bytes = known ? (int64_t)memory.total : -1;
    int64_t *const counts[] = {&r->ecc_corrected, &r->ecc_uncorrected};
    for (int kind = 0; kind < 2; kind++) {
        LS_TRY(optional(n, gpu, "counting its memory errors", CALL(n, ecc, d, kind, 0, &errors),
                        &known));
        *counts[kind] = known ? (int64_t)errors : -1;
    }
    return LS_OK;
}

static void read_nvlinks(const ls_nvml *n, int gpu, ls_nvml_reading *r) {
    const double links = read_field(n, gpu, FIELD_NVLINKS, 0);
    r->nvlinks = isnan(links) ? -1 : (int)links;
    r->nvlinks_active = isnan(links) || !n->nvlink ? -1 : 0;
    for (int i = 0; i < r->nvlinks && r->nvlinks_active >= 0; i++) {
        unsigned active = 0;
        r->nvlinks_active += n->nvlink(n->devices[gpu], (unsigned)i, &active) == SUCCESS && active;
    }
}

ls_status ls_nvml_read(const ls_nvml *n, int gpu, ls_nvml_reading *r) {
    unsigned celsius;
    bool known;
    *r = (ls_nvml_reading){0};
    LS_TRY(ls_nvml_energy(n, gpu, &r->energy_joules, &r->energy_scope));
    LS_TRY(read_power(n, gpu, r));
    LS_TRY(read_clocks(n, gpu, r));
    LS_TRY(read_memory(n, gpu, r));
    read_nvlinks(n, gpu, r);
    LS_TRY(optional(n, gpu, "reading its temperature",
                    CALL(n, temperature, n->devices[gpu], 0, &celsius), &known));
    r->temperature_c = known ? celsius : NAN;
    return LS_OK;
}

/* Pairs of bits of the mask: 0 not known, 1 true, 2 false; bits 8 to 11: 1 no fault, more: which.
 */
static bool health_is(unsigned mask, int shift) {
    return ((mask >> shift) & 3u) == 1u;
}

ls_status ls_nvml_fabric_of(const ls_nvml *n, int gpu, ls_nvml_fabric *fabric) {
    *fabric = (ls_nvml_fabric){.healthy = true};
    LS_TRY(check_gpu(n, gpu));
    fabric_info info = {.version = FABRIC_VERSION};
    bool known;
    LS_TRY(
        optional(n, gpu, "asking for its fabric", CALL(n, fabric, n->devices[gpu], &info), &known));
    if (!known || info.state > LS_NVML_FABRIC_COMPLETED) {
        return LS_OK;
    }
    fabric->state = (ls_nvml_fabric_state)info.state;
    memcpy(fabric->cluster, info.cluster, sizeof fabric->cluster);
    fabric->clique = info.clique;
    if (fabric->state == LS_NVML_FABRIC_COMPLETED && info.status != SUCCESS) {
        fabric->failed = true;
        snprintf(fabric->status, sizeof fabric->status, "%s", text_of(n, info.status));
    }
    const unsigned configuration = (info.health >> 8) & 15u;
    fabric->degraded = health_is(info.health, 0);
    fabric->healthy = !fabric->failed && !fabric->degraded && !health_is(info.health, 2) &&
                      !health_is(info.health, 4) && !health_is(info.health, 6) &&
                      configuration <= 1;
    return LS_OK;
}

bool ls_nvml_same_fabric(const ls_nvml_fabric *a, const ls_nvml_fabric *b) {
    static const uint8_t zeros[16];
    return a->state == LS_NVML_FABRIC_COMPLETED && b->state == LS_NVML_FABRIC_COMPLETED &&
           !a->failed && !b->failed && memcmp(a->cluster, zeros, sizeof zeros) != 0 &&
           memcmp(a->cluster, b->cluster, sizeof zeros) == 0 && a->clique == b->clique;
}

ls_status ls_nvml_next_xid(ls_nvml *n, int *gpu, uint64_t *xid) {
    *gpu = -1;
    *xid = 0;
    if (!n->events || !n->event_wait) {
        return LS_FAIL(LS_E_UNSUPPORTED, "this driver or GPU does not report Xid events");
    }
    event_data event = {0};
    const int error = n->event_wait(n->events, &event, 0);
    if (error == TIMEOUT) {
        return LS_OK;
    }
    for (int i = 0; i < n->device_count; i++) {
        if (n->devices[i] && n->devices[i] == event.device) {
            *gpu = i;
        }
    }
    if (error != SUCCESS) {
        return fault(n, *gpu, "waiting for events", error);
    }
    *xid = event.type == EVENT_XID ? event.data : 0;
    return LS_OK;
}
