/* SPDX-License-Identifier: Apache-2.0 */
#include "first_boot/flow.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEEPEST 32
#define MARKS ",[]{}"

static struct yaml *read_node(struct yaml_reader *reader, const char **here, int depth);

bool yaml_fail(struct yaml_reader *reader, const char *what)
{
	if (!*reader->error)
		snprintf(reader->error, reader->room, "line %d: %s", reader->line, what);
	return false;
}

struct yaml *yaml_refuse(struct yaml_reader *reader, const char *what)
{
	yaml_fail(reader, what);
	return NULL;
}

struct yaml *yaml_new(struct yaml_reader *reader, enum yaml_kind kind)
{
	struct yaml *made = calloc(1, sizeof(*made));

	made->kind = kind;
	made->line = reader->line;
	return made;
}

bool yaml_add(struct yaml_reader *reader, struct yaml *parent, struct yaml *value, const char *key, int line)
{
	struct yaml **last = &parent->first;

	for (; *last; last = &(*last)->next)
		if (key && !strcmp((*last)->key, key)) {
			reader->line = line;
			return yaml_fail(reader, "the key is there already");
		}
	value->key = key;
	value->line = line;
	*last = value;
	return true;
}

char *yaml_begin(struct yaml_reader *reader)
{
	return reader->store + reader->used;
}

void yaml_put(struct yaml_reader *reader, char letter)
{
	reader->store[reader->used++] = letter;
}

char *yaml_end(struct yaml_reader *reader, char *begin)
{
	reader->store[reader->used++] = 0;
	return begin;
}

/* ---- text ---- */

/* Between what is not quoted a tab is an end, and then a mistake: no two readers of YAML agree on it. */

static void put_character(struct yaml_reader *reader, uint32_t number)
{
	if (number < 0x80) {
		yaml_put(reader, number);
		return;
	}
	if (number < 0x800) {
		yaml_put(reader, 0xc0 | number >> 6);
	} else {
		yaml_put(reader, 0xe0 | number >> 12);
		yaml_put(reader, 0x80 | (number >> 6 & 0x3f));
	}
	yaml_put(reader, 0x80 | (number & 0x3f));
}

/* \xHH and \uHHHH; no byte of zero, and no half of a pair. */
static bool put_number(struct yaml_reader *reader, const char **here, size_t digits)
{
	char text[5] = "";
	uint32_t number;

	strncpy(text, *here, digits);
	if (strspn(text, "0123456789abcdefABCDEF") != digits)
		return yaml_fail(reader, "has an escape that is no number");
	number = strtoul(text, NULL, 16);
	if (!number || (number >= 0xd800 && number < 0xe000))
		return yaml_fail(reader, "has an escape that is no character");
	put_character(reader, number);
	*here += digits;
	return true;
}

static bool put_escape(struct yaml_reader *reader, const char **here)
{
	static const char letters[] = "ntr\"\\/ abefv", meant[] = "\n\t\r\"\\/ \a\b\x1b\f\v";
	char letter = *(*here)++;
	const char *found = letter ? strchr(letters, letter) : NULL;

	if (letter == 'x' || letter == 'u')
		return put_number(reader, here, letter == 'x' ? 2 : 4);
	if (!found)
		return yaml_fail(reader, "has an escape that is not known");
	yaml_put(reader, meant[found - letters]);
	return true;
}

static char *read_quoted(struct yaml_reader *reader, const char **here)
{
	char quote = *(*here)++, *begin = yaml_begin(reader);

	while (**here && (**here != quote || (quote == '\'' && (*here)[1] == quote))) {
		char letter = *(*here)++;

		if (letter == '\\' && quote == '"') {
			if (!put_escape(reader, here))
				return NULL;
			continue;
		}
		if (letter == quote)
			(*here)++;
		yaml_put(reader, letter);
	}
	if (!**here) {
		yaml_fail(reader, "a quoted text has to end in its line");
		return NULL;
	}
	(*here)++;
	return yaml_end(reader, begin);
}

static bool ends_plain(const char *here, const char *begin, bool within)
{
	if (!*here || *here == '\t' || (*here == '#' && here > begin && here[-1] == ' '))
		return true;
	if (within && strchr(MARKS, *here))
		return true;
	return *here == ':' && (!here[1] || here[1] == ' ' || here[1] == '\t' || (within && strchr(MARKS, here[1])));
}

static char *read_plain(struct yaml_reader *reader, const char **here, bool within)
{
	const char *begin = *here, *end = begin;
	char *text = yaml_begin(reader);

	if (strchr("\t,[]{}#&*!|>'\"%@`?:", *begin) || (*begin == '-' && (!begin[1] || strchr(" " MARKS, begin[1])))) {
		yaml_fail(reader, "begins with a mark that is not read here; put it into quotes");
		return NULL;
	}
	while (!ends_plain(end, begin, within))
		end++;
	*here = end;
	while (end > begin && end[-1] == ' ')
		end--;
	while (begin < end)
		yaml_put(reader, *begin++);
	return yaml_end(reader, text);
}

static bool is_null(const char *text)
{
	return !strcmp(text, "~") || !strcmp(text, "null") || !strcmp(text, "Null") || !strcmp(text, "NULL");
}

static struct yaml *read_text(struct yaml_reader *reader, const char **here, bool within)
{
	bool quoted = **here == '"' || **here == '\'';
	char *text = quoted ? read_quoted(reader, here) : read_plain(reader, here, within);
	struct yaml *made = text ? yaml_new(reader, YAML_TEXT) : NULL;

	if (!made)
		return NULL;
	made->null = !quoted && is_null(text);
	made->text = made->null ? "" : text;
	return made;
}

/* ---- lists and tables in brackets ---- */

static void skip_spaces(const char **here)
{
	*here += strspn(*here, " ");
}

/* The key before a value of a table. */
static char *read_key(struct yaml_reader *reader, const char **here)
{
	struct yaml *key = read_text(reader, here, true);

	if (!key)
		return NULL;
	skip_spaces(here);
	if (key->null || **here != ':') {
		yaml_fail(reader, "is no key with its value");
		return NULL;
	}
	(*here)++;
	skip_spaces(here);
	return key->text;
}

static struct yaml *read_members(struct yaml_reader *reader, const char **here, int depth)
{
	bool table = *(*here)++ == '{';
	char end = table ? '}' : ']';
	struct yaml *made = yaml_new(reader, table ? YAML_TABLE : YAML_LIST);

	for (skip_spaces(here); **here != end; skip_spaces(here)) {
		char *key = table ? read_key(reader, here) : NULL;
		struct yaml *value = table && !key ? NULL : read_node(reader, here, depth + 1);

		if (!value || !yaml_add(reader, made, value, key, reader->line))
			return NULL;
		skip_spaces(here);
		if (**here == ',')
			(*here)++;
		else if (**here != end)
			return yaml_refuse(reader, "brackets have to end in their line, and members are parted by commas");
	}
	(*here)++;
	return made;
}

static struct yaml *read_node(struct yaml_reader *reader, const char **here, int depth)
{
	if (depth > DEEPEST)
		return yaml_refuse(reader, "is nested too deep");
	if (**here == '[' || **here == '{')
		return read_members(reader, here, depth);
	if (!**here)
		return yaml_refuse(reader, "brackets have to end in their line");
	return read_text(reader, here, depth > 0);
}

struct yaml *flow_read(struct yaml_reader *reader, const char *text)
{
	const char *here = text;
	struct yaml *made;
	bool parted;

	skip_spaces(&here);
	made = read_node(reader, &here, 0);
	if (!made)
		return NULL;
	parted = here[-1] == ' ' || *here == ' ';
	skip_spaces(&here);
	if (*here && !(parted && *here == '#'))
		return yaml_refuse(reader, "goes on where a value has ended");
	return made;
}
