/* What is in the files for people only: the counters, and the index of links. */
#include "checkpoint/format.h"

#include <string.h>

/* The unit that a counter's name ends in. */
static const char *counter_unit(const char *name) {
    static const struct {
        const char *ending, *unit;
    } units[] = {
        {"tokens_per_second", "tokens/s"},
        {"flops_per_second", "FLOP/s"},
        {"bytes_per_second", "B/s"},
        {"steps_per_second", "steps/s"},
        {"device_seconds", "device s"},
        {"seconds", "s"},
        {"_s", "s"},
        {"flops", "FLOP"},
        {"tokens", "tokens"},
        {"steps", "steps"},
        {"bytes", "B"},
        {"joules", "J"},
        {"kwh", "kWh"},
        {"watts", "W"},
        {"usd", "USD"},
        {"mfu", "1"},
    };
    size_t length = strlen(name);
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) {
        size_t n = strlen(units[i].ending);
        if (length >= n && strcmp(name + length - n, units[i].ending) == 0) {
            return units[i].unit;
        }
    }
    return "1";
}

static ls_status scalar(hid_t group, const char *name, hid_t type, hid_t space, const void *value,
                        const char *unit) {
    /* Compact: the value lies in the object header, under its checksum. */
    hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_obj_track_times(list, false);
    if (H5Sget_simple_extent_type(space) != H5S_NULL) {
        H5Pset_layout(list, H5D_COMPACT);
    }
    hid_t dataset = H5Dcreate2(group, name, type, space, H5P_DEFAULT, list, H5P_DEFAULT);
    H5Pclose(list);
    bool done = dataset >= 0;
    if (done && value) {
        done = H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, value) >= 0;
    }
    if (done && unit) {
        hid_t text = H5Tcopy(H5T_C_S1), one = H5Screate(H5S_SCALAR);
        H5Tset_size(text, strlen(unit) + 1);
        hid_t attribute = H5Acreate2(dataset, "unit", text, one, H5P_DEFAULT, H5P_DEFAULT);
        done = attribute >= 0 && H5Awrite(attribute, text, unit) >= 0;
        done = attribute >= 0 && H5Aclose(attribute) >= 0 && done;
        H5Tclose(text);
        H5Sclose(one);
    }
    done = dataset >= 0 && H5Dclose(dataset) >= 0 && done;
    return done ? LS_OK : LS_H5_FAIL(LS_E_IO, "cannot write the counter '%s'", name);
}

static ls_status counter_write(hid_t group, const char *name, const json_t *value,
                               const char *unit) {
    hid_t one = H5Screate(H5S_SCALAR);
    ls_status status;
    if (json_is_integer(value) || json_is_boolean(value)) {
        int64_t n = json_is_integer(value) ? json_integer_value(value) : json_is_true(value);
        status = scalar(group, name, H5T_STD_I64LE, one, &n, unit);
    } else if (json_is_real(value)) {
        double x = json_real_value(value);
        status = scalar(group, name, H5T_IEEE_F64LE, one, &x, unit);
    } else if (json_is_string(value)) {
        hid_t text = H5Tcopy(H5T_C_S1);
        H5Tset_size(text, json_string_length(value) + 1);
        H5Tset_cset(text, H5T_CSET_UTF8);
        status = scalar(group, name, text, one, json_string_value(value), NULL);
        H5Tclose(text);
    } else {
        hid_t nothing = H5Screate(H5S_NULL);
        status = scalar(group, name, H5T_IEEE_F64LE, nothing, NULL, unit);
        H5Sclose(nothing);
    }
    H5Sclose(one);
    return status;
}

/* parent_unit: that of the object the counters are in ("seconds": {"compute": ...}), or NULL. */
static ls_status counters_write(hid_t group, const json_t *counters, const char *parent_unit) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)counters, name, value) {
        const char *unit = counter_unit(name);
        if (parent_unit && strcmp(unit, "1") == 0) {
            unit = parent_unit;
        }
        if (!*name || strchr(name, '/') || strcmp(name, ".") == 0) {
            return LS_FAIL(LS_E_INPUT, "'%s' is no name for a counter", name);
        }
        if (!json_is_object(value)) {
            LS_TRY(counter_write(group, name, value, unit));
            continue;
        }
        LS_TRY(ls_ckpt_h5_group(group, name));
        hid_t inner = H5Gopen2(group, name, H5P_DEFAULT);
        ls_status status = inner < 0 ? LS_H5_FAIL(LS_E_IO, "cannot open the group '%s'", name)
                                     : counters_write(inner, value, unit);
        H5Gclose(inner);
        LS_TRY(status);
    }
    return LS_OK;
}

ls_status ls_ckpt_h5_counters_write(hid_t file, const json_t *counters) {
    LS_TRY(ls_ckpt_h5_group(file, "/counters"));
    hid_t group = H5Gopen2(file, "/counters", H5P_DEFAULT);
    ls_status status = counters_write(group, counters, NULL);
    H5Gclose(group);
    return status;
}

static ls_status index_links(hid_t file, const json_t *tensors) {
    size_t i, k;
    json_t *tensor, *piece;
    json_array_foreach((json_t *)tensors, i, tensor) {
        json_array_foreach(json_object_get(tensor, "pieces"), k, piece) {
            const char *target = json_string_value(json_object_get(piece, "file"));
            const char *dataset = json_string_value(json_object_get(piece, "dataset"));
            if (H5Lcreate_external(target, dataset, file, dataset, H5P_DEFAULT, H5P_DEFAULT) < 0) {
                return LS_H5_FAIL(LS_E_IO, "cannot link '%s' to '%s'", dataset, target);
            }
        }
    }
    return LS_OK;
}

ls_status ls_ckpt_h5_index_write(const char *path, const char *first_file, const json_t *tensors) {
    LS_TRY(ls_ckpt_h5_init());
    hid_t file;
    ls_ckpt_h5_output output;
    LS_TRY(ls_ckpt_h5_create(path, &output, &file));
    ls_status status = ls_ckpt_h5_group(file, "/tensors");
    if (status == LS_OK) {
        status = index_links(file, tensors);
    }
    if (status == LS_OK && H5Lcreate_external(first_file, "/counters", file, "/counters",
                                              H5P_DEFAULT, H5P_DEFAULT) < 0) {
        status = LS_H5_FAIL(LS_E_IO, "cannot link '/counters'");
    }
    ls_status completed = ls_ckpt_h5_complete(file, &output, path);
    return status != LS_OK ? status : completed;
}
