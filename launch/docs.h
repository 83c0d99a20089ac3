/* --help, --version, the man page and shell completions, all from the verbs' option tables and
 * the configuration's field table. */
#ifndef LS_LAUNCH_DOCS_H
#define LS_LAUNCH_DOCS_H

#include "launch/cmd.h"

#include <stdio.h>

/* NULL-terminated, in the order of --help. */
extern const ls_verb *const ls_verbs[];

void ls_docs_help(FILE *out);
void ls_docs_verb_help(FILE *out, const ls_verb *verb);
void ls_docs_version(FILE *out);
void ls_docs_man(FILE *out);        /* roff, section 1 */
void ls_docs_completion(FILE *out); /* bash */

#endif
