#include "runtime/base/dtype.h"

static const struct {
    const char *name;
    size_t bytes;
} dtypes[LS_DTYPE_COUNT] = {
#define X(code, bytes_, name_) [code] = {.name = name_, .bytes = bytes_},
    LS_DTYPE_LIST(X)
#undef X
};

size_t ls_dtype_bytes(ls_dtype dtype) {
    return (unsigned)dtype < LS_DTYPE_COUNT ? dtypes[dtype].bytes : 0;
}

const char *ls_dtype_name(ls_dtype dtype) {
    return (unsigned)dtype < LS_DTYPE_COUNT ? dtypes[dtype].name : "unknown dtype";
}

ls_dtype ls_dtype_parse(const char *name) {
    int i = 0;
    while (i < LS_DTYPE_COUNT && strcmp(dtypes[i].name, name) != 0) {
        i++;
    }
    return (ls_dtype)i;
}
