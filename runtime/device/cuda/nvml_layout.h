/* Structures of the driver's library as they lie in memory, by its published interface (nvml.h of
 * NVML API 12 and 13): what nvml.c reads, and what a stand-in for the library in tests writes. */
#ifndef LS_DEVICE_CUDA_NVML_LAYOUT_H
#define LS_DEVICE_CUDA_NVML_LAYOUT_H

typedef void *device_handle;

typedef struct field_value {
    unsigned field, scope;
    long long timestamp, latency_us;
    int type, status;
    union {
        double d;
        int i;
        unsigned u;
        unsigned long ul;
        unsigned long long ull;
        long long ll;
        unsigned short us;
    } value;
} field_value;

typedef struct pci_info {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char bus_id[32];
} pci_info;

typedef struct memory_info {
    unsigned long long total, free, used;
} memory_info;

typedef struct event_data {
    device_handle device;
    unsigned long long type, data;
    unsigned gpu_instance, compute_instance;
} event_data;

typedef struct fabric_info {
    unsigned version;
    unsigned char cluster[16];
    int status;
    unsigned clique;
    unsigned char state;
    unsigned health;
} fabric_info;
#define FABRIC_VERSION ((unsigned)sizeof(fabric_info) | 2u << 24)

_Static_assert(sizeof(field_value) == 40 && sizeof(pci_info) == 68 && sizeof(event_data) == 32 &&
                   sizeof(fabric_info) == 36,
               "the library's layout");

#endif
