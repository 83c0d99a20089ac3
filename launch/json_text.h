/* Text from outside, which may be no UTF-8, in JSON; and results printed as JSON. */
#ifndef LS_LAUNCH_JSON_TEXT_H
#define LS_LAUNCH_JSON_TEXT_H

#include "runtime/base/status.h"

#include <jansson.h>

/* A string: of paths and messages with paths, bytes that are no UTF-8 are \xNN (and written with
 * another backslash before it in the JSON text). NULL: out of memory. */
json_t *ls_json_text(const char *text);

/* As many as tell one double from the next. */
#define LS_JSON_ALL_DIGITS 17

/* Prints it, reals with so many digits, and lets it go. json NULL, or no memory for its text:
 * LS_E_MEMORY. */
ls_status ls_json_print(json_t *json, int digits);

#endif
