/* SPDX-License-Identifier: Apache-2.0 */
#include "first_boot/yaml.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "first_boot/flow.h"

#define DEEPEST 32
#define MOST_LINES 100000

/* Lines end with a zero byte each. One whose dash was read is as if it began behind it. */
struct document {
	struct yaml_reader reader;
	char **lines;
	int count, at;
};

static struct yaml *read_block(struct document *document, int indent, int depth);

static int indent_of(const char *line)
{
	return strspn(line, " ");
}

static bool says_nothing(const char *line)
{
	line += strspn(line, " ");
	return !*line || *line == '#';
}

/* Goes to the next line that says something; its indentation, or -1 at the end. */
static int next_line(struct document *document)
{
	while (document->at < document->count && says_nothing(document->lines[document->at]))
		document->at++;
	document->reader.line = document->at + 1;
	return document->at < document->count ? indent_of(document->lines[document->at]) : -1;
}

static bool is_item(const char *text)
{
	return text[0] == '-' && (!text[1] || text[1] == ' ');
}

/* ---- blocks of text ---- */

struct block {
	int indent; /* 0: that of its first line */
	char style, chomp;
};

static bool read_header(struct document *document, const char *text, int parent, struct block *block)
{
	block->style = *text++;
	for (; *text && *text != ' '; text++) {
		if ((*text == '-' || *text == '+') && !block->chomp)
			block->chomp = *text;
		else if (*text >= '1' && *text <= '9' && !block->indent)
			block->indent = parent + *text - '0';
		else
			return yaml_fail(&document->reader, "a block begins with | or >, and then - or +");
	}
	return says_nothing(text) || yaml_fail(&document->reader, "a block's text begins in the next line");
}

static void find_indent(struct document *document, int parent, struct block *block)
{
	for (int at = document->at; !block->indent && at < document->count; at++) {
		const char *line = document->lines[at];
		int indent = indent_of(line);

		if (!line[indent])
			continue;
		block->indent = indent > parent ? indent : parent + 1;
	}
	if (!block->indent)
		block->indent = INT_MAX; /* there is no more than empty lines */
}

/* How a line is parted from that before: those of `>` by a space, unless one of the two is set in or is empty. */
static void part(struct document *document, const struct block *block, const char *before, const char *line, int empty)
{
	bool folds = block->style == '>' && before && *before != ' ' && *line != ' ' && *before != '\t' && *line != '\t';

	if (folds && !empty)
		yaml_put(&document->reader, ' ');
	for (int count = folds ? 1 : 0; count < empty + (before != NULL); count++)
		yaml_put(&document->reader, '\n');
}

/* The lines of a block, which ends where one is set in less. */
static char *read_text_block(struct document *document, const char *header, int parent)
{
	struct block block = {};
	const char *before = NULL;
	int empty = 0;
	char *begin;

	if (!read_header(document, header, parent, &block))
		return NULL;
	document->at++;
	find_indent(document, parent, &block);
	begin = yaml_begin(&document->reader);
	for (; document->at < document->count; document->at++) {
		const char *line = document->lines[document->at];
		int indent = indent_of(line);

		if (!line[indent] && indent <= block.indent) {
			empty++;
			continue;
		}
		if (indent < block.indent)
			break;
		line += block.indent;
		part(document, &block, before, line, empty);
		for (const char *letter = line; *letter; letter++)
			yaml_put(&document->reader, *letter);
		before = line;
		empty = 0;
	}
	for (int count = 0; count < (block.chomp == '+' ? empty + (before != NULL) : block.chomp != '-' && before); count++)
		yaml_put(&document->reader, '\n');
	return yaml_end(&document->reader, begin);
}

/* ---- tables and lists ---- */

/* Whether a line is `key: …` of a block. */
static size_t key_length(const char *text)
{
	size_t length = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./");

	return length && text[length] == ':' && (!text[length + 1] || text[length + 1] == ' ') ? length : 0;
}

static struct yaml *nothing(struct document *document)
{
	struct yaml *made = yaml_new(&document->reader, YAML_TEXT);

	made->text = "";
	made->null = true;
	return made;
}

/* What comes after `key:` in the same line, or in those that follow. */
static struct yaml *read_value(struct document *document, char *text, int indent, int depth)
{
	struct yaml *made;
	int next;

	text += strspn(text, " ");
	if (*text == '|' || *text == '>') {
		made = yaml_new(&document->reader, YAML_TEXT);
		made->text = read_text_block(document, text, indent);
		return made->text ? made : NULL;
	}
	if (!says_nothing(text)) {
		made = flow_read(&document->reader, text);
		document->at++;
		return made;
	}
	document->at++;
	next = next_line(document);
	if (next > indent || (next == indent && is_item(document->lines[document->at] + indent)))
		return read_block(document, next, depth + 1);
	return nothing(document);
}

static struct yaml *read_table(struct document *document, int indent, int depth)
{
	struct yaml *table = yaml_new(&document->reader, YAML_TABLE);

	while (next_line(document) == indent) {
		char *text = document->lines[document->at] + indent;
		size_t length = key_length(text);
		int line = document->at + 1;
		struct yaml *value;

		if (!length)
			return yaml_refuse(&document->reader, "is no key with its value");
		text[length] = 0;
		value = read_value(document, text + length + 1, indent, depth);
		if (!value || !yaml_add(&document->reader, table, value, text, line))
			return NULL;
	}
	return table;
}

static struct yaml *read_list(struct document *document, int indent, int depth)
{
	struct yaml *list = yaml_new(&document->reader, YAML_LIST);

	while (next_line(document) == indent && is_item(document->lines[document->at] + indent)) {
		char *line = document->lines[document->at];
		int number = document->at + 1, next;
		struct yaml *value;

		line[indent] = ' ';
		if (line[indent + 1 + strspn(line + indent + 1, " ")] == '|' ||
		    line[indent + 1 + strspn(line + indent + 1, " ")] == '>')
			value = read_value(document, line + indent + 1, indent, depth);
		else
			value = (next = next_line(document)) > indent ? read_block(document, next, depth + 1)
								      : nothing(document);
		if (!value || !yaml_add(&document->reader, list, value, NULL, number))
			return NULL;
	}
	return list;
}

static struct yaml *read_block(struct document *document, int indent, int depth)
{
	char *text = document->lines[document->at] + indent;
	struct yaml *made;

	if (depth > DEEPEST)
		return yaml_refuse(&document->reader, "is nested too deep");
	if (is_item(text))
		return read_list(document, indent, depth);
	if (key_length(text))
		return read_table(document, indent, depth);
	made = flow_read(&document->reader, text);
	document->at++;
	return made;
}

/* ---- the document ---- */

static bool is_clean(struct document *document, const char *line)
{
	for (; *line; line++)
		if ((unsigned char)*line < ' ' && *line != '\t')
			return yaml_fail(&document->reader, "has a byte that is no text");
	return true;
}

/* Nothing was said yet. */
static bool begins(const struct document *document)
{
	for (int at = 0; at < document->count; at++)
		if (!says_nothing(document->lines[at]))
			return false;
	return true;
}

static bool split_lines(struct document *document, char *text)
{
	char *line;

	document->lines = calloc(MOST_LINES, sizeof(*document->lines));
	while ((line = strsep(&text, "\n"))) {
		size_t length = strlen(line);

		document->reader.line = document->count + 1;
		if (document->count == MOST_LINES)
			return yaml_fail(&document->reader, "there are too many lines");
		if (length && line[length - 1] == '\r')
			line[length - 1] = 0;
		if (!is_clean(document, line))
			return false;
		if (!strcmp(line, "---") && begins(document))
			*line = 0;
		if (!strncmp(line, "---", 3) || !strncmp(line, "...", 3) || *line == '%')
			return yaml_fail(&document->reader, "begins another document");
		document->lines[document->count++] = line;
	}
	/* What comes after the last end of a line is no line. */
	if (document->count && !*document->lines[document->count - 1])
		document->count--;
	return true;
}

struct yaml *yaml_read(char *text, char *error, size_t room)
{
	struct document document = { .reader = { .error = error, .room = room } };
	struct yaml *made;
	int indent;

	*error = 0;
	document.reader.store = malloc(strlen(text) * 2 + 2);
	if (!split_lines(&document, text))
		return NULL;
	indent = next_line(&document);
	if (indent < 0)
		return nothing(&document);
	made = read_block(&document, indent, 0);
	if (made && next_line(&document) >= 0)
		return yaml_refuse(&document.reader, "is not set in as what stands before it");
	return made;
}
