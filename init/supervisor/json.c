/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/json.h"

#include <stdio.h>
#include <string.h>

void json_raw(struct buffer *buffer, const char *text)
{
	buffer_add(buffer, text, strlen(text));
}

static void begin_member(struct buffer *buffer, const char *key)
{
	char last = buffer->used ? buffer->bytes[buffer->used - 1] : '{';

	json_raw(buffer, last == '{' || last == '[' ? "\"" : ", \"");
	json_raw(buffer, key);
	json_raw(buffer, "\": ");
}

/* Bytes that are not ASCII are passed on as they are. */
void json_text(struct buffer *buffer, const char *key, const char *text)
{
	char escaped[8];

	begin_member(buffer, key);
	json_raw(buffer, "\"");
	for (; *text; text++) {
		if ((unsigned char)*text < 0x20)
			snprintf(escaped, sizeof(escaped), "\\u%04x", *text);
		else
			snprintf(escaped, sizeof(escaped), "%s%c", *text == '"' || *text == '\\' ? "\\" : "", *text);
		json_raw(buffer, escaped);
	}
	json_raw(buffer, "\"");
}

void json_number(struct buffer *buffer, const char *key, long long number)
{
	char text[32];

	begin_member(buffer, key);
	snprintf(text, sizeof(text), "%lld", number);
	json_raw(buffer, text);
}

void json_truth(struct buffer *buffer, const char *key, bool truth)
{
	begin_member(buffer, key);
	json_raw(buffer, truth ? "true" : "false");
}

void json_container(struct buffer *buffer, const struct container *container)
{
	json_text(buffer, "stage", container->stage);
	json_text(buffer, "name", container->name);
	json_text(buffer, "state", state_name(container->state));
	json_number(buffer, "restarts", container->restarts);
	if (container->status >= 0)
		json_number(buffer, "status", container->status);
	if (*container->failure)
		json_text(buffer, "failure", container->failure);
}
