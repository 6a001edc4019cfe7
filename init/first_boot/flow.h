/* SPDX-License-Identifier: Apache-2.0 */
/* What YAML has within a line: text, plain or quoted, lists and tables in brackets. And what makes nodes (yaml.h). */
#ifndef WHIT_FLOW_H
#define WHIT_FLOW_H

#include <stdbool.h>
#include <stddef.h>

#include "first_boot/yaml.h"

/* `store` has room for the text of all nodes. */
struct yaml_reader {
	char *error;
	size_t room;
	char *store;
	size_t used;
	int line;
};

/* False, NULL; what is wrong in the line that is read is kept for the caller of yaml_read. */
bool yaml_fail(struct yaml_reader *reader, const char *what);
struct yaml *yaml_refuse(struct yaml_reader *reader, const char *what);

struct yaml *yaml_new(struct yaml_reader *reader, enum yaml_kind kind);
/* False: the key is there already. */
bool yaml_add(struct yaml_reader *reader, struct yaml *parent, struct yaml *value, const char *key, int line);

/* A text, letter by letter. */
char *yaml_begin(struct yaml_reader *reader);
void yaml_put(struct yaml_reader *reader, char letter);
char *yaml_end(struct yaml_reader *reader, char *begin);

/* What a line says, to its end. */
struct yaml *flow_read(struct yaml_reader *reader, const char *text);

#endif
