/* SPDX-License-Identifier: Apache-2.0 */
/* Base64 (RFC 4648), with white space between its letters. */
#ifndef WHIT_BASE64_H
#define WHIT_BASE64_H

#include <stdbool.h>
#include <stddef.h>

/* In place. False: it is none; nothing (NULL) is no byte. */
bool base64_decode(char *text, size_t *size);

#endif
