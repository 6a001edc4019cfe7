/* SPDX-License-Identifier: Apache-2.0 */
/*
 * YAML as people write it by hand: tables and lists by indentation or in brackets on one line, plain and quoted text,
 * `|` and `>` blocks, comments. What there is beside that (anchors, tags, text over several lines, several documents) is
 * refused, never read otherwise than YAML 1.2 (yaml.org/spec/1.2.2) has it. A scalar is its text, whatever its type.
 */
#ifndef WHIT_YAML_H
#define WHIT_YAML_H

#include <stdbool.h>
#include <stddef.h>

enum yaml_kind { YAML_TEXT, YAML_LIST, YAML_TABLE };

struct yaml {
	enum yaml_kind kind;
	int line; /* from 1 */
	const char *key; /* in a table */
	char *text;
	bool null; /* nothing was written, or null or ~ */
	struct yaml *first, *next; /* members, in order */
};

/* Takes `text` apart, which it changes. NULL: `error` says what is wrong, and in which line. Nothing is ever freed. */
struct yaml *yaml_read(char *text, char *error, size_t room);

#endif
