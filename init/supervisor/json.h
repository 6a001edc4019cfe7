/* SPDX-License-Identifier: Apache-2.0 */
/* JSON (RFC 8259) at the end of a buffer. Members are parted by a comma unless the object or list has just begun. */
#ifndef WHIT_JSON_H
#define WHIT_JSON_H

#include "channel/wire.h"
#include "supervisor/container.h"

/* As it is: brackets, and what stands before them. */
void json_raw(struct buffer *buffer, const char *text);
void json_text(struct buffer *buffer, const char *key, const char *text);
void json_number(struct buffer *buffer, const char *key, long long number);
void json_truth(struct buffer *buffer, const char *key, bool truth);
/* The members that say what a container is and does. */
void json_container(struct buffer *buffer, const struct container *container);

#endif
