/* SPDX-License-Identifier: Apache-2.0 */
#include "first_boot/cloud_config.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "first_boot/base64.h"
#include "first_boot/yaml.h"

#define BEGINNING "whit-first-boot 1\n"
#define KIND "#cloud-config"
#define KEYS "/run/config/ssh/authorized_keys"
#define LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

struct written {
	const char *path, *text;
	size_t size;
	unsigned int mode, uid, gid;
	bool append;
};

struct reading {
	struct buffer *entries;
	char *error;
	size_t room;
};

static bool refuse(const struct reading *reading, const struct yaml *where, const char *format, ...)
{
	int size = snprintf(reading->error, reading->room, "line %d: ", where->line);
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(reading->error + size, reading->room - size, format, arguments);
	va_end(arguments);
	return false;
}

/* ---- entries ---- */

static void add_record(struct buffer *entries, const char *key, const char *value)
{
	buffer_add(entries, key, strlen(key));
	buffer_add(entries, "=", 1);
	buffer_add(entries, value, strlen(value) + 1);
}

static void add_number(struct buffer *entries, const char *key, const char *form, unsigned long number)
{
	char text[32];

	snprintf(text, sizeof(text), form, number);
	add_record(entries, key, text);
}

static void add_file(struct buffer *entries, const struct written *file)
{
	add_record(entries, "kind", "file");
	add_record(entries, "path", file->path);
	add_number(entries, "mode", "%lo", file->mode);
	add_number(entries, "uid", "%lu", file->uid);
	add_number(entries, "gid", "%lu", file->gid);
	add_number(entries, "size", "%lu", file->size);
	add_record(entries, "overwrite", "1");
	if (file->append)
		add_record(entries, "append", "1");
	buffer_add(entries, "", 1);
	buffer_add(entries, file->text, file->size);
}

static void add_text(struct buffer *entries, const char *path, const struct buffer *text, unsigned int mode)
{
	add_file(entries, &(struct written){ .path = path, .text = text->bytes, .size = text->used, .mode = mode });
}

/* ---- tables ---- */

static const struct yaml *member(const struct yaml *table, const char *key)
{
	for (const struct yaml *one = table->first; one; one = one->next)
		if (!strcmp(one->key, key))
			return one;
	return NULL;
}

/* A table with none but these keys; nothing is an empty one. */
static bool is_table(const struct reading *reading, const struct yaml *table, const char *const *known)
{
	if (table->kind != YAML_TABLE)
		return table->null || refuse(reading, table, "is not a table of keys");
	for (const struct yaml *one = table->first; one; one = one->next) {
		const char *const *key = known;

		while (*key && strcmp(*key, one->key))
			key++;
		if (!*key)
			return refuse(reading, one, "%s is not honoured", one->key);
	}
	return true;
}

static bool is_list(const struct reading *reading, const struct yaml *list)
{
	return list->kind == YAML_LIST || list->null || refuse(reading, list, "%s is not a list", list->key);
}

static bool is_text(const struct reading *reading, const struct yaml *value, bool empty)
{
	return (value->kind == YAML_TEXT && (empty || *value->text)) ||
	       refuse(reading, value, "%s is no text, or empty", value->key ? value->key : "an item");
}

/* ---- names and keys ---- */

static bool is_host_name(const char *name)
{
	size_t length = strlen(name);

	if (!length || length > 64)
		return false;
	for (const char *label = name; label; label = *label == '.' ? label + 1 : NULL) {
		size_t size = strspn(label, LETTERS "-");

		if (!size || size > 63 || *label == '-' || label[size - 1] == '-' || (label[size] && label[size] != '.'))
			return false;
		label += size;
	}
	return true;
}

/* A public key as authorized_keys has it; sshd(8). */
static bool is_key(const char *line)
{
	static const char *const kinds[] = { "ssh-", "ecdsa-", "sk-" };
	size_t kind = strspn(line, "abcdefghijklmnopqrstuvwxyz0123456789@.-"), size;
	bool known = false;

	for (size_t at = 0; at < 3; at++)
		known |= !strncmp(line, kinds[at], strlen(kinds[at])) && kind > strlen(kinds[at]);
	if (!known || line[kind] != ' ')
		return false;
	size = strspn(line + kind + 1, LETTERS "+/=");
	line += kind + 1 + size;
	return size && (!*line || *line == ' ') && !strchr(line, '\n');
}

static bool read_name(const struct reading *reading, const struct yaml *value, const char **name)
{
	if (!value)
		return true;
	if (!is_text(reading, value, false))
		return false;
	*name = value->text;
	return is_host_name(*name) || refuse(reading, value, "%s is no host name", *name);
}

static bool read_keys(const struct reading *reading, const struct yaml *list, struct buffer *lines)
{
	if (!list)
		return true;
	if (!is_list(reading, list))
		return false;
	for (const struct yaml *one = list->first; one; one = one->next) {
		char *line = one->text, *end;

		if (!is_text(reading, one, false))
			return false;
		line += strspn(line, " \t\n");
		for (end = line + strlen(line); end > line && strchr(" \t\n", end[-1]);)
			*--end = 0;
		if (!is_key(line))
			return refuse(reading, one, "is no public key of SSH");
		buffer_add(lines, line, strlen(line));
		buffer_add(lines, "\n", 1);
	}
	return true;
}

/* ---- files ---- */

/* A path from the root that stays below it, and is seen when the machine has booted. */
static bool is_path(const char *path)
{
	static const char *const kernels[] = { "/proc", "/sys", "/dev" };

	for (size_t at = 0; at < 3; at++) {
		size_t size = strlen(kernels[at]);

		if (!strncmp(path, kernels[at], size) && (!path[size] || path[size] == '/'))
			return false;
	}
	while (*path == '/') {
		size_t size = strcspn(path + 1, "/");

		if (!size || (path[1] == '.' && (size == 1 || (size == 2 && path[2] == '.'))))
			return false;
		path += size + 1;
		if (!*path)
			return true;
	}
	return false;
}

static bool read_mode(const struct reading *reading, const struct yaml *value, unsigned int *mode)
{
	const char *digits;

	if (!value)
		return true;
	if (!is_text(reading, value, false))
		return false;
	digits = value->text + (strncmp(value->text, "0o", 2) ? 0 : 2);
	*mode = strtoul(digits, NULL, 8);
	return (*digits && strlen(digits) <= 5 && strspn(digits, "01234567") == strlen(digits) && *mode <= 07777) ||
	       refuse(reading, value, "%s is not a mode; write it in octal, as 0644", value->text);
}

static bool read_id(const char *word, size_t size, unsigned int *id)
{
	*id = strtoul(word, NULL, 10);
	if (size == 4 && !strncmp(word, "root", 4)) {
		*id = 0;
		return true;
	}
	return size && size < 10 && strspn(word, "0123456789") == size;
}

/* `root` and numbers: the machine has no other users. */
static bool read_owner(const struct reading *reading, const struct yaml *value, struct written *file)
{
	const char *text, *colon;

	if (!value)
		return true;
	if (!is_text(reading, value, false))
		return false;
	text = value->text;
	colon = strchr(text, ':');
	if (!read_id(text, colon ? (size_t)(colon - text) : strlen(text), &file->uid))
		return refuse(reading, value, "%s is no owner: root, or a number", text);
	file->gid = file->uid;
	return !colon || read_id(colon + 1, strlen(colon + 1), &file->gid) ||
	       refuse(reading, value, "%s is no owner: root, or a number", text);
}

static bool read_truth(const struct reading *reading, const struct yaml *value, bool *truth)
{
	static const char *const words[] = { "false", "no", "off", "true", "yes", "on" };

	for (size_t at = 0; value && value->kind == YAML_TEXT && at < 6; at++)
		if (!strcasecmp(value->text, words[at])) {
			*truth = at > 2;
			return true;
		}
	return !value || refuse(reading, value, "%s is not true or false", value->key);
}

static bool read_content(const struct reading *reading, const struct yaml *table, struct written *file)
{
	static const char *const coded[] = { "base64", "b64" };
	const struct yaml *content = member(table, "content"), *coding = member(table, "encoding");
	bool plain = !coding || (coding->kind == YAML_TEXT && (!*coding->text || !strcmp(coding->text, "text/plain")));

	file->text = content && content->kind == YAML_TEXT ? content->text : "";
	file->size = strlen(file->text);
	if (content && !is_text(reading, content, true))
		return false;
	if (strstr(file->text, "$private_ipv") || strstr(file->text, "$public_ipv"))
		return refuse(reading, content, "an address in place of a name is not honoured");
	for (int at = 0; !plain && at < 2; at++)
		if (coding->kind == YAML_TEXT && !strcmp(coding->text, coded[at]))
			return base64_decode(content ? content->text : NULL, &file->size) ||
			       refuse(reading, content, "is not base64");
	return plain || refuse(reading, coding, "the encoding is none that is read here: text/plain, base64");
}

static bool read_file(const struct reading *reading, const struct yaml *table, struct written *file)
{
	static const char *const known[] = { "path", "content", "permissions", "owner", "encoding", "append", NULL };
	const struct yaml *path;

	*file = (struct written){ .mode = 0644 };
	if (!is_table(reading, table, known))
		return false;
	path = member(table, "path");
	if (!path)
		return refuse(reading, table, "a file has no path");
	file->path = path->kind == YAML_TEXT ? path->text : "";
	if (!is_path(file->path))
		return refuse(reading, path, "%s is not a path from the root, or the kernel's", file->path);
	return read_mode(reading, member(table, "permissions"), &file->mode) &&
	       read_owner(reading, member(table, "owner"), file) &&
	       read_truth(reading, member(table, "append"), &file->append) && read_content(reading, table, file);
}

/* Whether this file was written by one before it, where it does not add to that. */
static bool is_twice(const struct yaml *list, const struct yaml *table, const char *path)
{
	const struct yaml *append;

	for (const struct yaml *one = list->first; one != table; one = one->next) {
		bool adds = false;

		append = member(one, "append");
		read_truth(&(struct reading){ .error = (char[256]){}, .room = 256 }, append, &adds);
		if (!adds && !strcmp(member(one, "path")->text, path))
			return true;
	}
	return false;
}

static bool read_files(const struct reading *reading, const struct yaml *list)
{
	struct written file;

	if (!list)
		return true;
	if (!is_list(reading, list))
		return false;
	for (const struct yaml *one = list->first; one; one = one->next) {
		if (!read_file(reading, one, &file))
			return false;
		if (!file.append && is_twice(list, one, file.path))
			return refuse(reading, one, "%s is written twice", file.path);
		add_file(reading->entries, &file);
	}
	return true;
}

/* ---- both texts ---- */

static bool read_hosts(const struct reading *reading, const struct yaml *value, const char *name, struct buffer *hosts)
{
	char text[512];

	if (!value)
		return true;
	if (value->kind != YAML_TEXT || strcmp(value->text, "localhost"))
		return refuse(reading, value, "manage_etc_hosts can be localhost");
	if (!*name)
		return refuse(reading, value, "manage_etc_hosts needs a host name");
	snprintf(text, sizeof(text), "127.0.0.1 localhost\n127.0.0.1 %s\n::1 localhost\n", name);
	buffer_add(hosts, text, strlen(text));
	return true;
}

static void add_name(struct buffer *entries, const char *name)
{
	struct buffer line = {};

	buffer_add(&line, name, strlen(name));
	buffer_add(&line, "\n", 1);
	add_text(entries, "/etc/hostname", &line, 0644);
	free(line.bytes);
}

static bool read_config(const struct reading *reading, const struct yaml *table, const char *name)
{
	struct buffer hosts = {}, keys = {};

	if (!read_name(reading, member(table, "hostname"), &name) ||
	    !read_hosts(reading, member(table, "manage_etc_hosts"), name, &hosts) ||
	    !read_keys(reading, member(table, "ssh_authorized_keys"), &keys))
		return false;
	buffer_add(reading->entries, BEGINNING, strlen(BEGINNING));
	if (*name) {
		add_record(reading->entries, "hostname", name);
		buffer_add(reading->entries, "", 1);
	}
	if (!read_files(reading, member(table, "write_files")))
		return false;
	if (*name)
		add_name(reading->entries, name);
	if (hosts.used)
		add_text(reading->entries, "/etc/hosts", &hosts, 0644);
	if (keys.used)
		add_text(reading->entries, KEYS, &keys, 0600);
	add_record(reading->entries, "end", "1");
	buffer_add(reading->entries, "", 1);
	return true;
}

static struct yaml *read_text(const struct reading *reading, char *text, const char *const *known)
{
	struct yaml *table = yaml_read(text, reading->error, reading->room);

	return table && is_table(reading, table, known) ? table : NULL;
}

/* Puts the name of the file before what is wrong with it. */
static bool blame(const struct reading *reading, const char *file)
{
	char what[512];

	snprintf(what, sizeof(what), "%s", reading->error);
	snprintf(reading->error, reading->room, "%s, %s", file, what);
	return false;
}

bool cloud_config_read(char *user_data, char *meta_data, struct buffer *entries, char *error, size_t room)
{
	static const char *const known[] = { "hostname", "ssh_authorized_keys", "manage_etc_hosts", "write_files", NULL };
	static const char *const known_meta[] = { "instance-id", "local-hostname", NULL };
	struct reading reading = { entries, error, room };
	const char *name = "";
	struct yaml *table;

	if (strncmp(user_data, KIND, strlen(KIND)) || !strchr(" \r\n", user_data[strlen(KIND)])) {
		snprintf(error, room, "user-data does not begin with " KIND ", and nothing else is read here");
		return false;
	}
	table = read_text(&reading, meta_data, known_meta);
	if (!table || !read_name(&reading, member(table, "local-hostname"), &name))
		return blame(&reading, "meta-data");
	table = read_text(&reading, user_data, known);
	return (table && read_config(&reading, table, name)) || blame(&reading, "user-data");
}
