/* oneDNN 2 under the names of oneDNN 3, as far as they are used here. A description of memory is a
 * pointer from version 3 on, before a structure. */
#ifndef LS_RUNTIME_DEVICE_CPU_DNNL_VERSIONS_H
#define LS_RUNTIME_DEVICE_CPU_DNNL_VERSIONS_H

#include <dnnl.h>

#if DNNL_VERSION_MAJOR >= 3

#define LS_DNNL_ANY_ISA dnnl_cpu_isa_default
typedef const_dnnl_memory_desc_t ls_dnnl_desc_ref;

static inline ls_dnnl_desc_ref ls_dnnl_desc_of(const dnnl_memory_desc_t *desc) {
    return *desc;
}

/* Safe for one that was never made (zeros). */
static inline void ls_dnnl_desc_release(dnnl_memory_desc_t *desc) {
    if (*desc) {
        dnnl_memory_desc_destroy(*desc);
    }
}

#else

#define LS_DNNL_ANY_ISA dnnl_cpu_isa_all
typedef const dnnl_memory_desc_t *ls_dnnl_desc_ref;

static inline ls_dnnl_desc_ref ls_dnnl_desc_of(const dnnl_memory_desc_t *desc) {
    return desc;
}

static inline void ls_dnnl_desc_release(dnnl_memory_desc_t *desc) {
    (void)desc;
}

static inline dnnl_status_t dnnl_memory_desc_clone(dnnl_memory_desc_t *to, ls_dnnl_desc_ref from) {
    *to = *from;
    return dnnl_success;
}

static inline dnnl_status_t dnnl_memory_desc_create_with_strides(dnnl_memory_desc_t *desc,
                                                                 int ndims, const dnnl_dims_t dims,
                                                                 dnnl_data_type_t type,
                                                                 const dnnl_dims_t strides) {
    return dnnl_memory_desc_init_by_strides(desc, ndims, dims, type, strides);
}

static inline dnnl_status_t dnnl_memory_desc_create_with_tag(dnnl_memory_desc_t *desc, int ndims,
                                                             const dnnl_dims_t dims,
                                                             dnnl_data_type_t type,
                                                             dnnl_format_tag_t tag) {
    return dnnl_memory_desc_init_by_tag(desc, ndims, dims, type, tag);
}

static inline dnnl_status_t
dnnl_matmul_primitive_desc_create(dnnl_primitive_desc_t *out, dnnl_engine_t engine,
                                  ls_dnnl_desc_ref a, ls_dnnl_desc_ref b, ls_dnnl_desc_ref bias,
                                  ls_dnnl_desc_ref c, const_dnnl_primitive_attr_t attr) {
    dnnl_matmul_desc_t desc;
    const dnnl_status_t s = dnnl_matmul_desc_init(&desc, a, b, bias, c);
    return s == dnnl_success ? dnnl_primitive_desc_create(out, &desc, attr, engine, NULL) : s;
}

#endif

#endif
