/* SPDX-License-Identifier: Apache-2.0 */
/* Directories and small files, and what could not be done with them, said on standard error. */
#ifndef WHIT_FILES_H
#define WHIT_FILES_H

#include <stdbool.h>

#define LONGEST 4096

/* "whit: cannot WHAT ABOUT", and why, of errno. Always false. */
bool complain(const char *what, const char *about);
/* All directories up to a place, and the place too unless something is there. */
bool make_directories(const char *place);
bool write_text(const char *path, const char *text);
/* The kernel's command line from this option on, or NULL. It stays until the next call. */
const char *kernel_option(const char *option);

#endif
