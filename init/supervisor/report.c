/* SPDX-License-Identifier: Apache-2.0 */
#include "supervisor/report.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "channel/wire.h"
#include "supervisor/debug.h"
#include "supervisor/json.h"

#define PORT_NAME "whit.machine"
#define BOOT_NAME "whit.boot"
#define DEBUG_NAME "whit.debug"
#define MOST_WAITING (256u * 1024)
#define LONGEST_COMMAND 256

static int port = -1, boot_port = -1;
static bool has_debug;
static struct buffer waiting;

static void open_named(const char *device)
{
	char path[300], name[64] = "";
	FILE *file;

	snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", device);
	file = fopen(path, "re");
	if (file && !fgets(name, sizeof(name), file))
		name[0] = 0;
	if (file)
		fclose(file);
	snprintf(path, sizeof(path), "/dev/%s", device);
	if (port < 0 && !strcmp(name, PORT_NAME "\n"))
		port = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (boot_port < 0 && !strcmp(name, BOOT_NAME "\n"))
		boot_port = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (!has_debug && !strcmp(name, DEBUG_NAME "\n")) {
		debug_use(open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC));
		has_debug = true;
	}
}

static bool has_ports(void)
{
	DIR *directory = opendir("/sys/bus/virtio/drivers/virtio_console");
	struct dirent *entry;
	bool found = false;

	while (directory && (entry = readdir(directory)))
		found |= !strncmp(entry->d_name, "virtio", 6);
	if (directory)
		closedir(directory);
	return found;
}

/* A port's device appears a moment after its driver, and the others a moment later. */
void report_open(void)
{
	for (int tries = 0, others = 0; tries < 100 && others < 10 && (!tries || has_ports()); tries++) {
		DIR *directory = opendir("/sys/class/virtio-ports");
		struct dirent *entry;
		int ports = 0, named;

		while (directory && (entry = readdir(directory)))
			if (entry->d_name[0] != '.') {
				open_named(entry->d_name);
				ports++;
			}
		if (directory)
			closedir(directory);
		named = (port >= 0) + (boot_port >= 0) + has_debug;
		if (ports && named == ports)
			return;
		others += ports > 0;
		usleep(10000);
	}
}

int report_port(void)
{
	return port;
}

int report_boot_port(void)
{
	return boot_port;
}

void report_verdict(const char *word, int status)
{
	char text[32];

	snprintf(text, sizeof(text), status < 0 ? "%s\n" : "%s %d\n", word, status);
	if (boot_port >= 0)
		(void)!write(boot_port, text, strlen(text));
}

bool report_wants_to_write(void)
{
	return port >= 0 && waiting.used;
}

void report_flush(void)
{
	ssize_t size;

	if (!report_wants_to_write())
		return;
	size = write(port, waiting.bytes, waiting.used);
	if (size > 0)
		buffer_drop(&waiting, size);
}

struct input {
	char text[LONGEST_COMMAND];
	size_t used;
};

static void receive(int from, struct input *input, void (*command)(char *line))
{
	char piece[256];
	ssize_t size = from < 0 ? 0 : read(from, piece, sizeof(piece));

	for (ssize_t at = 0; at < size; at++) {
		if (piece[at] != '\n' && input->used < LONGEST_COMMAND - 1) {
			input->text[input->used++] = piece[at];
			continue;
		}
		input->text[input->used] = 0;
		input->used = 0;
		command(input->text);
	}
}

void report_receive(void (*command)(char *line))
{
	static struct input of_port, of_boot;

	receive(port, &of_port, command);
	receive(boot_port, &of_boot, command);
}

void say(const char *format, ...)
{
	char text[LINE + 256];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(text, sizeof(text), format, arguments);
	va_end(arguments);
	dprintf(2, "%s\n", text);
}

void tell_text(const char *event, const struct container *container, const char *key, const char *text)
{
	/* If nobody listens, the last events are lost, never memory without end. */
	if (port < 0 || waiting.used > MOST_WAITING)
		return;
	json_raw(&waiting, "{");
	json_text(&waiting, "event", event);
	if (container)
		json_container(&waiting, container);
	if (key)
		json_text(&waiting, key, text);
	json_number(&waiting, "at", now());
	json_raw(&waiting, "}\n");
	report_flush();
}

void tell(const char *event, const struct container *container)
{
	tell_text(event, container, NULL, NULL);
}
